"""What can be rented or bought: every priced machine as the flags of a plan, cheapest first, bounded by bytes.

An offer that cannot hold the smallest weights, or cannot read the active ones often enough, is excluded before any
search. Both bounds are optimistic: they take every byte and all bandwidth, so that no offer is lost that could serve.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, Literal, NamedTuple

from formulas.economics import HOURS_PER_MONTH, usd_per_month_owned
from formulas.units import GIB
from planner.cost import cheapest_rent
from planner.plan import Range
from planner.quantities import parse_count
from planner.request import Request
from profiles.builds import Build, known_builds
from profiles.cpus import load_cpu, parse_cpu, resolve_cpu_name
from profiles.gpus import GpuFacts, load_gpu
from profiles.model import active_parameters
from profiles.names import AmbiguousName, UnknownName
from profiles.prices import CloudPrice, MemoryPrice, Prices, PurchasePrice

RENTED_PER_NODE: Final = (1, 2, 4, 8)
NODES: Final = (1, 2, 4)
"""Nodes of one replica; more requests are served by more copies."""
FULL_NODE: Final = 8
DAYS_PER_MONTH: Final = HOURS_PER_MONTH / 24


class Offer(NamedTuple):
    """One machine, of ``nodes`` nodes, with its price and the flags that describe it.

    ``usd_price`` is what is known of its purchase price, None for a rent. ``ram_bandwidth`` None has no RAM described.
    """

    kind: Literal["rent", "buy"]
    name: str
    gpu: GpuFacts
    per_node: int
    nodes: int
    ram: int | None
    ram_bandwidth: float | None
    flags: tuple[tuple[str, str], ...]
    usd_per_hour: float | None
    usd_price: Range | None
    left_out: tuple[str, ...]
    date: str
    source: str

    @property
    def group(self) -> tuple[str, str]:
        """Offers that differ only in how much of the same they have."""
        return self.gpu.key, dict(self.flags).get("cpu", "")

    @property
    def gpus(self) -> int:
        """GPUs of all nodes."""
        return self.per_node * self.nodes

    def usd_per_month(self, hours_per_day: float, years: float) -> float:
        """Rent for the hours used, or depreciation."""
        if self.usd_per_hour is not None:
            return self.usd_per_hour * hours_per_day * DAYS_PER_MONTH
        assert self.usd_price is not None
        return usd_per_month_owned(self.usd_price.expected, years)


def rents(prices: Prices) -> Iterator[Offer]:
    """Every GPU that can be rented, in nodes of one to eight and in several full nodes where they have NVLink.

    The RAM of an instance is not among the facts, so a rented machine is planned without any.
    """
    for key in sorted({one.gpu for one in prices.cloud if one.gpu is not None}):
        facts = load_gpu(key)
        for count in RENTED_PER_NODE:
            for nodes in NODES if count == FULL_NODE and _joins_whole_nodes(facts) else (1,):
                found = cheapest_rent(key, count * nodes, prices.cloud)
                if found is None:
                    continue
                flags = [("gpu", f"{count}x{key}"), *([("nodes", str(nodes))] if nodes > 1 else [])]
                yield Offer(
                    "rent", f"{found.offer.provider}, {_counted(count, nodes, key)}", facts, count, nodes, None, None,
                    tuple(flags), found.usd_per_hour, None, (), found.offer.date, found.offer.source,
                )  # fmt: skip


def purchases(prices: Prices) -> Iterator[Offer]:
    """Every GPU with a price, in every machine that takes it, and complete systems."""
    for key in sorted({one.gpu for one in prices.purchase if one.gpu is not None}):
        facts = load_gpu(key)
        for item in _cheapest_items([one for one in prices.purchase if one.gpu == key]):
            if item.kind == "system":
                yield from _systems(item, facts)
                continue
            form = "module" if _joins_whole_nodes(facts) else "card"
            for build in [one for one in known_builds() if one.form == form and _takes(one, facts)]:
                for count in build.gpus:
                    for ram in build.ram_gib:
                        yield _built(item, facts, build, count, ram, prices)


def _cheapest_items(items: Sequence[PurchasePrice]) -> Iterator[PurchasePrice]:
    """The cheapest accelerator and the cheapest complete system, with a dated price where there is one."""
    for systems in (False, True):
        alike = [one for one in items if (one.kind == "system") is systems]
        if alike:
            yield min(alike, key=lambda one: (not one.date, one.usd_high / one.gpus))


def _takes(build: Build, facts: GpuFacts) -> bool:
    return build.largest_gpu_gb is None or facts.nominal_gb <= build.largest_gpu_gb


def _systems(item: PurchasePrice, facts: GpuFacts) -> Iterator[Offer]:
    for count in (1, 2, 4, 8):
        # A rack has nodes of four, a server is one node.
        per_node = 1 if facts.unified else item.gpus if item.gpus <= FULL_NODE else 4
        nodes = item.gpus // per_node * count
        if nodes > 16 and count > 1:
            return
        flags = [("gpu", f"{per_node}x{facts.key}"), *([("nodes", str(nodes))] if nodes > 1 else [])]
        price = Range(
            low=item.usd_low * count, expected=(item.usd_low + item.usd_high) / 2 * count, high=item.usd_high * count
        )
        left_out = ("the network between them",) if count > 1 else ()
        yield Offer(
            "buy", f"{count}x {item.item}", facts, per_node, nodes, None, None, tuple(flags), None, price, left_out,
            item.date, item.source,
        )  # fmt: skip


def _built(item: PurchasePrice, facts: GpuFacts, build: Build, count: int, ram_gib: int, prices: Prices) -> Offer:
    sockets, cpu = parse_cpu(build.cpu)
    low, high = item.usd_low * count, item.usd_high * count
    left_out = [f"the machine: {build.name}"]
    memory = memory_price(prices, cpu)
    if memory is not None:
        low += memory.usd_per_gib_low * ram_gib
        high += memory.usd_per_gib_high * ram_gib
    else:
        left_out.append(f"{ram_gib:,} GiB of RAM")
    flags = (("gpu", f"{count}x{facts.key}"), ("ram", f"{ram_gib}GiB"), ("cpu", build.cpu), ("cores", str(build.cores)))
    return Offer(
        "buy", f"{count}x {item.item} in a {build.name}, {ram_gib:,} GiB", facts, count, 1, ram_gib * GIB,
        sockets * load_cpu(cpu).bandwidth_bytes_per_s_per_socket, flags, None,
        Range(low=low, expected=(low + high) / 2, high=high), tuple(left_out), item.date, item.source,
    )  # fmt: skip


def memory_price(prices: Prices, cpu: str) -> MemoryPrice | None:
    """The price of the RAM that a CPU takes, by its key or any name of it; None where it is not known."""
    for price in prices.memory:
        if not price.cpus or cpu in price.cpus or cpu in [load_cpu(key).family for key in price.cpus]:
            return price
    try:
        key = resolve_cpu_name(cpu)
    except (UnknownName, AmbiguousName):
        return None
    return next((price for price in prices.memory if key in price.cpus), None)


def spot_of(key: str, gpus: int, prices: Prices) -> CloudPrice | None:
    """The cheapest rent that may end at any time; None where none with a date is known."""
    known = [one for one in prices.cloud if one.gpu == key and one.kind == "spot" and one.date]
    return min(known, key=lambda one: one.usd_per_gpu_hour * -(-gpus // one.min_gpus) * one.min_gpus, default=None)


def _joins_whole_nodes(facts: GpuFacts) -> bool:
    """Whether the GPUs of a node are all joined, not only in pairs: what is built into boards and clusters."""
    return facts.link is not None and facts.link.max_gpus is None


def _counted(count: int, nodes: int, key: str) -> str:
    return f"{nodes} nodes of {count}x {key}" if nodes > 1 else f"{count}x {key}"


def memory_bytes(offer: Offer) -> int:
    """Memory of all GPUs and all RAM."""
    return gpu_bytes(offer) + offer.nodes * (offer.ram or 0)


def gpu_bytes(offer: Offer) -> int:
    """Memory of all GPUs."""
    return offer.gpus * offer.gpu.capacity_bytes


def holds_weights(request: Request, offer: Offer) -> bool:
    """Whether all memory of the offer together is as large as the smallest weights of the request."""
    return memory_bytes(offer) >= _smallest(request)


def reads_fast_enough(request: Request, offer: Offer) -> bool:
    """Whether the bytes that one token activates can be read within ``--tpot``, whatever the engine.

    ``max((w - g) a / r, w a / (r + b))`` for weights ``w`` with active share ``a``, GPU memory ``g`` and bandwidth
    ``b``, RAM bandwidth ``r``: what no GPU holds is read from RAM, and all of it by everything at once. The share of
    active parameters is taken of the smallest release's bytes; what is not a routed expert has more bits than one, so
    that less is counted than is read.
    """
    tpot = request.bounds.tpot_s
    if tpot is None:
        return True
    weights = _smallest(request)
    share = active_parameters(request.model, with_embedding=False) / request.model.parameters
    ram_rate = offer.nodes * (offer.ram_bandwidth or 0.0)
    if ram_rate and max(0, weights - gpu_bytes(offer)) * share / ram_rate > tpot:
        return False
    return weights * share / (offer.gpus * offer.gpu.bandwidth_bytes_per_s + ram_rate) <= tpot


def _smallest(request: Request) -> int:
    return min([release.tensors.bytes for release in request.releases], default=0)


def options_of(offer: Offer) -> dict[str, object]:
    """The offer as hardware options of a plan."""
    return {name: (value,) if name == "gpu" else value for name, value in offer.flags}


def plan_flags(offer: Offer) -> tuple[str, ...]:
    """The same as arguments of ``moeplan plan``."""
    return tuple([word for name, value in offer.flags for word in (f"--{name}", value)])


def hours(text: str | None) -> float:
    """Hours of a day that rented hardware is paid for. Raises ``BadRequest``."""
    return 24.0 if text is None else float(parse_count(text, "--hours-per-day", high=24))


def cheapest_first(offers: Sequence[Offer], hours_per_day: float, years: float) -> list[Offer]:
    """By what a month costs; of equal prices the larger machine first."""
    return sorted(offers, key=lambda one: (one.usd_per_month(hours_per_day, years), -one.gpus))
