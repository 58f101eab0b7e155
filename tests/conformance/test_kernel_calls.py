"""What the benchmark's workers call of the engines' kernels is there, with the parameters that they pass.

No GPU is here to run them. So the calls are read from the workers' source and put beside the signatures in the source
of the engines' own wheels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

import pytest

from hwdetect.bench.worker import WORKERS
from tests.conformance.signatures import Call, Sources, calls_of

MARLIN: Final = "vllm.model_executor.layers.fused_moe.experts.marlin_moe"
OLDER_MARLIN: Final = "vllm.model_executor.layers.fused_moe.fused_marlin_moe"


class Calls(NamedTuple):
    """A worker, the parts of setup.sh that have what it calls, names that it gets otherwise than by an import."""

    worker: str
    parts: tuple[str, ...]
    known: dict[str, tuple[str, str]]
    called: set[str]


VLLM_CALLS: Final = {
    "gptq_marlin_moe_repack", "marlin_moe_permute_scales", "marlin_make_workspace_new", "fused_marlin_moe",
    "fp8_w8a8_moe_quant_config", "fused_experts", "is_flashmla_dense_supported", "get_mla_metadata",
    "flash_mla_with_kvcache", "flash_attn_varlen_func", "is_fa_version_supported",
}  # fmt: skip
FLASH_MLA_CALLS: Final = {"get_mla_metadata", "flash_mla_with_kvcache"}
WORKERS_CALLS: Final = {
    "vllm": Calls(
        "vllm_gpu", ("vllm",),
        {"fused_marlin_moe": (MARLIN, "fused_marlin_moe"), "library": ("vllm.v1.attention.ops.flashmla", "")},
        VLLM_CALLS,
    ),
    "vllm-0.19.0": Calls(
        "vllm_gpu", ("vllm-0.19.0",),
        {"fused_marlin_moe": (OLDER_MARLIN, "fused_marlin_moe"), "library": ("vllm.v1.attention.ops.flashmla", "")},
        VLLM_CALLS,
    ),
    "sglang": Calls(
        "sglang_gpu", ("sglang",), {},
        {
            "gptq_marlin_repack", "fused_marlin_moe", "marlin_moe_permute_scales", "flash_attn_with_kvcache",
            "flash_attn_varlen_func",
        },
    ),
    "flashinfer": Calls(
        "flashinfer_gpu", ("kernels",), {},
        {
            "cutlass_fused_moe", "BatchMLAPagedAttentionWrapper", "BatchMLAPagedAttentionWrapper.plan",
            "BatchMLAPagedAttentionWrapper.run", "BatchDecodeWithPagedKVCacheWrapper",
            "BatchDecodeWithPagedKVCacheWrapper.plan", "BatchDecodeWithPagedKVCacheWrapper.run",
            "single_prefill_with_kv_cache",
        },
    ),
    "deep-gemm": Calls(
        "deep_gemm_gpu", ("kernels",), {"deep_gemm": ("deep_gemm", "")},
        {"m_grouped_fp8_gemm_nt_contiguous", "fp8_gemm_nt"},
    ),
    "flash-mla": Calls("vllm_gpu", ("kernels",), {"library": ("flash_mla", "")}, FLASH_MLA_CALLS),
}  # fmt: skip
FORWARDED: Final = {"BatchDecodeWithPagedKVCacheWrapper.plan": "BatchDecodeWithPagedKVCacheWrapper._plan_impl"}
"""What takes any keyword and hands it on."""


def calls_in(of: Calls) -> list[Call]:
    """The worker's calls of the packages that lie in its parts."""
    packages = frozenset({"vllm", "sglang", "flashinfer"} if of.worker != "deep_gemm_gpu" else {"deep_gemm"})
    found = calls_of(WORKERS.parent / f"{of.worker}.py", packages, of.known)
    modules = ("flash_mla",) if of.called is FLASH_MLA_CALLS else (*packages,)
    return [call for call in found if call.module.partition(".")[0] in modules]


@pytest.mark.parametrize("name", WORKERS_CALLS)
def test_what_a_worker_calls_is_there_with_its_parameters(name: str, folder: Path) -> None:
    of = WORKERS_CALLS[name]
    calls = calls_in(of)
    assert {call.name for call in calls} == of.called
    sources = Sources(tuple([folder / part for part in of.parts]))
    asked = [call._replace(name=FORWARDED.get(call.name, call.name)) for call in calls]
    assert [misfit for call in asked if (misfit := sources.misfit(call)) is not None] == []


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (Call("flashinfer.prefill", "single_prefill_with_kv_cache", 3, ("causal", "scale"), False, 1), "'scale'"),
        (Call("flashinfer.prefill", "single_prefill_with_kv_cache", 2, (), False, 1), "missing a required argument"),
        (Call("flashinfer.prefill", "no_such_function", 0, (), False, 1), "has no no_such_function"),
        (Call("flashinfer.no_such_module", "run", 0, (), False, 1), "there is no module"),
        (Call("flashinfer.mla", "BatchMLAPagedAttentionWrapper.launch", 0, (), False, 1), "has no launch"),
    ],
)
def test_a_call_that_does_not_fit_is_named(call: Call, reason: str, folder: Path) -> None:
    assert reason in (Sources((folder / "kernels",)).misfit(call) or "")
