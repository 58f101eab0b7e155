"""``moeplan observe`` from outside, and the calibration that it keeps."""

from __future__ import annotations

import contextlib
import io
import json
import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from moeplan import calibration, observing
from moeplan.calibration import MAX_STARTUPS, Calibration, Startup, fingerprint, store
from moeplan.cli import main
from moeplan.cli.schema import FOLDER
from planner.errors import BadRequest
from planner.hardware import describe
from planner.options import Options
from tests.hwdetect.serving.test_llamacpp_log import TWO_GPUS
from tests.hwdetect.serving.test_sglang_log import KIMI
from tests.hwdetect.serving.test_vllm_log import LLAMA_19
from tests.support.gguf_models import LlamaSpec, uniform
from tests.support.gguf_writer import write_gguf
from tests.support.llama_server import server_log

CONFIGS = Path(__file__).parents[1] / "profiles" / "data" / "configs"
LLAMA_8B = str(CONFIGS / "Meta-Llama-3.1-8B.json")


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's data folder."""
    folder = tmp_path / "data"
    monkeypatch.setenv("XDG_DATA_HOME", str(folder))
    return folder / "moeplan" / "calibrations"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log of vLLM 0.19."""
    path = tmp_path / "vllm.log"
    path.write_text(LLAMA_19, encoding="utf-8")
    return path


def call(*argv: object) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["observe", *map(str, argv)])
    return code, out.getvalue(), err.getvalue()


def report(*argv: object) -> dict[str, Any]:
    """The JSON, valid by its schema."""
    _, out, _ = call(*argv, "--json")
    value: dict[str, Any] = json.loads(out)
    Draft202012Validator(json.loads((FOLDER / "observation.json").read_text(encoding="utf-8"))).validate(value)
    return value


def rows(value: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["term"]: row for row in value["comparison"]["rows"]}


def test_a_start_as_predicted_is_zero(log: Path) -> None:
    code, out, err = call(log, LLAMA_8B, "--gpu", "H100")
    assert (code, err) == (0, "")
    assert "The prediction holds in 7 terms." in out
    assert "local/bf16" in out
    assert max(len(line) for line in out.splitlines()) <= 100


def test_a_start_that_is_not_as_predicted_is_one_and_says_where(log: Path) -> None:
    code, out, _ = call(log, LLAMA_8B, "--gpu", "H200")
    assert code == 1
    assert "The prediction differs. Beyond its range: KV cache by -" in out
    assert "engine sees by -60." in out


def test_the_configuration_is_that_of_the_log(log: Path) -> None:
    value = report(log, LLAMA_8B, "--gpu", "H100")
    assert value["settings"] == {
        "gpu": ["H100"], "engine": "vllm", "engine_version": "0.19.0", "gpu_memory_utilization": "0.95",
        "max_model_len": "16384", "max_num_batched_tokens": "8192", "max_num_seqs": "1024",
    }  # fmt: skip
    assert value["log"]["bytes"] == value["log"]["read_bytes"] == len(LLAMA_19.encode())
    assert value["comparison"]["verdict"] == "holds"


def test_measured_figures_have_the_names_of_the_accuracy_table(log: Path) -> None:
    """The published row of this very start-up."""
    facts = json.loads((CONFIGS.parents[3] / "profiles" / "measured" / "memory.json").read_text(encoding="utf-8"))
    published = next(row for row in facts if "llama-3-1-8b" in row["id"] and row.get("max_model_len") == 16384)
    measured = report(log, LLAMA_8B, "--gpu", "H100")["measured"]
    assert set(measured) == {
        "total_gib", "weights_gib", "torch_peak_increase_gib", "non_torch_forward_gib", "cuda_graph_actual_gib",
        "cuda_graph_estimated_gib", "available_kv_cache_gib", "gpu_kv_cache_tokens",
    }  # fmt: skip
    assert {name: published["measured"][name] for name in measured} == measured


def test_a_repository_and_the_folder_of_a_built_in_model_are_recognised(tmp_path: Path) -> None:
    path = tmp_path / "sglang.log"
    for name in (
        "moonshotai/Kimi-K2.5",
        "/models/Kimi-K2.5/",
        "/root/.cache/huggingface/hub/models--moonshotai--Kimi-K2.5/snapshots/0123abc",
    ):
        path.write_text(KIMI.replace("moonshotai/Kimi-K2.5", name))
        value = report(path, "--gpu", "8xMI355X")
        assert value["comparison"]["model"] == "kimi-k2.5"
        assert value["comparison"]["quantization"] == "moonshotai/int4"
        assert rows(value)["kv_bytes_per_token"]["verdict"] == "holds"
    other = KIMI.replace("'moonshotai/Kimi-K2.5'", "'nvidia/Kimi-K2.5-NVFP4'")
    path.write_text(other)
    assert report(path, "--gpu", "8xB200")["comparison"]["quantization"] == "nvidia/nvfp4"


def test_flags_are_preferred_to_the_log_and_said(log: Path) -> None:
    _, out, err = call(log, LLAMA_8B, "--gpu", "H100", "--max-num-seqs", "256", "--engine-version", "0.20", "--json")
    value = json.loads(out)
    assert (value["settings"]["max_num_seqs"], value["settings"]["engine_version"]) == ("256", "0.20")
    assert "moeplan: note: --max-num-seqs 256 is used; the log says 1024\n" in err


def test_what_moves_memory_unseen_is_said(log: Path) -> None:
    log.write_text(LLAMA_19.replace("'enable_prefix_caching'", "'enable_eplb': True, 'enable_prefix_caching'"))
    assert (
        "enable_eplb is set and moves memory that the prediction leaves out"
        in report(log, LLAMA_8B, "--gpu", "H100")["notes"]
    )


def test_a_real_llama_server_is_as_predicted(tmp_path: Path) -> None:
    """The program's estimate of a model, and what llama.cpp printed when it loaded that model."""
    spec = LlamaSpec(
        name="small", vocabulary=4096, hidden=1024, layers=4, heads=8, context=8192, mixture=uniform("q8_0"),
        kv_heads=2, head=128, ffn=2048, tokenizer="gpt2",
    )  # fmt: skip
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 4096, "hidden_size": 1024,
        "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 128,
        "intermediate_size": 2048, "max_position_embeddings": 8192, "torch_dtype": "float16",
        "tie_word_embeddings": False,
    }  # fmt: skip
    gguf, log = tmp_path / "small.gguf", tmp_path / "server.log"
    write_gguf(gguf, spec)
    (tmp_path / "config.json").write_text(json.dumps(config))
    log.write_bytes(server_log(gguf, n_ctx=4096, n_parallel=1, n_batch=1024, n_ubatch=256))
    value = report(log, tmp_path / "config.json", "--gpu", "none", "--ram", "8GiB")
    found = rows(value)
    assert {term: row["verdict"] for term, row in found.items()} == dict.fromkeys(
        ("weights", "compute_in_ram", "outputs", "kv_cache", "kv_tokens", "kv_bytes_per_token"), "holds"
    )
    assert found["kv_cache"]["observed"] == 4 * 4096 * 2 * 2 * 128 * 2
    assert value["settings"]["quant"] == "Q8_0"
    assert value["comparison"]["start"] == {
        "predicted": "fits", "observed": "started", "reason": "", "verdict": "holds",
    }  # fmt: skip


