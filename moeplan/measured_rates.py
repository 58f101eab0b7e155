"""What ``bench`` measured of memory, disks and GPUs of this machine, from its calibration into its inventory."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from hwdetect.bench.measured import nodes_read
from hwdetect.facts import FloatFact, known
from hwdetect.inventory import GpuRate
from hwdetect.rates import with_rates
from moeplan.calibration import LoadedSeries, load_series
from moeplan.calibrations import AUTO
from moeplan.text_safe import printable
from planner.check_links import facts_of

if TYPE_CHECKING:
    from hwdetect.bench.measured import MeasuredSeries
    from hwdetect.inventory import Inventory

GPU_KERNELS: Final = ("memory_read", "host_to_device", "gpu_to_gpu")
_PLACE: Final = "moeplan bench on this machine"
_UNSTABLE: Final = "every measurement of it was unstable; moeplan bench on an idle machine renews them"
_HIGHEST_RATE: Final = 1e18
"""Above it a file is wrong, whatever the machine."""


def with_measured_rates(inventory: Inventory, choice: str = AUTO) -> Inventory:
    """The inventory of this machine with the rates of its calibration, each measured at its time.

    What is stale or unstable is there without a value and with the reason. Raises as ``load_kernels`` does.
    """
    loaded = load_series(choice, inventory)
    if not (loaded.kept or loaded.refused or loaded.remarks):
        return inventory
    series = (*loaded.kept, *loaded.refused)
    mounts = sorted({one.device for one in series if one.series.startswith("disk_read/")})
    disks = {mount: _fact(loaded, "disk_read", on_gpu=False, devices=(mount,)) for mount in mounts}
    memory = _of_memory(inventory, loaded)
    gpus = _gpu_rates(inventory, loaded)
    facts = (memory, *disks.values(), *[rate.bytes_per_s for rate in gpus])
    said = dict.fromkeys(fact.reason for fact in facts if fact is not None and fact.reason is not None)
    return with_rates(
        inventory,
        memory=memory,
        disks={mount: fact for mount, fact in disks.items() if fact is not None},
        gpus=gpus,
        notes=[f"measured rates: {text}" for text in (*loaded.remarks, *said)],
    )


def _of_memory(inventory: Inventory, loaded: LoadedSeries) -> FloatFact | None:
    """What threads read of the whole memory; nothing, with the reason, where only a part of it was read.

    The kernel puts memory where it is first touched, so that on several NUMA nodes only the series counts that was
    read on all of them.
    """
    nodes = sum(bool(known(numa.cpu_count)) and numa.gpu_index is None for numa in inventory.nodes[0].numa)
    if nodes < 2:
        return _fact(loaded, "memory_read", on_gpu=False)
    whole = _fact(loaded, "memory_read", on_gpu=False, of=lambda one: nodes_read(one.series) == nodes)
    part = _fact(loaded, "memory_read", on_gpu=False)
    if whole is not None or part is None or part.value is None:
        return whole or part
    reason = f"{part.value / 1e9:,.1f} GB/s were read, of memory on one of {nodes} NUMA nodes, not of all"
    return part.model_copy(update={"value": None, "reason": reason})


def _gpu_rates(inventory: Inventory, loaded: LoadedSeries) -> list[GpuRate]:
    """Of each kind of GPU that is here; which one of the kind was measured is not known."""
    rates = []
    facts = [each for each in map(facts_of, inventory.nodes[0].gpus) if each is not None]
    kinds = dict.fromkeys((each.key, each.reported_name) for each in facts)
    for names in kinds:
        for kernel in GPU_KERNELS:
            fact = _fact(loaded, kernel, on_gpu=True, devices=names)
            if fact is None and kernel == "memory_read":
                fact = _copies(loaded, names)
            if fact is not None:
                rates.append(GpuRate(device=names[0], kernel=kernel, bytes_per_s=fact))
    return rates


def _copies(loaded: LoadedSeries, names: tuple[str | None, ...]) -> FloatFact | None:
    """Copies between the kernels: bytes read and written."""
    found = [
        (one.reference_bytes_per_s, one)
        for one in loaded.kept
        if one.device in names and one.threads is None and one.reference_bytes_per_s is not None
    ]
    return _measured(*max(found, key=lambda each: each[0]), "copies on the GPU between kernels of ") if found else None


def _fact(
    loaded: LoadedSeries,
    kernel: str,
    *,
    on_gpu: bool,
    devices: tuple[str | None, ...] | None = None,
    of: Callable[[MeasuredSeries], bool] = lambda _: True,
) -> FloatFact | None:
    """The best stable rate of a kernel, why there is none, or None where nothing was measured on these devices."""

    def wanted(one: MeasuredSeries) -> bool:
        is_of = one.series.partition("/")[0] == kernel and (one.threads is None) == on_gpu
        return is_of and (devices is None or one.device in devices) and of(one)

    kept = [one for one in loaded.kept if wanted(one)]
    rates = [
        (point.bytes / point.median_s, one)
        for one in kept
        for point in one.points
        if point.stable and 0 < point.bytes < _HIGHEST_RATE * point.median_s
    ]
    if rates:
        return _measured(*max(rates, key=lambda each: each[0]))
    reason = _UNSTABLE if kept else next((text for one, text in loaded.refused.items() if wanted(one)), None)
    return None if reason is None else FloatFact(value=None, source=_PLACE, provenance="measured", reason=reason)


def _measured(rate: float, one: MeasuredSeries, what: str = "") -> FloatFact:
    threads = "" if one.threads is None else f", {one.threads} threads"
    source = printable(f"{_PLACE}, {what}{one.provider} {one.version}{threads}"[:400])
    return FloatFact(value=rate, source=source, provenance="measured", at=_time(one))


def _time(one: MeasuredSeries) -> datetime:
    """When it was measured; of old files only the day is known."""
    try:
        at = datetime.fromisoformat(one.measured_at or one.date)
    except ValueError:
        at = datetime.fromisoformat(one.date)
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)
