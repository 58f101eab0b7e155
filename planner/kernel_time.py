"""Time of one kernel as the speed model has it without measurements of this machine: what a benchmark is put beside."""

from __future__ import annotations

from formulas.moe import expected_distinct_experts
from formulas.roofline import roofline_s
from hwdetect.bench.case import KernelCase
from planner.budget import fact, spread_of
from planner.engines.base import Config
from planner.evidence import axis_value, peak_flops
from planner.machine import Host
from planner.measured_cpu import CPU_KERNELS, Measured
from planner.step_gpu import evidence_of
from planner.step_offload import core_rate, ram_rate
from profiles.engines import MissingFact


def predicted(case: KernelCase, config: Config, host: Host) -> Measured | None:
    """Seconds of a kernel that ``config`` runs; None where the model has no time for it alone."""
    if case.kernel in CPU_KERNELS:
        return _on_cpu(case, host)
    if config.group is None:
        return None
    gpu = config.group.gpu
    try:
        curve = evidence_of(gpu, config.engine, config.version, ()).curve(case)
        work = case.work()
    except (MissingFact, KeyError):
        return None
    ideal = roofline_s(work.bytes, work.flops, gpu.bandwidth, peak_flops(gpu, case.quantization))
    return Measured(curve.seconds(axis_value(case), ideal), curve.spread, curve.source)


def _on_cpu(case: KernelCase, host: Host) -> Measured | None:
    if not host.cores:
        return None
    if case.kernel == "cpu_attention":
        rate = fact("core_attention_flops_per_s")
        return Measured(case.work().flops / (host.cores * rate.value), spread_of(rate), rate.source)
    ram, core = ram_rate(host), core_rate(case.quantization, ())
    moved = case.work().bytes
    passes = float(case.batch)
    if case.kernel == "cpu_moe":
        # Each token computes with its own experts, also those that another one reads with it.
        distinct = expected_distinct_experts(case.dim("experts_total"), case.dim("top_k"), case.batch)
        passes = case.batch * case.dim("top_k") / distinct
    amortised = fact("core_batch_amortisation").value if case.batch > 4 else 1.0
    computed = moved * passes / amortised / (host.cores * core.bytes_per_s)
    by_bytes = moved / ram.bytes_per_s
    slower = core if computed > by_bytes else ram
    return Measured(max(computed, by_bytes), slower.spread, slower.source)
