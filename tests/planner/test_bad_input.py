"""Whatever is asked, the answer is a plan, or one line that says what is wrong: never a traceback."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moeplan import estimate, memory, plan
from planner.errors import BadRequest, Undetermined
from planner.options import Options

SENSIBLE: dict[str, tuple[str | int | float | bool, ...]] = {
    "nodes": (1, 2, 3, "0", "4097"),
    "mm_encoder_tp_mode": ("data", "weights", "pipeline"),
    "max_loras": (1, 8, "0"),
    "max_lora_rank": (16, 128, "17"),
    "cpu_offload_gb": (10, "0.5", "-1", "ten"),
    "speculative": ("mtp", "eagle3", "medusa"),
    "speculative_tokens": (1, 3, "0"),
    "calibration": ("none", "auto", "/no/such/file"),
    "ram": ("64GiB", "512GB", "2TiB", "12", "1EiB"),
    "ram_bandwidth": ("400GB/s", "1Gb/s", "fast"),
    "cpu": ("2xepyc-9004", "xeon-6", "pentium"),
    "cores": (1, 64, "none"),
    "disk": ("2TB", "300GB@7GB/s", "@"),
    "link": ("nvlink", "pcie3", "pcie5", "usb"),
    "network": ("400Gb/s", "400"),
    "context": ("8k", "256k", "1m", 1, "33", "0", "32.768"),
    "concurrency": (1, 64, 10_000_000, "0"),
    "input_tokens": (1, 4096, "200k", "x"),
    "output_tokens": (1, 1024, "200k", "-1"),
    "images": (0, 3, "many"),
    "workload": ("chat", "batch", "agent-swarm", "games"),
    "ttft": ("2s", "1ms", "1"),
    "tpot": ("50ms", "1us", "soon"),
    "min_throughput": ("500", "1e9", "nan"),
    "max_kld": ("0.05", "x"),
    "quality_suite": ("thireus-kimi-k2.5", "none"),
    "engine": ("vllm", "sglang", "llama.cpp", "ktransformers", "ollama"),
    "engine_version": ("0.18", "0.5.6", "0.0", "999", "new"),
    "quant": ("int4", "fp16", "nvfp4", "Q8_0", "unsloth/UD-Q2_K_XL", "Q5_0", "mlx", "moonshotai/Kimi-K2.5", "q"),
    "kv_dtype": ("bf16", "fp16", "fp8", "q8_0", "q4_0", "iq4_nl", "nvfp4", "fp8_ds_mla", "f32", "x"),
    "tp": (1, 2, 3, 8, 16, 64, 4096, "0"),
    "pp": (1, 2, 3, 61, 62, "x"),
    "dp": (1, 2, 3, 8, 16),
    "ep": (1, 3, 8, 16),
    "dcp": (1, 2, 3, 8),
    "objective": ("balanced", "cost", "quality", "latency", "context", "throughput", "fun"),
    "top": (1, 3, 1000, "0"),
    "gpu_memory_utilization": (0.5, 0.95, 1, "0.0001", "1.5"),
    "max_model_len": (8192, "256k", 1, "300k"),
    "max_num_batched_tokens": (1, 8192, "1m", "1g"),
    "max_num_seqs": (1, 256, "1m", "0"),
    "batch": (1, 2048, "x"),
    "ubatch": (1, 512, 4096, "x"),
    "cache_type_k": ("f16", "q8_0", "fp8", "x"),
    "cache_type_v": ("f16", "q4_0", "fp8_ds_mla"),
    "sequences": (1, 7, 100_000, "0"),
    "flash_attention": ("on", "off", "auto"),
    "n_cpu_moe": (0, 10, 100_000, "-1"),
    "text_only": (True, False, "yes"),
    "kv_unified": (True, False),
    "enforce_eager": (True, False),
    "simulate": (True, False),
    "arrival_rate": (1, "0.5", "0", "often"),
    "length_variation": (0, "0.5", "-1"),
    "routing": ("uniform", "power_law", "zipf"),
    "accept_length": (1, 2.6, "0", "many"),
}
MODELS = ("kimi-k2.5", "K2.5", "deepseek-r1", "qwen3-235b-a22b", "llama-3.1-70b", "gpt-2", "")
GPUS = (
    "8xH200",
    "8xH100",
    "2xrtx-4090",
    "8xA100-80",
    "8xMI300X",
    "m3-ultra",
    "none",
    "V100",
    "8xgaudi2",
    "4xL40S",
    "x",
)
CALLS: dict[str, Callable[..., Any]] = {"plan": plan, "estimate": estimate, "memory": memory}


def test_every_option_is_tried() -> None:
    assert set(SENSIBLE) == {field.name for field in fields(Options)} - {"model", "gpu", "inventory"}


@st.composite
def requests(draw: st.DrawFn) -> dict[str, Any]:
    """A GPU, so that nothing is detected, and a few options, most of them as a person might type them."""
    names = draw(st.lists(st.sampled_from(sorted(SENSIBLE)), max_size=5, unique=True))
    given: dict[str, Any] = {
        name: draw(st.one_of(*[st.sampled_from(SENSIBLE[name])] * 4, st.text(max_size=12))) for name in names
    }
    given["gpu"] = draw(
        st.one_of(
            *[st.sampled_from(GPUS)] * 6, st.lists(st.sampled_from(GPUS), max_size=2, min_size=1), st.text(max_size=8)
        )
    )
    return given


def ask(call: str, model: str, given: dict[str, Any]) -> None:
    try:
        answer = CALLS[call](model, **given)
    except (BadRequest, Undetermined) as error:
        assert str(error).isprintable()
        assert 0 < len(str(error)) < 1000
        return
    answer.to_json()
    if call != "memory":
        assert answer.candidates or answer.rejected
        for rejection in answer.rejected:
            assert rejection.reason.isprintable() and rejection.remedy.isprintable()


SLOW = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@settings(SLOW, max_examples=250)
@given(model=st.sampled_from(MODELS), given=requests())
def test_an_estimate_answers_or_complains(model: str, given: dict[str, Any]) -> None:
    ask("estimate", model, given)


@settings(SLOW, max_examples=60)
@given(model=st.sampled_from(MODELS), given=requests())
def test_a_plan_answers_or_complains(model: str, given: dict[str, Any]) -> None:
    ask("plan", model, given)


@settings(SLOW, max_examples=60)
@given(model=st.sampled_from(MODELS), given=requests())
def test_the_calculator_answers_or_complains(model: str, given: dict[str, Any]) -> None:
    ask("memory", model, given)


@settings(SLOW, max_examples=50)
@given(model=st.text(max_size=30), call=st.sampled_from(sorted(CALLS)))
def test_any_text_as_a_model(model: str, call: str) -> None:
    ask(call, model, {"gpu": "8xH200"})


@pytest.mark.parametrize("engine", ["vllm", "sglang", "llama.cpp", "ktransformers"])
@pytest.mark.parametrize("option", sorted(SENSIBLE))
def test_one_odd_value_at_a_time(engine: str, option: str) -> None:
    quant = {"quant": "Q4_X"} if engine == "llama.cpp" else {}
    for value in SENSIBLE[option]:
        ask("estimate", "kimi-k2.5", {"gpu": "8xH200", "ram": "1TiB", "engine": engine, **quant, option: value})


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[]", b"\xff", b"not json", b'{"schema": "moeplan.inventory/1", "nodes": []}', b"[" * 100_000],
)
def test_an_inventory_that_is_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "inventory.json"
    path.write_bytes(content)
    with pytest.raises(BadRequest, match=r"^--inventory "):
        plan("kimi-k2.5", inventory=str(path))


@pytest.mark.parametrize("path", ["", "/", "missing.json", "a\0b", "x" * 5000])
def test_an_inventory_that_is_not_there(path: str) -> None:
    with pytest.raises(BadRequest, match=r"^--inventory"):
        plan("kimi-k2.5", inventory=path)


def test_an_inventory_and_flags_cannot_be_mixed(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="cannot be combined"):
        plan("kimi-k2.5", inventory=str(tmp_path / "x"), gpu="8xH100")
