"""A real browser, and the pages of real plans; without MOEPLAN_BROWSER nothing here is collected."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from moeplan.api import estimate, plan
from moeplan.report import report_html
from planner.check import check
from planner.plan import Plan
from tests.support.browser import Browser, chromium
from tests.support.healthy_host import HOST
from tests.support.nvml_shim.machine import Shim

collect_ignore_glob = [] if os.environ.get("MOEPLAN_BROWSER") else ["*"]

PLANS: dict[str, Callable[[], Plan]] = {
    "server": lambda: plan("kimi-k2.5", gpu=["8xH200"]),
    "desktop": lambda: plan("kimi-k2.5", gpu=["rtx4090"], ram="256GiB", disk="2TB@7GB/s"),
    "nodes": lambda: plan("kimi-k2.5", gpu=["8xH100"], nodes="2", network="400Gb/s"),
    "swarm": lambda: plan("kimi-k2.5", gpu=["8xH200"], workload="agent-swarm", simulate=True, top="3"),
    "nothing": lambda: plan("kimi-k2.5", gpu=["2xT4"], ram="32GiB"),
    "short": lambda: estimate("kimi-k2.5", gpu=["8xA100-80"], engine="vllm", tp="8"),
}
WITHOUT_CHARTS = ("nothing",)
planned = cache(lambda name: PLANS[name]())


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("chromium")) as found:
        yield found


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory, shim: Shim) -> Callable[[str], Path]:
    """The page of a plan by its name; that of the server holds a check too."""
    folder = tmp_path_factory.mktemp("pages")

    def write(name: str) -> Path:
        path = folder / f"{name}.html"
        if not path.exists():
            checked = check(shim.inventory("h200x8", HOST), planned(name)) if name == "server" else None
            path.write_text(report_html(planned(name), check=checked))
        return path

    return write


@pytest.fixture(scope="session")
def axe() -> str:
    """The source of axe-core."""
    return (Path(os.environ["MOEPLAN_BROWSER"]) / "node_modules/axe-core/axe.min.js").read_text(encoding="utf-8")
