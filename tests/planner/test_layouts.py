"""Which layouts the engines take, and which their own code refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from planner.search import search
from tests.planner.planning import outcome_of, priced_of, request_of

CONFIGS = Path(__file__).parents[1] / "profiles" / "data" / "configs"


def refusal(**given: object) -> tuple[str, str]:
    outcome = outcome_of("kimi-k2.5", exact=True, machine=None, **given)
    assert not outcome.found
    (miss,) = outcome.missed
    assert miss.priced is None
    return miss.reason, miss.remedy


@pytest.mark.parametrize(
    ("given", "reason", "remedy"),
    [
        ({"tp": 8, "dp": 2}, "tp 8 x pp 1 x dp 2 needs 16 GPUs, there are 8", "use at most 8 ranks"),
        ({"tp": 8, "dcp": 3}, "tp 8 is not divisible by dcp 3", "use a dcp that divides tp"),
        ({"tp": 8, "ep": 4}, "the expert-parallel size is tp x dp = 8, not 4", "use ep 8"),
        ({"tp": 8, "kv_dtype": "q8_0"}, "vllm has no q8_0 KV cache here", "use --kv-dtype bf16 or fp8"),
        ({"tp": 8, "kv_dtype": "fp8_ds_mla"}, "vllm has no fp8_ds_mla KV cache here", "use --kv-dtype bf16 or fp8"),
        (
            {"tp": 64, "dp": 2, "ep": 1, "nodes": 16},
            "an expert of width 2048 cannot be divided by 128 in groups of 32",
            "use expert parallelism",
        ),
    ],
)
def test_vllm_refuses(given: dict[str, Any], reason: str, remedy: str) -> None:
    assert refusal(engine="vllm", gpu="8xH200", **given) == (reason, remedy)


def test_an_expert_is_divided_into_whole_groups() -> None:
    """64 ranks have 32 of an expert's 2,048 rows each, one group of scales."""
    assert priced_of(engine="vllm", gpu="8xH200", nodes=8, tp=64).verdict == "fits"
    assert priced_of(engine="vllm", gpu="8xH200", nodes=16, tp=64, dp=2, ep=128).config.ep == 128


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"gpu": "8xV100-sxm-32", "engine": "vllm"}, "compute capability 7.0; the quantized kernels need 7.5"),
        (
            {"gpu": "8xA100-80", "engine": "vllm", "tp": 8, "kv_dtype": "fp8"},
            "fp8 KV needs compute capability 8.9, not 8.0",
        ),
        (
            {"gpu": "8xA100-80", "engine": "sglang", "tp": 8, "kv_dtype": "fp8"},
            "MLA with fp8 KV has kernels for compute",
        ),
        ({"gpu": "m3-ultra", "engine": "vllm"}, "vLLM and SGLang have no production back end for Apple M3 Ultra"),
        ({"gpu": "8xMI300X", "engine": "sglang", "quant": "nvidia/nvfp4"}, "NVFP4 weights need an NVIDIA GPU"),
        ({"gpu": "none", "engine": "vllm"}, "vllm needs a GPU"),
        ({"gpu": "none", "engine": "ktransformers"}, "KTransformers needs an NVIDIA GPU"),
        ({"gpu": "8xMI300X", "engine": "ktransformers"}, "KTransformers needs an NVIDIA GPU"),
    ],
)
def test_gpus_that_cannot_run_it(given: dict[str, Any], reason: str) -> None:
    assert reason in refusal(**given)[0]


