"""What `moeplan check` finds in every scenario, and docs/check.md, whose tables are made of it.

``python -m tests.support.check_document --write`` renews the tables of docs/check.md, and with ``--expect`` what the
scenario files expect: read that before you commit it.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

from moeplan.pipeline import run_plan
from planner.check import check
from planner.check_codes import CHECKS
from planner.findings import CheckReport
from planner.options import Options
from planner.plan import Plan
from tests.support.healthy_host import BENCH, HOST
from tests.support.nvml_shim.machine import Shim
from tests.support.nvml_shim.scenario import FOLDER, load, names

DOCUMENT = Path(__file__).parents[2] / "docs" / "check.md"
VERDICTS = {"go": "go", "no_go": "no-go", "undetermined": "undetermined"}


def h200_plan() -> Plan:
    """Kimi K2.5 on 8x H200 with vLLM."""
    options = Options("kimi-k2.5", gpu=("8xH200",), engine="vllm", top="1")
    return run_plan(options, exact=False, progress=None)


def report_of(shim: Shim, scenario: str, plan: Plan | None = None) -> CheckReport:
    """The check of a scenario on a host where nothing is wrong, with a benchmark of a healthy machine."""
    return check(shim.inventory(scenario, HOST), plan, bench=BENCH)


def asks(report: CheckReport) -> tuple[str, ...]:
    """Every finding that is no pass, as scenario files write it; an optional check that did not run ends in "?"."""
    return tuple(
        f"{each.status} {each.code} {each.subject}{'' if each.required or each.status != 'not_run' else ' ?'}"
        for each in report.findings
        if each.status != "pass"
    )


def document(shim: Shim, plan: Plan, text: str) -> str:
    """The document with its tables made anew."""
    checks = ["| check | passes where |", "|---|---|", *(f"| `{code}` | {what} |" for code, what in CHECKS.items())]
    rows = ["| scenario | what it is | finds | verdict | with a plan, also | verdict |", "|---|---|---|---|---|---|"]
    for name in names():
        alone, planned = report_of(shim, name), report_of(shim, name, plan)
        seen = asks(alone)
        more = tuple(each for each in asks(planned) if each not in seen)
        cells = [f"`{name}`", load(name).description, _cell(seen), VERDICTS[alone.verdict], _cell(more)]
        rows.append(f"| {' | '.join([*cells, VERDICTS[planned.verdict]])} |")
    return _replaced(_replaced(text, "checks", checks), "scenarios", rows)


def _cell(found: tuple[str, ...]) -> str:
    optional = sum(each.endswith(" ?") for each in found)
    shown = [_line(each) for each in found if not each.endswith(" ?")]
    return "<br>".join([*shown, *([f"{optional} optional not run"] if optional else [])]) or "nothing"


def _line(found: str) -> str:
    status, code, subject = found.split(" ", 2)
    return f"**{status.replace('_', ' ')}** `{code}` {subject}"


def _replaced(text: str, mark: str, lines: list[str]) -> str:
    pattern = re.compile(rf"(<!-- {mark} -->\n).*?(<!-- /{mark} -->)", re.DOTALL)
    assert pattern.search(text), f"{DOCUMENT.name} has no place for {mark}"
    body = "\n".join(lines)
    return pattern.sub(lambda found: f"{found[1]}{body}\n{found[2]}", text)


def expect(shim: Shim, plan: Plan) -> None:
    """Write into every scenario file what is found in it now."""
    for name in names():
        path = FOLDER / f"{name}.toml"
        text = re.sub(r"^(?:plan_)?findings = \[.*?\]\n", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
        head, separator, rest = text.partition("\n\n")
        lists = [
            _toml("findings", asks(report_of(shim, name))),
            _toml("plan_findings", asks(report_of(shim, name, plan))),
        ]
        path.write_text("\n".join([head.rstrip("\n"), *lists]) + (separator + rest if separator else "\n"))


def _toml(key: str, found: tuple[str, ...]) -> str:
    rows = "".join(f'\n    "{each}",' for each in found)
    return f"{key} = [{rows}\n]" if found else f"{key} = []"


def main() -> None:
    """Renew what the arguments name."""
    shim = Shim(Path(tempfile.mkdtemp()))
    plan = h200_plan()
    if "--expect" in sys.argv:
        expect(shim, plan)
        load.cache_clear()
    if "--write" in sys.argv:
        DOCUMENT.write_text(document(shim, plan, DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
