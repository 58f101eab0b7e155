"""``recommend``, ``cost`` and ``memory --quality`` as typed: codes, one-line refusals, tables and JSON alike."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from moeplan.api import plan as planned
from moeplan.cli import main
from moeplan.cli.schema import FOLDER

TARGET = ["recommend", "kimi-k2.5", "--concurrency", "1", "--context", "32k"]


@pytest.fixture(scope="module")
def plan_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cost") / "plan.json"
    path.write_text(planned("kimi-k2.5", gpu=["8xH200"], ram="2TiB", concurrency=50).to_json())
    return path


def answered(capsys: pytest.CaptureFixture[str], *argv: str, code: int = 0, schema: str) -> dict[str, object]:
    assert main([*argv, "--json"]) == code
    value: dict[str, object] = json.loads(capsys.readouterr().out)
    jsonschema.validate(value, json.loads((FOLDER / f"{schema}.json").read_text()))
    return value


def test_a_recommendation_as_json_and_as_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    argv = [*TARGET, "--have", "1xRTX4090 --ram 256GiB --cpu desktop-ddr5-am5 --cores 16"]
    value = answered(capsys, *argv, schema="recommend")
    assert value["rent"] and value["buy"] and value["api"] and value["have"]
    assert main(argv) == 0
    told = capsys.readouterr().out
    for title in (
        "Rent, cheapest first", "Rent 1: ", "Buy, cheapest first", "Buy 1: ", "The machine at hand",
        "reported to end on",
    ):  # fmt: skip
        assert title in told


def test_tokens_per_s_is_the_inverse_of_tpot(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["recommend", "kimi-k2.5", "--tokens-per-s", "1e6"]
    value = answered(capsys, *argv, code=1, schema="recommend")
    target = value["target"]
    assert isinstance(target, dict) and target["tpot_s"] == pytest.approx(1e-6)


@pytest.mark.parametrize(
    "narrow",
    [
        [],
        ["--engine", "sglang"],
        ["--quant", "UD-Q2_K_XL"],
        ["--engine", "vllm", "--kv-dtype", "fp8", "--tp", "8"],
        ["--max-kld", "0.05", "--quality-suite", "thireus-kimi-k2.5", "--min-throughput", "100", "--images", "1"],
    ],
    ids=lambda narrow: " ".join(narrow) or "not narrowed",
)
def test_every_printed_command_plans_the_row_that_it_stands_in(
    capsys: pytest.CaptureFixture[str], narrow: list[str]
) -> None:
    argv = ["recommend", "kimi-k2.5", "--concurrency", "8", "--tokens-per-s", "15", *narrow]
    value = answered(capsys, *argv, schema="recommend")
    ways = [*value["rent"], *value["buy"]]  # type: ignore[misc]
    assert ways
    for way in ways:
        row = way["candidate"]
        code = 0 if way["verdict"] == "fits" else 1
        again = answered(capsys, "plan", "kimi-k2.5", *way["plan_flags"], code=code, schema="plan")
        first = again["candidates"][0]  # type: ignore[index]
        same = ("engine", "quantization", "parallel", "offload", "verdict", "kv_cache", "performance", "launch")
        assert {key: first[key] for key in same} == {key: row[key] for key in same}, way["name"]


@pytest.mark.parametrize(
    ("machine", "said"),
    [
        ("1xFOO", "--have: unknown GPU 'FOO'"),
        ("1xA100", "--have: GPU 'A100' is not clear"),
        ("1xRTX4090 --ram 256XB", "--have: --ram: '256XB' is not a size"),
        ("", "--have '': write 8xH200"),
    ],
)
def test_a_bad_machine_at_hand_names_the_flag_that_was_given(
    capsys: pytest.CaptureFixture[str], machine: str, said: str
) -> None:
    assert main(["recommend", "kimi-k2.5", "--have", machine]) == 2
    told = capsys.readouterr()
    assert told.out == "" and len(told.err.splitlines()) == 1
    assert told.err.startswith(f"moeplan: {said}") and "--gpu" not in told.err


def test_a_cost_as_json_and_as_a_table(plan_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["cost", str(plan_file), "--tokens-per-month", "1e8", "--electricity", "0.15"]
    value = answered(capsys, *argv, schema="cost")
    assert value["verdict"] == "api"
    assert main(argv) == 0
    told = capsys.readouterr().out
    assert "the API is the sensible choice" in told and "2026-12-31" in told


def test_own_prices_replace_those_of_the_same_offer(
    plan_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prices = tmp_path / "prices.toml"
    prices.write_text(
        '[[api]]\nprovider = "DeepInfra"\nmodel = "kimi-k2.5"\nusd_per_million_input_tokens = 50\n'
        'usd_per_million_output_tokens = 90\ndate = 2026-11-01\nsource = "an offer"\n'
    )
    value = answered(capsys, "cost", str(plan_file), "--prices", str(prices), schema="cost")
    api = value["api"]
    assert isinstance(api, list)
    rows = {row["provider"]: row["usd_per_million_input_tokens"] for row in api}
    assert rows["DeepInfra"] == 50 and rows["Together"] == 0.5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[nonsense]]\n", "is no section"),
        ("= 3", "not TOML"),
        ('[[api]]\nprovider = "x"\n', "lacks usd_per_million_input_tokens"),
        (
            '[[cloud]]\nprovider = "x"\nusd_per_gpu_hour = "3"\nkind = "on-demand"\nsource = "s"\n',
            "usd_per_gpu_hour is no price",
        ),
        ("api = 3", "write it as [[api]]"),
        ("", "no prices"),
    ],
)
def test_bad_prices_are_one_line(
    plan_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    prices = tmp_path / "prices.toml"
    prices.write_text(text)
    for argv in (["cost", str(plan_file)], TARGET):
        assert main([*argv, "--prices", str(prices)]) == 2
        told = capsys.readouterr()
        assert said in told.err and len(told.err.splitlines()) == 1 and told.out == ""


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--tokens-per-month", "-3"], "--tokens-per-month"),
        (["--utilization", "2"], "--utilization"),
        (["--utilization", "0.5", "--tokens-per-month", "1e9"], "cannot be combined"),
        (["--cached-share", "1.5"], "--cached-share"),
        (["--rank", "999"], "--rank"),
        (["--electricity", "x"], "--electricity"),
    ],
)
def test_bad_assumptions_are_one_line(
    plan_file: Path, capsys: pytest.CaptureFixture[str], argv: list[str], said: str
) -> None:
    assert main(["cost", str(plan_file), *argv]) == 2
    told = capsys.readouterr()
    assert said in told.err and len(told.err.splitlines()) == 1 and told.out == ""


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("candidates", 0, "performance", "ttft_s"), {"low": 0.0, "expected": 0.0, "high": 0.0}, "above zero"),
        (("candidates", 0, "performance", "tpot_s"), {"low": 0.2, "expected": 0.1, "high": 0.3}, "low <= expected"),
        (("workload", "prefix_cache_hit_rate"), 2.0, "less than or equal to 1"),
        (("workload", "output_tokens"), 0, "greater than or equal to 1"),
        (("candidates", 0, "memory", "devices", 0, "index"), -9, "greater than or equal to 0"),
    ],
)
def test_a_plan_with_impossible_values_is_one_line(
    plan_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], place: tuple[str | int, ...], value: object,
    said: str,
) -> None:  # fmt: skip
    plan = json.loads(plan_file.read_text())
    inner = plan
    for part in place[:-1]:
        inner = inner[part]
    inner[place[-1]] = value
    path = tmp_path / "impossible.json"
    path.write_text(json.dumps(plan))
    for command in ("cost", "launch"):
        assert main([command, str(path)]) == 2
        told = capsys.readouterr()
        assert told.out == "" and len(told.err.splitlines()) == 1
        assert ".".join(map(str, place)) in told.err and said in told.err and "Value error" not in told.err


def test_a_machine_without_any_price_is_undetermined(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "plan.json"
    path.write_text(planned("llama-3.1-70b", gpu=["8xH20"], context=8192).to_json())
    assert main(["cost", str(path)]) == 3
    assert "--prices FILE" in capsys.readouterr().err


def test_quality_is_shown_suite_by_suite(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["memory", "kimi-k2.5", "--quality"]) == 0
    told = capsys.readouterr().out
    assert "whose loss is 0 by definition" in told and "thireus-kimi-k2.5: kld, lower is better" in told
    value = answered(capsys, "memory", "kimi-k2.5", "--quality", schema="memory")
    assert value["quality"]