KV_ON_GPUS: tuple[tuple[str, str, str, str, str], ...] = (
    ("vllm", "deepseek-v4-flash", "8xH200", "bf16", "use --kv-dtype fp8_ds_mla"),
    ("vllm", "deepseek-v4-flash", "8xB200", "bf16", ""),
    ("vllm", "deepseek-v4-flash", "8xB200", "fp8", ""),
    ("vllm", "deepseek-v4-flash", "8xRTX-PRO-6000", "bf16", "use --kv-dtype fp8_ds_mla"),
    ("vllm", "deepseek-v4-flash", "8xRTX-PRO-6000", "fp8_ds_mla", ""),
    ("vllm", "deepseek-v4-flash", "8xA100-80", "fp8_ds_mla", "use another GPU or engine"),
    ("vllm", "deepseek-v3.2", "8xH200", "fp8", "use --kv-dtype bf16 or fp8_ds_mla"),
    ("vllm", "deepseek-v3.2", "8xMI300X", "fp8_ds_mla", "use --kv-dtype bf16 or fp8"),
    ("vllm", "deepseek-v3.2", "8xA100-80", "bf16", "use another GPU or engine"),
    ("sglang", "deepseek-v4-flash", "8xB200", "bf16", "use --kv-dtype fp8_ds_mla"),
    ("sglang", "glm-5", "8xRTX-PRO-6000", "fp8_ds_mla", ""),
    ("sglang", "deepseek-v3.2", "8xRTX-PRO-6000", "fp8_ds_mla", "use another GPU or engine"),
)


@pytest.mark.parametrize(("engine", "model", "gpu", "dtype", "remedy"), KV_ON_GPUS)
def test_sparse_attention_reads_what_the_gpu_has_a_kernel_for(
    engine: str, model: str, gpu: str, dtype: str, remedy: str
) -> None:
    outcome = outcome_of(model, exact=True, engine=engine, gpu=gpu, nodes=4, tp=8, pp=4, kv_dtype=dtype)
    assert [miss.remedy for miss in outcome.missed if "has no kernel" in miss.reason] == ([remedy] if remedy else [])


def test_the_kv_dtype_left_open_is_one_that_the_gpu_reads() -> None:
    given: dict[str, Any] = {"exact": True, "engine": "vllm", "tp": 8}
    for gpu, dtype in (("8xH200", "fp8_ds_mla"), ("8xB200", "bf16")):
        (found,) = outcome_of("deepseek-v4-flash", gpu=gpu, **given).found
        assert found.priced.config.kv_dtype == dtype


def test_experts_of_sglang_divide_over_the_ranks() -> None:
    """160 experts over 48 ranks: SGLang asserts, vLLM gives some ranks one more and cannot balance them."""
    given: dict[str, Any] = {"exact": True, "gpu": "8xH200", "nodes": 6, "tp": 48, "ep": 48}
    (miss,) = outcome_of("qwen3-coder-480b-a35b", engine="sglang", quant="bf16", **given).missed
    assert miss.reason == "160 experts do not divide over 48 expert-parallel ranks"
    assert miss.remedy.startswith("use ep 1, 2, 4, 5, 8")


@pytest.mark.parametrize("tp", [2, 8])
def test_attention_data_parallelism_divides_tp(tp: int) -> None:
    reason, remedy = refusal(engine="sglang", gpu="8xH200", tp=tp, dp=16 if tp == 2 else 3)
    assert (reason, remedy) == (
        f"attention data parallelism divides tp {tp} by dp {16 if tp == 2 else 3}", "use a dp that divides tp",
    )  # fmt: skip


def test_replicas_of_sglang_are_whole_engines() -> None:
    """Two replicas at tp 4 each hold the whole model: 139 GiB per GPU, not the 72 GiB of tp 8."""
    replicas = priced_of(engine="sglang", gpu="8xH200", tp=4, dp=2)
    alone = priced_of(engine="sglang", gpu="4xH200", tp=4)
    assert replicas.devices[0].total("weights") == alone.devices[0].total("weights") > 138 * 2**30
    assert replicas.verdict == "no"


def test_replicas_of_vllm_share_the_experts() -> None:
    replicas = priced_of(engine="vllm", gpu="8xH200", tp=4, dp=2)
    entries = {entry.what: entry.bytes for entry in replicas.devices[0].entries}
    whole = priced_of(engine="vllm", gpu="8xH200", tp=8)
    assert (
        entries["routed experts"] == {entry.what: entry.bytes for entry in whole.devices[0].entries}["routed experts"]
    )
    assert replicas.verdict == "fits"