def test_json_imports_nothing_that_draws(log: Path) -> None:
    code = (
        "import sys; from moeplan.cli import main; main(sys.argv[1:]); "
        "print(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    argv = [sys.executable, "-c", code, "observe", str(log), LLAMA_8B, "--gpu", "H100", "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, cwd=CONFIGS.parents[3], check=True)
    assert json.loads(done.stdout)["schema"] == "moeplan.observation/1"
    assert {"rich", "textual", "plotly"}.isdisjoint(done.stderr.splitlines()[-1].split())


BAD = [
    (("/nowhere/x.log",), "/nowhere/x.log: No such file or directory"),
    (("/dev/zero",), "/dev/zero: not a regular file"),
    ((".",), ".: not a regular file"),
    (("LOG",), "this machine has no GPU: describe the machine of the log, such as --gpu 1xH200"),
    (("LOG", LLAMA_8B, "--gpu", "none"), "the machine described has no GPU"),
    (("LOG", "no-such-model", "--gpu", "H100"), "unknown model 'no-such-model'"),
    (("LOG", LLAMA_8B, "--gpu", "H100", "--engine", "sglang"), "--engine sglang: the log is of vllm"),
    (("LOG", LLAMA_8B, "--gpu", "H100", "--tp", "4"), "nothing is predicted for this configuration: tp 4"),
    (("LOG", LLAMA_8B, "--gpu", "H100", "--max-num-seqs", "-3"), "--max-num-seqs: '-3' is not a number"),
    (("LOG", LLAMA_8B, "--gpu", "H100", "--calibration", "/nowhere/c.json"), "--calibration /nowhere/c.json: "),
    (("LOG", LLAMA_8B, "--gpu", "H100", "--calibration", "/dev/null"), "--calibration /dev/null: not a regular file"),
    (("LOG", LLAMA_8B, "--gpu", "H100", "--calibration", "LOG"), ": not a moeplan.calibration/1"),
    ((), "moeplan observe: error: LOG is missing; see moeplan observe --help"),
]


