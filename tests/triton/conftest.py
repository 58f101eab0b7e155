"""Torch and Triton are installed by tests/triton/run alone; without it nothing here is collected."""

from __future__ import annotations

import os

collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["*"]
