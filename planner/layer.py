"""A decode layer of a configuration as a case of its own, to see whether the kernels of a plan add up."""

from __future__ import annotations

from hwdetect.bench.case import KernelCase, kernel_case
from hwdetect.bench.layer import BETWEEN
from planner.cases import lane_batch, uses_of
from planner.engines.base import Priced
from planner.request import PricedRelease, Request
from profiles.model import Role, TensorGroup


def layer_case(request: Request, release: PricedRelease, priced: Priced) -> KernelCase | None:
    """A layer with routed experts of what runs on one device; None for attention that no benchmark builds.

    That is of latent attention without a sparse index, whole on this device: a rank of several has only a part.
    """
    model, config = request.model, priced.config
    latent = next((group for group in model.kv_groups if group.layout == "mla"), None)
    if model.moe is None or latent is None or latent.index_head_dim or config.world > 1:
        return None
    experts = [use.case for use in uses_of(request, release, config) if use.case.kernel in ("cpu_moe", "grouped_moe")]
    on_gpu = config.group is not None
    if not experts or on_gpu != all(case.kernel == "grouped_moe" for case in experts):
        return None
    layer = model.moe.layers[-1]
    found: dict[Role, TensorGroup] = {group.role: group for group in release.tensors.groups if layer in group.layers}
    if "q_a" not in found or "o" not in found:
        return None
    shared = found["shared_gate"].shape[-2] if "shared_gate" in found else 0
    context = request.demand.input_tokens + request.demand.output_tokens // 2
    return kernel_case(
        "decode_layer", f"{experts[-1].quantization}{BETWEEN}{found['o'].format}", lane_batch(request, priced),
        max(context, 1), hidden=model.hidden, heads=model.heads, q_lora=found["q_a"].shape[-2],
        kv_lora=latent.kv_lora_rank, rope=latent.rope_dim, nope=model.nope_dim, v=model.v_head_dim,
        experts=model.moe.experts, top_k=model.moe.top_k, inter=experts[-1].dim("inter"), shared=shared,
        gpu=int(on_gpu),
    )  # fmt: skip