def test_sglang_keeps_its_replicas_on_one_node() -> None:
    reason, remedy = refusal(engine="sglang", gpu="8xH200", nodes=2, tp=8, dp=2)
    assert reason == "sglang runs data-parallel replicas on one node, or inside tp"
    assert remedy == "use tp 16 with dp 2, or start one server per node"


def test_ranks_divide_over_the_nodes() -> None:
    reason, _ = refusal(engine="vllm", gpu="8xH200", nodes=3, tp=4, pp=5)
    assert reason == "20 ranks do not divide over 3 nodes"


@pytest.mark.parametrize(
    ("engine", "given", "reason"),
    [
        (
            "vllm",
            {"nodes": 3, "tp": 4, "pp": 3, "dp": 2},
            "data-parallel replicas of 12 GPUs would straddle nodes of 8",
        ),
        ("sglang", {"nodes": 2, "tp": 4, "pp": 3}, "3 pipeline stages do not divide over 2 nodes"),
    ],
)
def test_nodes_and_ranks_divide_one_another(engine: str, given: dict[str, Any], reason: str) -> None:
    outcome = outcome_of("deepseek-v3", exact=True, engine=engine, quant="fp8", gpu="8xH200", **given)
    assert not outcome.found and [miss.reason for miss in outcome.missed] == [reason]


@pytest.mark.parametrize("engine", ["sglang", "ktransformers"])
def test_sglang_does_not_leave_out_the_vision_tower(engine: str) -> None:
    given: dict[str, Any] = {"gpu": "8xH200", "ram": "1TiB", "cpu": "xeon-spr", "quant": "int4", "text_only": True}
    outcome = outcome_of(exact=True, engine=engine, **given)
    assert not outcome.found and ["vision tower" in miss.reason for miss in outcome.missed] == [True]


@pytest.mark.parametrize("nodes", [1, 2, 3])
def test_the_search_fills_nodes(nodes: int) -> None:
    """A tensor-parallel group never lies on two nodes when whole nodes are used."""
    for found in outcome_of(gpu="8xH100", nodes=nodes).found:
        config = found.priced.config
        assert config.world <= 8 or config.world % 8 == 0


def test_ranks_that_do_not_exist_are_refused_by_a_plan_too() -> None:
    asked: list[dict[str, Any]] = [{"tp": 16}, {"dp": 16}, {"pp": 62}, {"tp": 8, "pp": 2}]
    for given in asked:
        outcome = outcome_of(gpu="8xH200", engine="vllm", quant="int4", **given)
        assert not outcome.found
        assert {miss.reason.partition(" needs ")[2] for miss in outcome.missed} == {
            f"{given.get('tp', 1) * given.get('pp', 1) * given.get('dp', 1)} GPUs, there are 8"
        }


@pytest.mark.parametrize(
    ("engine", "given", "reason"),
    [
        ("llama.cpp", {"tp": 8}, "llama.cpp places layers, it has no --tp 8"),
        ("llama.cpp", {"pp": 2, "dp": 2}, "llama.cpp places layers, it has no --pp 2 --dp 2"),
        ("llama.cpp", {"kv_dtype": "fp8"}, "llama.cpp has no fp8 KV cache"),
        ("llama.cpp", {"cache_type_v": "nvfp4"}, "llama.cpp has no nvfp4 KV cache"),
        (
            "llama.cpp",
            {"kv_dtype": "q8_0", "flash_attention": "off"},
            "llama.cpp needs flash attention for a V cache in q8_0",
        ),
        ("ktransformers", {"pp": 2}, "KTransformers shards by tp only, it has no --pp 2"),
        ("ktransformers", {"kv_dtype": "q4_0"}, "ktransformers has no q4_0 KV cache here"),
    ],
)
def test_offloading_engines_refuse(engine: str, given: dict[str, Any], reason: str) -> None:
    quant: dict[str, Any] = {"quant": "Q4_X"} if engine == "llama.cpp" else {}
    assert refusal(engine=engine, gpu="8xH200", ram="1TiB", **quant, **given)[0] == reason


