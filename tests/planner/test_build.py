"""Options into a request: defaults, spellings, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from planner.build import build_request
from planner.errors import BadRequest
from planner.options import Options
from planner.request import Request
from profiles.library import load_model
from profiles.workloads import load_workload, workload_names
from tests.planner.planning import K25, machine_from, request_of


def planned(**given: object) -> Request:
    return request_of(K25, exact=False, machine=None, **{"gpu": "8xH200", **given})


def estimated(**given: object) -> Request:
    return request_of(K25, exact=True, machine=None, **{"gpu": "8xH200", "engine": "vllm", **given})


def test_the_default_is_chat() -> None:
    demand = planned().demand
    assert (demand.name, demand.context, demand.concurrency) == ("chat", 32_768, 8)
    assert (demand.input_tokens, demand.output_tokens) == (4096, 1024)
    assert planned().objective == "balanced"
    assert planned().top == 5


@pytest.mark.parametrize("name", workload_names())
def test_a_workload_sets_what_is_not_given(name: str) -> None:
    workload = load_workload(name)
    demand = planned(workload=name.upper()).demand
    assert (demand.name, demand.context, demand.concurrency, demand.input_tokens, demand.output_tokens) == (
        name, workload.context, workload.concurrency, workload.input_tokens, workload.output_tokens,
    )  # fmt: skip
    assert demand.prefix_cache_hit_rate == (workload.prefix_cache_hit_rate or 0.0)
    assert planned(workload=name, concurrency=3, context="256k").demand.concurrency == 3


def test_a_short_context_shortens_the_default_request() -> None:
    demand = planned(context=2048).demand
    assert demand.input_tokens + demand.output_tokens <= 2048
    assert demand.output_tokens == 512


def test_an_estimate_asks_for_one_request_unless_told_otherwise() -> None:
    assert estimated().demand.concurrency == 1
    assert not estimated().workload_given
    assert estimated(concurrency=4).demand.concurrency == 4
    assert estimated(workload="chat").demand.concurrency == 8


def test_max_model_len_is_the_context() -> None:
    assert estimated(max_model_len="8k").demand.context == 8192


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"context": "262145"}, "--context: 262,145 tokens are more than the 262,144 that kimi-k2.5 was made for"),
        ({"max_model_len": "1m"}, "--max-model-len: 1,048,576 tokens are more than the 262,144"),
        ({"context": "0"}, "--context: '0' is out of range"),
        ({"context": ""}, "--context: '' is not a number of tokens"),
        ({"concurrency": "0"}, "--concurrency: '0' is not a whole number from 1 to 10000000"),
        ({"concurrency": ""}, "--concurrency: '' is not a whole number"),
        ({"input_tokens": "30k", "output_tokens": "4k"}, "exceed the context of 32,768 tokens"),
        ({"images": "-1"}, "--images: '-1' is not a whole number from 0"),
        ({"workload": "gaming"}, "--workload: unknown workload 'gaming'"),
        ({"workload": ""}, "--workload: unknown workload ''"),
        ({"objective": "speed"}, "--objective: 'speed' is not allowed; balanced, throughput, latency"),
        ({"top": "0"}, "--top: '0' is not a whole number from 1 to 1000"),
        ({"top": ""}, "--top: '' is not a whole number"),
        (
            {"engine": "ollama"},
            "--engine: 'ollama' is not allowed; vllm, sglang, llama.cpp, ktransformers, tensorrt-llm are",
        ),
        ({"engine_version": "0.18"}, "--engine-version needs --engine"),
        ({"engine": "vllm", "engine_version": "latest"}, "'latest' is not a version; write 0.18 or 0.18.0"),
        ({"quant": "int3"}, "--quant: unknown quantization 'int3'; nearest: moonshotai/int4"),
        ({"kv_dtype": "int8"}, "--kv-dtype: 'int8' is not a KV dtype; bf16, f16, fp8"),
        ({"tp": "0"}, "--tp: '0' is not a whole number from 1 to 4096"),
        ({"pp": "-1"}, "--pp: '-1' is not a whole number"),
        ({"dp": "two"}, "--dp: 'two' is not a whole number"),
        ({"ep": "1.5"}, "--ep: '1.5' is not a whole number"),
        ({"dcp": ""}, "--dcp: '' is not a whole number"),
        ({"gpu_memory_utilization": "1.2"}, "--gpu-memory-utilization: '1.2' is not a fraction"),
        ({"max_num_seqs": "0"}, "--max-num-seqs: '0' is out of range"),
        ({"flash_attention": "auto"}, "--flash-attention: 'auto' is not allowed; on, off are"),
        ({"n_cpu_moe": "-1"}, "--n-cpu-moe: '-1' is not a whole number from 0"),
        ({"ttft": "2"}, "--ttft: '2' is not a duration above zero"),
        ({"tpot": "0ms"}, "--tpot: '0ms' is not a duration above zero"),
        ({"min_throughput": "nan"}, "--min-throughput: 'nan' is not a number above zero"),
        ({"min_throughput": "-5"}, "--min-throughput: '-5' is not a number above zero"),
        ({"max_kld": "0.1"}, "--max-kld needs --quality-suite"),
    ],
)
def test_bad_work_is_one_clear_line(given: dict[str, Any], complaint: str) -> None:
    with pytest.raises(BadRequest) as caught:
        planned(**given)
    assert complaint in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"text_only": "yes"}, "--text-only takes no value"),
        ({"context": 8192}, "--context takes text or a number"),
        ({"gpu": (3,)}, "--gpu takes text or a number"),
        ({"engine": True}, "--engine takes text or a number"),
        ({"inventory": "a\0b"}, "--inventory: a zero byte is not allowed"),
    ],
)
def test_values_of_the_wrong_type_are_refused(given: dict[str, Any], complaint: str) -> None:
    with pytest.raises(BadRequest, match=complaint):
        Options(K25, **given)


def test_kv_dtypes_have_synonyms() -> None:
    kinds = {name: planned(kv_dtype=name).narrow.kv_dtype for name in ("auto", "BF16", "fp16", "fp8_e4m3", " fp8 ")}
    assert kinds == {"auto": "bf16", "BF16": "bf16", "fp16": "f16", "fp8_e4m3": "fp8", " fp8 ": "fp8"}


def test_engines_are_known_in_any_case() -> None:
    """The context of llama.cpp is shared by its sequences, however its name is written."""
    given: dict[str, Any] = {"quant": "Q4_X", "context": "1m", "sequences": "4", "gpu": "none", "ram": "1TiB"}
    engines: list[dict[str, Any]] = [{"engine": "llama.cpp"}, {"engine": "LLAMA.CPP"}, {}]
    for engine in engines:
        assert request_of(exact=True, **engine, **given).demand.context == 1 << 20
    with pytest.raises(BadRequest, match="1,048,576 tokens are more than"):
        request_of(exact=True, engine="vllm", **given)


def test_an_estimate_means_the_makers_release() -> None:
    (release,) = estimated().releases
    assert release.release.release == "moonshotai/Kimi-K2.5"
    with pytest.raises(BadRequest, match="--quant is needed for this engine; known are bartowski/"):
        estimated(engine="llama.cpp")


def test_an_ambiguous_quantization_is_refused_by_an_estimate_with_the_choice() -> None:
    with pytest.raises(BadRequest, match="names several releases; write one of bartowski/Q8_0, unsloth/Q8_0"):
        estimated(engine="llama.cpp", quant="Q8_0")
    (release,) = estimated(engine="llama.cpp", quant="unsloth/q8_0").releases
    assert release.release.publisher == "unsloth"
    assert len(planned(quant="Q8_0").releases) == 2


def test_a_plan_considers_what_somebody_published() -> None:
    statuses = {release.release.status for release in planned().releases}
    assert statuses == {"published"}
    hypothetical = planned(quant="fp16").releases
    assert [release.release.quantization for release in hypothetical] == ["bf16"]


def test_a_quantization_of_mlx_is_not_planned() -> None:
    with pytest.raises(BadRequest, match=r"--quant: no engine here loads mlx files of kimi-k2\.5"):
        request_of(gpu="m3-ultra", quant="mlx")


@pytest.mark.parametrize("engine", ["vllm", "sglang", "ktransformers", None])
def test_tp_must_divide_the_heads(engine: str | None) -> None:
    given: dict[str, Any] = {"gpu": "8xH200"} | ({} if engine is None else {"engine": engine})
    complaint = "--tp: 3 does not divide the 64 attention heads; 1, 2, 4, 8, 16, 32, 64 are allowed"
    for exact in (False, True):
        with pytest.raises(BadRequest, match=complaint):
            request_of(exact=exact, tp=3, **given)


@pytest.mark.parametrize(("quant", "engine"), [(None, "vllm"), ("nvfp4", "vllm"), ("Q4_X", "llama.cpp")])
def test_an_estimate_without_an_engine_means_the_one_that_loads_the_files(quant: str | None, engine: str) -> None:
    given: dict[str, Any] = {} if quant is None else {"quant": quant}
    assert request_of(exact=True, gpu="8xH200", **given).narrow.engine == engine
    assert request_of(gpu="8xH200", **given).narrow.engine is None


def test_every_model_is_planned_with_its_own_context() -> None:
    model = load_model("llama-3.1-70b")
    options = Options(model.id, gpu=("8xH100",), context="128k")
    request = build_request(options, model, machine_from(gpu="8xH100"), exact=False)
    assert request.demand.context == model.max_context == 131_072
