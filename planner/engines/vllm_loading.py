"""What loading in vLLM adds to a checkpoint's shard, or takes from it: padding, LoRA slots, ROCm's count, offload."""

from __future__ import annotations

from typing import Final

from planner.engines.base import Config
from planner.ledger import Device, Entry, exact, ranged
from planner.machine import Gpu
from planner.request import PricedRelease, Request
from planner.sharding import COLUMNS, KV_HEADS, ROWS, ExpertPadding, ShardTable
from profiles.engines import EngineFacts
from profiles.model import ModelSpec

HOPPER: Final = 9
DATA_CENTER_BLACKWELL: Final = 10
MLA_PROJECTIONS: Final = ("kv_b", "k_b", "v_b")
ADAPTED: Final = ROWS | COLUMNS | KV_HEADS | {"q_a", "kv_a"}
"""Roles of the linear layers that get LoRA slots; routed experts do not."""


def copies_projection(release: PricedRelease) -> bool:
    """Whether the absorbed MLA projections are copies: views of kv_b where it is bf16, else dequantized.

    Source: vLLM 0.11.0 to 0.33.0 MLA attention, process_weights_after_loading.
    """
    found = release.kept.get("copies projection")
    if found is None:
        formats = {group.format for group in release.tensors.groups if group.role in MLA_PROJECTIONS}
        found = release.kept["copies projection"] = bool(formats - {"bf16"})
    return bool(found)


def expert_padding(release: PricedRelease, gpu: Gpu, facts: EngineFacts, version: str) -> ExpertPadding | None:
    """How MXFP4 experts are widened on this GPU; None where they are stored otherwise.

    Triton's kernels run on Hopper, TensorRT-LLM's on data-centre Blackwell, Marlin on other NVIDIA GPUs.
    """
    if release.expert_format != "mxfp4":
        return None
    key = ("mxfp4", gpu.vendor, gpu.compute_capability, version)
    found: ExpertPadding | None = release.kept.get(key)
    if found is None:
        found = release.kept[key] = _padding(gpu, facts, version)
    return found


def _padding(gpu: Gpu, facts: EngineFacts, version: str) -> ExpertPadding:
    if gpu.vendor == "amd":
        multiple = int(facts.at("mxfp4_rocm_multiple", version).value)
        return ExpertPadding(multiple, multiple)
    generation = int(gpu.cuda or 0)
    kernel = {HOPPER: "triton", DATA_CENTER_BLACKWELL: "trtllm"}.get(generation, "marlin")
    return ExpertPadding(
        int(facts.at(f"mxfp4_{kernel}_hidden_multiple", version).value),
        int(facts.at(f"mxfp4_{kernel}_width_multiple", version).value),
        scales_twice=kernel == "triton",
        wide_bias=kernel != "marlin",
    )


def lora_entries(model: ModelSpec, config: Config, tp: int) -> list[Entry]:
    """Slots for adapters, bf16: ``slots x rank x (in + out)`` of every linear layer outside the routed experts.

    A layer divided by rows keeps A whole and divides B, one divided by columns the other way round.
    """
    slots, rank = config.lora
    if not slots:
        return []
    width = 0
    for group in model.tensors:
        if group.role not in ADAPTED or len(group.shape) != 2 or group.tensor_class == "mtp":
            continue
        rows, columns = group.shape
        if group.role in COLUMNS:
            columns = -(-columns // tp)
        elif group.role in ROWS or group.role in KV_HEADS:
            rows = -(-rows // tp)
        width += (rows + columns) * group.instances
    size = 2 * slots * rank * -(-width // config.pp)
    return [
        ranged(
            "weights", "LoRA slots", size, size, 1.1 * size,
            f"2 x {slots} slots x rank {rank} x (in + out) of the linear layers, routed experts left out",
            "vLLM 0.33.0 lora/layers: lora_a_stacked, lora_b_stacked",
        )
    ]  # fmt: skip


def rocm_entries(facts: EngineFacts, version: str, gpu: Gpu, shards: ShardTable) -> list[Entry]:
    """What ROCm's count of loaded weights contains beside them: a layer's freed blocks, and the driver's growth."""
    if gpu.vendor != "amd" or not facts.at("rocm_counts_freed_blocks", version).value:
        return []
    layer = max([shard.expert * shard.experts for shard in shards.layers], default=0)
    growth = facts.at("rocm_load_growth_bytes", version)
    return [
        ranged(
            "weights", "freed blocks that ROCm counts as loaded", layer + growth.value, growth.low,
            2 * layer + growth.high, "one layer of routed experts + growth outside PyTorch", growth.source,
        )
    ]  # fmt: skip


def offload_entry(config: Config, entries: list[Entry]) -> Entry:
    """Weights that ``--cpu-offload-gb`` moves to RAM, at most all of them."""
    weights = sum([entry.bytes for entry in entries if entry.kind == "weights"])
    moved = min(config.cpu_offload, weights)
    source = "vLLM 0.33.0 vllm/config/offload.py"
    return exact("weights", "offloaded to RAM", -moved, "--cpu-offload-gb per GPU", source)


def offload_devices(request: Request, config: Config) -> list[Device]:
    """RAM of every node that holds offloaded weights."""
    assert config.group is not None
    group, rows = config.group, []
    ranks = config.world // config.nodes_used
    nodes = request.machine.nodes
    for node in group.nodes[: config.nodes_used]:
        # What would fit is also asked for more nodes than there are, like the first.
        host = nodes[node if node < len(nodes) else group.nodes[0]].host
        ram = host.ram or 0
        held = exact("weights", "offloaded weights", config.cpu_offload * ranks, f"{ranks} GPUs", "--cpu-offload-gb")
        rows.append(Device(node, "host", 0, 1, host.name, ram, ram, ram, ram, ram, (held,)))
    return rows
