"""A remedy that is followed helps."""

from __future__ import annotations

import re
from typing import Any

import pytest

from planner.remedy import remedy
from planner.search import Missed, search
from tests.planner.planning import K25, outcome_of, request_of


def misses(**given: object) -> list[tuple[Missed, str]]:
    request = request_of(K25, exact=False, machine=None, **given)
    return [
        (miss, miss.remedy or remedy(request, miss))
        for miss in search(request).missed
        if miss.priced is not None and miss.short_by
    ]


def number_before(words: str, text: str) -> int:
    found = re.search(rf"([0-9,]+) {words}", text)
    assert found, text
    return int(found[1].replace(",", ""))


def test_fp16_on_eight_h100_names_the_three_numbers() -> None:
    """2,054 GB: 25 cards of 81,559 MiB, 27 at 0.9 of 79.19 GiB, 32 as whole nodes."""
    (miss,) = outcome_of(exact=True, gpu="8xH100", engine="vllm", quant="fp16", tp=8, gpu_memory_utilization=0.9).missed
    request = request_of(exact=True, gpu="8xH100", engine="vllm", quant="fp16", tp=8, gpu_memory_utilization=0.9)
    assert remedy(request, miss) == (
        "the weights (2,054 GB) take 25 of these GPUs by capacity, 27 at utilisation 0.9, 32 as tp 8 x pp 4 (tight); "
        "or use a smaller quantization"
    )


@pytest.mark.parametrize(
    ("engine", "gpu"),
    [
        *((engine, gpu) for engine in ("vllm", "sglang") for gpu in ("8xH100", "4xA100-80", "2xH200")),
        # SGLang reserves so much for 124 ranks that no 24 GB card is left: it has no layout to name.
        ("vllm", "4xrtx-4090"),
    ],
)
def test_the_layout_that_is_named_starts(engine: str, gpu: str) -> None:
    texts = [text for _, text in misses(gpu=gpu, engine=engine, quant="int4") if text.startswith("the weights")]
    named = {found for text in texts for found in re.findall(r"as tp (\d+) x pp (\d+)( \(tight\))?", text)}
    assert named
    count = int(gpu.partition("x")[0])
    for *ranks, doubt in named:
        tp, pp = map(int, ranks)
        assert all(number_before("of these GPUs by capacity", text) <= tp * pp for text in texts)
        nodes = -(-tp * pp // count)
        outcome = outcome_of(gpu=gpu, nodes=nodes, engine=engine, quant="int4", tp=tp, pp=pp, dp=1)
        assert any(item.priced.verdict == "fits" or doubt for item in outcome.found)


@pytest.mark.parametrize("gpu", ["none", "rtx-4090", "2xH100"])
@pytest.mark.parametrize("ram", [None, "32GiB", "100GiB"])
def test_the_ram_that_is_named_is_enough(gpu: str, ram: str | None) -> None:
    given: dict[str, Any] = {"gpu": gpu, "engine": "llama.cpp", "quant": "UD-Q2_K_XL"}
    for miss, text in misses(**given, **({} if ram is None else {"ram": ram})):
        need = number_before("GiB of RAM are needed", text)
        if ram is None:
            assert "(--ram)" in text and " more)" not in text
        else:
            assert number_before(r"GiB more\)", text) == need - int(ram.removesuffix("GiB"))
        helped = outcome_of(**given, ram=f"{need}GiB").found
        assert miss.config is not None
        assert any(
            item.priced.verdict == "fits" and item.priced.config.kv_dtype == miss.config.kv_dtype for item in helped
        )


def test_ktransformers_is_not_told_to_page() -> None:
    found = misses(gpu="H100", ram="64GiB", engine="ktransformers", quant="int4")
    texts = [text for miss, text in found if miss.reason == "the routed experts do not fit in RAM"]
    assert texts
    for text in texts:
        assert "--disk" not in text
        assert number_before("GiB of RAM are needed", text) > 500


def test_a_disk_is_proposed_only_where_none_is_described() -> None:
    assert all("--disk" in text for _, text in misses(gpu="rtx-4090", ram="64GiB", engine="llama.cpp"))
    for _, text in misses(gpu="rtx-4090", ram="64GiB", engine="llama.cpp", disk="100GB", quant="UD-TQ1_0"):
        assert text == "240 GB of disk are needed (--disk); use a smaller quantization"


def test_unified_memory_is_named_as_what_the_machine_has_to_have() -> None:
    for miss, text in misses(gpu="m3-ultra", quant="Q4_X"):
        assert miss.reason == "the model does not fit in the unified memory"
        need = number_before("GiB of unified memory are needed", text)
        assert need > 600
        enough = outcome_of(gpu="m3-ultra", ram=f"{need}GiB", quant="Q4_X").found
        assert any(item.priced.verdict == "fits" for item in enough)


def test_a_short_kv_cache_says_what_it_holds() -> None:
    found = misses(gpu="8xH200", engine="vllm", quant="int4", concurrency=2000, tp=8, ep=1, dcp=1, kv_dtype="bf16")
    assert {miss.reason for miss, _ in found} == {"the KV cache cannot hold the requested concurrency"}
    for miss, text in found:
        assert miss.priced is not None
        held = miss.priced.pool.tokens
        assert text == (
            f"the KV cache holds {held:,} of 10,240,000 tokens: shorten --context or lower --concurrency, "
            "or --kv-dtype fp8"
        )
        fewer = held // 5120 * 9 // 10
        assert outcome_of(gpu="8xH200", engine="vllm", quant="int4", concurrency=fewer, tp=8, ep=1, dcp=1).found


def test_what_was_never_priced_has_no_remedy_of_its_own() -> None:
    request = request_of(gpu="none", engine="vllm")
    (miss, *_) = search(request).missed
    assert remedy(request, miss) == ""
    assert miss.remedy