def test_unquantized_kv_has_two_names() -> None:
    """bf16 in the checkpoint's world, f16 in llama.cpp's; either asks both for 16 bits."""
    for dtype in ("bf16", "fp16"):
        assert priced_of(engine="vllm", gpu="8xH200", tp=8, kv_dtype=dtype).config.kv_dtype == "bf16"
        llama = priced_of(engine="llama.cpp", gpu="8xH200", quant="Q4_X", kv_dtype=dtype)
        assert llama.config.kv_dtype == "f16"


def test_an_estimate_of_ktransformers_is_one_configuration() -> None:
    priced = priced_of(engine="ktransformers", gpu="2xH100", ram="1TiB")
    assert (priced.config.tp, priced.config.gpu_experts_per_layer) == (2, 1)


@pytest.mark.parametrize(
    ("cpu", "warning"),
    [
        ("epyc-9004", None),
        ("epyc-7003", "RAWINT4 falls back to avx2 on this CPU: the kernels for avx512f are faster"),
        (None, "RAWINT4 needs a CPU with avx512f or avx2: the CPU of this machine is not known (--cpu)"),
    ],
)
def test_what_ktransformers_says_of_the_cpu(cpu: str | None, warning: str | None) -> None:
    given = {} if cpu is None else {"cpu": cpu}
    warnings = priced_of(engine="ktransformers", gpu="H100", ram="1TiB", **given).warnings
    assert warnings == (() if warning is None else (warning,))


def test_ktransformers_refuses_a_cpu_without_any_of_its_instructions() -> None:
    request = request_of(engine="ktransformers", gpu="H100", ram="1TiB", cpu="epyc-9004", exact=True)
    node = request.machine.nodes[0]
    old = node._replace(host=node.host._replace(flags=frozenset({"sse4_2"})))
    outcome = search(replace(request, machine=request.machine._replace(nodes=(old,))))
    assert [miss.reason for miss in outcome.missed] == ["RAWINT4 needs a CPU with avx512f or avx2"]


def test_a_narrowed_search_shows_nothing_else() -> None:
    request = request_of(gpu="8xH200", ram="2TiB", tp=4)
    assert request.narrow.tp == 4
    for found in outcome_of(gpu="8xH200", ram="2TiB", tp=4).found:
        assert found.priced.config.tp == 4
        assert found.engine.name != "llama.cpp"


def test_kv_heads_are_divided_or_replicated() -> None:
    """Grok-like geometry: 8 KV heads of 48 query heads at tp 6 are neither."""
    from planner.engines.constraints import refused_layout
    from profiles.engines import load_engine

    request = request_of("llama-3.1-70b", exact=True, gpu="8xH100", engine="vllm", tp=2)
    model = replace(request.model, heads=48, kv_groups=(request.model.kv_groups[0]._replace(n_kv_heads=8),))
    config = priced_of("llama-3.1-70b", gpu="8xH100", engine="vllm", tp=2).config
    odd = replace(request, model=model)
    assert refused_layout(odd, request.releases[0], config._replace(tp=6), load_engine(config.engine)) == (
        "8 KV heads are neither divided nor replicated by tp 6", "use tp 1, 2, 4, 8",
    )  # fmt: skip
    assert refused_layout(odd, request.releases[0], config._replace(tp=4), load_engine(config.engine)) is None


