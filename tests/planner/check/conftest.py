"""Scenarios under the check, and a plan for the machine that most of them are."""

from __future__ import annotations

import pytest

from planner.plan import Plan
from tests.support.check_document import h200_plan


@pytest.fixture(scope="session")
def plan() -> Plan:
    """Kimi K2.5 on 8x H200 with vLLM."""
    return h200_plan()
