"""``moeplan grid``: every cell is the plan of its model, machine and workload."""

from __future__ import annotations

import json

import pytest

from moeplan.cli import main
from moeplan.pipeline import run_plan
from planner.options import Options


def test_every_cell_is_the_plan_of_its_question(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("kimi-k2.5", "qwen3-235b-a22b")
    machines = ("8xH200", "8xH100 --nodes 2 --ram 2TiB")
    flags = ("--workload", "chat", "--workload", "rag", "--tpot", "1s", "--json")
    code = main(["grid", *asked, "--machine", machines[0], "--machine", machines[1], *flags])
    grid = json.loads(capsys.readouterr().out)
    rows = [(cell["model"], cell["machine"], cell["workload"]) for cell in grid["cells"]]
    assert rows == [(model, machine, work) for model in asked for machine in machines for work in ("chat", "rag")]
    assert code == (0 if all(cell["verdict"] == "fits" for cell in grid["cells"]) else 1)
    options = Options(asked[1], gpu=("8xH100",), nodes="2", ram="2TiB", workload="rag", tpot="1s")
    best = run_plan(options, exact=False, progress=None).candidates[0]
    cell = grid["cells"][-1]
    assert cell["best"]["engine"] == best.engine.name
    assert cell["best"]["parallel"] == best.parallel.model_dump()
    assert cell["best"]["tpot_s"] == best.performance.tpot_s.model_dump()
    assert cell["why"] == best.why


def test_a_question_that_is_wrong_for_one_model_spoils_no_other_cell(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["grid", "kimi-k2.5", "deepseek-r1", "--machine", "8xH200", "--context", "200k", "--json"]
    assert main(argv) == 1
    good, bad = json.loads(capsys.readouterr().out)["cells"]
    assert (good["verdict"], bad["verdict"], bad["best"]) == ("fits", "refused", None)
    assert "--context" in bad["why"]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("kimi-k2.5",), "--machine or --inventory: at least one is needed"),
        (("kimi-k2.5", "--machine", "8xH999"), "unknown GPU 'H999'"),
        (("kimi-k2.5", "--machine", "8xH200 --nodez 2"), "did you mean --nodes?"),
        (("kimi-k2.5", "--machine", ""), "write 8xH200"),
        (("kimi-k2.5", "--machine", "8xH200 --ram '2"), "No closing quotation"),
        (("kimi-k2.5", "--machine", "8xH200", "--on", "slurm"), "here and ray are"),
        (("kimi-k9", "--machine", "8xH200"), "kimi-k9"),
    ],
)
def test_bad_input_is_one_line(argv: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["grid", *argv]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert err.count("\n") == 1