@pytest.mark.parametrize(
    ("model", "given", "reason"),
    [
        ("qwen3-235b-a22b-fp8", {"gpu": "8xH200", "engine": "vllm", "engine_version": "0.19", "tp": 8, "ep": 1},
         "an expert's matrix of 1536 divided by 8 is not whole FP8 blocks of 128"),
        ("deepseek-r1", {"gpu": "8xH200", "nodes": 16, "engine": "sglang", "tp": 64},
         "a matrix of 18432 divided by 64 is not whole FP8 blocks of 128"),
        ("kimi-k2.5", {"gpu": "8xH200", "engine": "vllm", "engine_version": "0.14.1", "tp": 8},
         "vllm 0.14.1 does not know kimi_k25"),
        ("kimi-k2.5", {"gpu": "8xH200", "engine": "sglang", "engine_version": "0.5.6", "tp": 8},
         "sglang 0.5.6 does not know kimi_k25"),
    ],
)  # fmt: skip
def test_what_engines_find_only_after_loading(model: str, given: dict[str, Any], reason: str) -> None:
    name = {"qwen3-235b-a22b-fp8": f"{CONFIGS}/Qwen3-235B-A22B-FP8.json"}.get(model, model)
    (miss,) = outcome_of(name, exact=True, **given).missed
    assert miss.reason == reason
    assert miss.remedy


def test_experts_whole_or_refined_are_not_refused() -> None:
    """Expert parallelism keeps experts whole, and since 0.30 vLLM refines their blocks."""
    name = f"{CONFIGS}/Qwen3-235B-A22B-FP8.json"
    for given in ({"ep": 8, "engine_version": "0.19"}, {"engine_version": "0.30"}, {"engine_version": "0.19", "tp": 4}):
        assert outcome_of(name, exact=True, gpu="8xH200", engine="vllm", **({"tp": 8} | given)).found


def test_experts_stay_whole_where_nothing_was_said_and_divided_ones_would_not_start() -> None:
    """MiniMax M2.5 was published running with tp 8 on vLLM 0.18, which refuses its experts of 1,536 in eighths."""
    told = f"{CONFIGS}/MiniMax-M2.5.json"
    given: dict[str, Any] = {"gpu": "8xH100", "engine": "vllm", "tp": 8}
    (old,) = outcome_of(told, exact=True, engine_version="0.18.0", **given).found
    (new,) = outcome_of(told, exact=True, engine_version="0.33.0", **given).found
    assert (old.priced.config.ep, new.priced.config.ep) == (8, 1)
    said = "whole experts on 8 ranks: vllm refuses to divide each over them"
    assert said in old.priced.warnings and said not in new.priced.warnings
    (asked,) = outcome_of(told, exact=True, engine_version="0.18.0", ep=8, **given).found
    assert asked.priced.config == old.priced.config and said not in asked.priced.warnings


@pytest.mark.parametrize(("version", "runs"), [("0.17", False), ("0.18", True)])
def test_mla_reads_an_fp8_cache_outside_the_data_centre_since_triton_does(version: str, runs: bool) -> None:
    found = outcome_of(
        exact=True, gpu="8xRTX-PRO-6000", engine="vllm", engine_version=version, tp=8, kv_dtype="fp8"
    )  # fmt: skip
    assert bool(found.found) is runs


def test_advice_is_a_warning() -> None:
    amd = priced_of(gpu="8xMI325X", engine="sglang", tp=8)
    assert "sglang's guide for Kimi K2.5 advises at most tp 4 on AMD" in amd.warnings
    assert not priced_of(gpu="8xMI325X", engine="sglang", tp=4).warnings
    wide = priced_of(gpu="8xH200", nodes=8, engine="vllm", tp=64)
    assert any("padded to 64 by Marlin" in warning for warning in wide.warnings)


def test_tensorrt_llm_is_answered_and_never_searched() -> None:
    reason, remedy = refusal(gpu="8xB200", engine="tensorrt-llm")
    assert reason == "TensorRT-LLM loads Kimi K2.5 only as NVFP4, without images, not as int4_g32"
    assert "NVFP4 release" in remedy
    assert "how much memory it takes is not known" in refusal(gpu="8xB200", engine="tensorrt-llm", quant="nvfp4")[0]
    assert {miss.engine for miss in outcome_of(gpu="8xB200").missed} <= {"vllm", "sglang", "llama.cpp", "ktransformers"}