@pytest.mark.parametrize(("argv", "message"), BAD, ids=[message[:30] for _, message in BAD])
def test_bad_input_is_one_line_and_two(
    argv: tuple[str, ...], message: str, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hwdetect.detect.detect", lambda: describe(Options("x", gpu=("none",))))
    model = [] if len(argv) != 1 or argv[0] != "LOG" else [LLAMA_8B]
    code, out, err = call(*(str(log) if argument == "LOG" else argument for argument in argv), *model)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert log.read_text(encoding="utf-8") == LLAMA_19


def test_the_model_of_a_log_may_be_unknown(log: Path) -> None:
    log.write_text(LLAMA_19.replace("meta-llama/Llama-3.1-8B", "someone/Other-8B"), encoding="utf-8")
    code, out, err = call(str(log), "--gpu", "H100")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "the log's model 'someone/Other-8B-Instruct' is not one that is known: give MODEL" in err


def test_a_log_without_a_start_is_three(tmp_path: Path, data: Path) -> None:
    path = tmp_path / "x.log"
    path.write_text("INFO: all is well\n" * 10)
    code, out, err = call(path, "--gpu", "H100")
    assert (code, out, err.count("\n")) == (3, "", 1)
    assert "no start-up of vLLM, SGLang or llama.cpp is in it" in err
    path.write_text("")
    assert call(path)[0] == 3
    assert not data.exists()


def test_a_binary_and_a_pipe_are_no_logs(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF\x03\0\0\0" * 100)
    code, _, err = call(path)
    assert (code, err.count("\n")) == (2, 1)
    assert "not a text log: it holds zero bytes" in err
    os.mkfifo(tmp_path / "pipe")
    began = time.monotonic()
    assert call(tmp_path / "pipe")[0] == 2
    assert time.monotonic() - began < 5


def test_of_an_endless_log_the_beginning_is_read(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """100 MB of requests after the start; the file is sparse, so only its size is that large."""
    monkeypatch.setattr(observing, "MAX_LOG_BYTES", 2 << 20)
    with log.open("ab") as file:
        file.truncate(100 << 20)
    text = log.read_bytes()[: 3 << 20].replace(b"\0", b".")
    log.write_bytes(text)
    with log.open("ab") as file:
        file.truncate(100 << 20)
    value = report(log, LLAMA_8B, "--gpu", "H100")
    assert value["log"]["read_bytes"] == 2 << 20
    assert value["log"]["bytes"] == 100 << 20
    assert value["comparison"]["verdict"] == "holds"
    assert "only the first 2 MiB of the log were read" in value["notes"]


def test_control_characters_do_not_reach_the_terminal(log: Path) -> None:
    log.write_text(LLAMA_19.replace("meta-llama/Llama-3.1-8B-Instruct", "a\x1b]0;x\x07b\u202e"), encoding="utf-8")
    for argv in ((log, "--gpu", "H100"), (log, LLAMA_8B, "--gpu", "H100")):
        _, out, err = call(*argv)
        assert all(line.isprintable() for line in (out + err).splitlines())


def test_two_gpus_of_a_consumer_machine(tmp_path: Path) -> None:
    path = tmp_path / "ik.log"
    path.write_text(TWO_GPUS)
    value = report(
        path, "deepseek-r1", "--gpu", "2xRTX4090", "--ram", "512GiB", "--quant", "UD-Q2_K_XL", "--n-cpu-moe", "60"
    )
    assert value["comparison"]["engine"] == "llama.cpp"
    assert rows(value)["kv_bytes_per_token"]["verdict"] == "holds"
    assert rows(value)["compute_on_gpu"]["observed"] == pytest.approx(4176.03 * (1 << 20), abs=2)


# What is kept.


def stored(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    Draft202012Validator(json.loads((FOLDER / "calibration.json").read_text(encoding="utf-8"))).validate(value)
    return value


def test_a_measurement_is_kept_by_machine(log: Path, data: Path) -> None:
    value = report(log, LLAMA_8B, "--gpu", "H100")
    (path,) = data.glob("*.json")
    assert value["calibration"] == str(path)
    kept = stored(path)
    assert (kept["schema"], kept["fingerprint"]) == ("moeplan.calibration/1", path.stem)
    assert kept["machine"] == "1x h100-sxm-80"
    (startup,) = kept["startups"]
    assert startup["log_sha256"] == value["log"]["sha256"]
    assert startup["rows"] == value["comparison"]["rows"]
    assert (startup["engine"], startup["engine_version"], startup["verdict"]) == ("vllm", "0.19.0", "holds")
    # The same log again is the same measurement; other settings or another machine are not.
    call(log, LLAMA_8B, "--gpu", "H100")
    assert len(stored(path)["startups"]) == 1
    call(log, LLAMA_8B, "--gpu", "H100", "--max-num-seqs", "256")
    assert len(stored(path)["startups"]) == 2
    call(log, LLAMA_8B, "--gpu", "H200")
    assert len(list(data.glob("*.json"))) == 2


def test_nothing_is_kept_where_that_is_asked(log: Path, data: Path) -> None:
    assert call(log, LLAMA_8B, "--gpu", "H100", "--calibration", "none")[0] == 0
    assert not data.exists()


def test_a_file_of_ones_own(log: Path, data: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    assert call(log, LLAMA_8B, "--gpu", "H100", "--calibration", path)[0] == 0
    assert len(stored(path)["startups"]) == 1
    assert not data.exists()
    code, _, err = call(log, LLAMA_8B, "--gpu", "H200", "--calibration", path)
    assert code == 2
    assert "it is of another machine, 1x h100-sxm-80" in err


def test_a_folder_that_cannot_be_written_does_not_hide_the_answer(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("")
    monkeypatch.setenv("XDG_DATA_HOME", str(blocked))
    code, out, _ = call(log, LLAMA_8B, "--gpu", "H100")
    assert code == 0
    assert "not stored: --calibration" in out
    assert "stored in" not in out


def startup(number: int) -> Startup:
    return Startup(
        observed_at=calibration.now(), log_sha256=f"{number:064x}", engine="vllm", engine_version="0.33.0", model="m",
        quantization="q", settings={}, verdict="holds", rows=(),
    )  # fmt: skip


def test_writers_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "c.json"

    def write(number: int) -> None:
        store(path, startup(number), machine="m", description="d", generated_by="g")

    threads = [threading.Thread(target=write, args=(number,)) for number in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {one["log_sha256"] for one in stored(path)["startups"]} == {f"{number:064x}" for number in range(24)}
    assert {entry.name for entry in tmp_path.iterdir()} == {"c.json", ".c.json.lock"}


def test_the_oldest_goes_first_and_other_sections_stay(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    kept = Calibration(
        schema="moeplan.calibration/1",
        generated_by="g",
        fingerprint="m",
        machine="d",
        startups=tuple(startup(number) for number in range(MAX_STARTUPS)),
    )
    path.write_text(json.dumps({**json.loads(kept.model_dump_json(by_alias=True)), "a_later_section": [1, 2]}))
    store(path, startup(MAX_STARTUPS), machine="m", description="d", generated_by="g")
    value = stored(path)
    assert value["a_later_section"] == [1, 2]
    digests = [one["log_sha256"] for one in value["startups"]]
    assert (len(digests), digests[0], digests[-1]) == (MAX_STARTUPS, f"{1:064x}", f"{MAX_STARTUPS:064x}")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": "moeplan.plan/1"}', "[" * 100_000, "\xff"])
def test_what_is_no_calibration_is_not_overwritten(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(BadRequest, match=r"not a moeplan\.calibration/1"):
        store(path, startup(1), machine="m", description="d", generated_by="g")
    assert path.read_text(encoding="latin-1") == text


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    store(path, startup(0), machine="m", description="d", generated_by="g")
    before = path.stat().st_ino
    store(path, startup(1), machine="m", description="d", generated_by="g")
    assert path.stat().st_ino != before
    assert stat.S_ISREG(path.stat().st_mode)


def test_a_fingerprint_is_what_a_machine_is() -> None:
    def of(**given: Any) -> str:  # noqa: ANN401
        return fingerprint(describe(Options("x", **given)))

    assert len(of(gpu=("8xH200",))) == 16
    assert of(gpu=("8xH200",)) == of(gpu=("8xh200",))
    assert len({of(gpu=("8xH200",)), of(gpu=("4xH200",)), of(gpu=("8xH100",)), of(gpu=("8xH200",), nodes="2")}) == 4
    assert of(gpu=("8xH200",), ram="512GiB") != of(gpu=("8xH200",), ram="1TiB")
