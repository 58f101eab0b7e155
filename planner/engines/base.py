"""What an engine's file provides, and the types that the search and the engines share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple, Protocol

from planner.ledger import Device
from planner.machine import Gpu, GpuGroup, Node
from planner.request import PricedRelease, Request
from planner.sharding import ShardTable
from profiles.engines import EngineFacts
from profiles.serving import load_serving


class Config(NamedTuple):
    """One configuration of one engine, all settings resolved. ``world`` GPUs are used.

    ``tp`` to ``dcp`` are the engine's own arguments. ``group`` is None when no GPU is used. ``placement`` is, for
    engines that place layer by layer, the number of layers on each GPU, and ``gpu_order`` which GPUs of the node these
    are (empty: the first ones, as listed). ``own_experts``: every data-parallel replica is a whole engine, instead of
    sharing the experts with the others. ``lora`` is slots and largest rank; ``draft_tokens`` what the request's drafter
    proposes per step; ``cpu_offload`` bytes of weights per GPU kept in RAM.
    """

    engine: str
    version: str
    group: GpuGroup | None
    tp: int = 1
    pp: int = 1
    dp: int = 1
    ep: int = 1
    dcp: int = 1
    kv_dtype: str = "bf16"
    utilization: float = 1.0
    context: int = 0
    batched_tokens: int = 0
    sequences: int = 0
    text_only: bool = False
    attention_dp: bool = False
    cpu_expert_layers: int = 0
    gpu_experts_per_layer: int = 0
    placement: tuple[int, ...] = ()
    gpu_order: tuple[int, ...] = ()
    disk_bytes: int = 0
    squeezed: bool = False
    own_experts: bool = False
    vision_sharded: bool = False
    lora: tuple[int, int] = (0, 0)
    draft_tokens: int = 0
    cpu_offload: int = 0
    options: tuple[tuple[str, str], ...] = ()

    @property
    def world(self) -> int:
        """GPUs the configuration occupies."""
        if self.group is None:
            return 0
        if self.placement:
            return len(self.placement)
        return self.tp * self.pp * (1 if self.attention_dp else self.dp)

    @property
    def nodes_used(self) -> int:
        """Nodes that the GPUs lie on, at least 1."""
        return max(-(-self.world // self.group.per_node), 1) if self.group is not None else 1

    @property
    def expert_group(self) -> int:
        """Data-parallel replicas that share one set of experts."""
        return 1 if self.own_experts else self.dp

    @property
    def replicas(self) -> int:
        """Independent KV pools: data-parallel ranks."""
        return self.dp


class Refusal(NamedTuple):
    """A configuration the engine's own code refuses, or that makes no sense; ``remedy`` says what would."""

    config: Config | None
    reason: str
    remedy: str = ""


class Pool(NamedTuple):
    """The KV cache of one rank, in bytes and tokens of one replica."""

    bytes_per_token: float
    budget: int
    budget_low: int
    budget_high: int
    tokens: int
    tokens_low: int
    required_tokens: int
    required_bytes: int
    context_bytes: int
    sequence_bytes: int


class Priced(NamedTuple):
    """A configuration with the ledger of every distinct device, its KV pool and what its speed depends on."""

    config: Config
    devices: tuple[Device, ...]
    pool: Pool
    shards: ShardTable
    verdict: Literal["fits", "tight", "no"]
    reason: str = ""
    warnings: tuple[str, ...] = ()
    cpu_expert_bytes: int = 0


class LaunchSpec(NamedTuple):
    """Arguments and environment of one node (``{rank}`` and ``{head}`` stay to be filled for several nodes)."""

    argv: tuple[str, ...]
    env: dict[str, str]
    per_node: tuple[tuple[str, ...], ...] = ()


class Engine(Protocol):
    """One engine: how it shards, what it allocates, what it refuses, how it is started."""

    name: str

    @property
    def facts(self) -> EngineFacts:
        """The engine's fact file."""
        ...

    def accepts(self, release: PricedRelease) -> str:
        """Empty when the engine can load this kind of release, else why not."""
        ...

    def configurations(self, request: Request, release: PricedRelease) -> Iterator[Config | Refusal]:
        """Every configuration worth pricing, and those the engine refuses."""
        ...

    def price(self, request: Request, release: PricedRelease, config: Config) -> Priced:
        """The memory of one configuration."""
        ...

    def launch(self, request: Request, release: PricedRelease, config: Config) -> LaunchSpec:
        """How the configuration is started."""
        ...


def refused_ranks(lead: str, ranks: Iterable[tuple[str, int | None]]) -> Refusal | None:
    """Refusal of ranks that an engine does not have, beginning with ``lead``; None when none is asked for."""
    asked = [f"--{name} {value}" for name, value in ranks if value not in (None, 1)]
    return Refusal(None, f"{lead} {' '.join(asked)}", "leave it out") if asked else None


def visible_devices(node: Node, used: Sequence[int]) -> dict[str, str]:
    """Environment that shows an engine the GPUs ``used`` of a node; empty where it would take them by itself.

    Engines take the first GPUs, and CUDA puts the fastest first unless told to follow the driver's numbers.
    """
    alike = len({gpu.key for gpu in node.gpus}) == 1
    vendors = {gpu.vendor for gpu in node.gpus if gpu.driver_index in used}
    if not used or (alike and list(used) == list(range(len(used)))):
        return {}
    listed = ",".join(str(index) for index in used)
    if vendors == {"nvidia"}:
        return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": listed}
    return {"HIP_VISIBLE_DEVICES": listed} if vendors == {"amd"} else {}


def listening(facts: EngineFacts, version: str, engine: str) -> tuple[str, ...]:
    """Arguments that make a server listen on this machine alone, on the engine's own port."""
    port = str(load_serving(engine).port)
    return facts.flag("host", version), "127.0.0.1", facts.flag("port", version), port


def placed_gpus(node: Node, config: Config) -> tuple[Gpu, ...]:
    """The GPUs that ``placement`` counts layers on, in the order in which the engine sees them."""
    return tuple([node.gpus[place] for place in config.gpu_order or range(len(config.placement))])


def gpu_environment(request: Request, config: Config) -> dict[str, str]:
    """The same for a configuration over equal GPUs."""
    group = config.group
    if group is None:
        return {}
    on_node = config.world // config.nodes_used
    return visible_devices(request.machine.nodes[group.nodes[0]], group.indices[:on_node])


@lru_cache(maxsize=64)
def powers_of_two(limit: int) -> tuple[int, ...]:
    """1, 2, 4 ... up to ``limit``.

    >>> powers_of_two(12)
    (1, 2, 4, 8)
    """
    return tuple(1 << i for i in range(limit.bit_length()) if 1 << i <= limit)


@lru_cache(maxsize=64)
def divisors(number: int) -> tuple[int, ...]:
    """Divisors in ascending order.

    >>> divisors(12)
    (1, 2, 3, 4, 6, 12)
    """
    return tuple(i for i in range(1, number + 1) if number % i == 0)
