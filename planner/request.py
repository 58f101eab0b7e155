"""One request, fully parsed: every view builds this and nothing else parses sizes or names."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from planner.machine import Machine
from profiles.drafters import Drafter
from profiles.mixtures import ReleaseTensors
from profiles.model import ModelSpec, Release

if TYPE_CHECKING:
    from hwdetect.bench.measured import MeasuredSeries
    from planner.calibrate import ObservedStart
    from planner.verify_report import MeasuredLoad

Objective = Literal["balanced", "throughput", "latency", "context", "cost", "quality"]
OBJECTIVES: Final = ("balanced", "throughput", "latency", "context", "cost", "quality")


@dataclass(frozen=True, slots=True)
class Demand:
    """What has to be served. Lengths are tokens; ``prefix_cache_hit_rate`` is the share of input found in cache.

    ``routing`` is how its tokens choose experts.
    """

    name: str
    context: int
    concurrency: int
    input_tokens: int
    output_tokens: int
    images: int = 0
    prefix_cache_hit_rate: float = 0.0
    routing: Literal["uniform", "power_law"] = "uniform"

    def required_tokens(self, replicas: int = 1, block: int = 1) -> int:
        """KV tokens one of ``replicas`` must hold: one whole context, and its share of the requests.

        Each request is rounded up to whole blocks.
        """
        each = -(-(self.input_tokens + self.output_tokens) // block) * block
        whole = -(-self.context // block) * block
        return max(whole, -(-self.concurrency // replicas) * each)


@dataclass(frozen=True, slots=True)
class Settings:
    """Engine settings given by the user; None leaves them to the engine's file."""

    utilization: float | None = None
    max_num_batched_tokens: int | None = None
    max_num_seqs: int | None = None
    text_only: bool = False
    batch: int | None = None
    ubatch: int | None = None
    cache_type_k: str | None = None
    cache_type_v: str | None = None
    sequences: int | None = None
    kv_unified: bool | None = None
    flash_attention: bool | None = None
    n_cpu_moe: int | None = None
    enforce_eager: bool = False
    vision_sharded: bool = False
    max_loras: int = 0
    max_lora_rank: int = 0
    cpu_offload_bytes: int = 0
    draft_tokens: int = 0
    accept_length: float | None = None


@dataclass(frozen=True, slots=True)
class Narrow:
    """Values the search is restricted to; None does not restrict."""

    engine: str | None = None
    engine_version: str | None = None
    kv_dtype: str | None = None
    tp: int | None = None
    pp: int | None = None
    dp: int | None = None
    ep: int | None = None
    dcp: int | None = None


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits that a candidate must meet, seconds and tokens per second."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    min_throughput: float | None = None
    max_kld: float | None = None
    quality_suite: str | None = None


@dataclass(frozen=True, slots=True)
class Traffic:
    """How the requests of a simulation come.

    ``rate_per_s`` is that of Poisson arrivals; None is a fixed number of users (the concurrency) without pauses.
    ``variation`` is the coefficient of variation of the input and of the output length (log-normal; 0 is constant).
    ``requests`` None leaves their number to the simulation.
    """

    rate_per_s: float | None = None
    variation: float = 0.0
    requests: int | None = None
    seed: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class PricedRelease:
    """A release with its tensors resolved, and what many configurations share.

    ``kept`` is what depends on model and release alone, such as shard tables, or on what its key names: the next
    request finds it. ``memo`` also depends on the machine and the demand.
    """

    release: Release
    tensors: ReleaseTensors
    memo: dict[Any, Any] = field(default_factory=dict, repr=False)
    kept: dict[Any, Any] = field(default_factory=dict, repr=False)

    def afresh(self) -> PricedRelease:
        """The same release for another machine or demand, which what is kept in ``memo`` depends on."""
        return PricedRelease(self.release, self.tensors, kept=self.kept)

    @property
    def expert_format(self) -> str:
        """Storage format of the routed experts' gate projection, or of the dense one where there are no experts."""
        found = self.kept.get("expert format")
        if found is None:
            roles = {group.role: group.format for group in self.tensors.groups}
            found = self.kept["expert format"] = roles.get("expert_gate") or roles.get("dense_gate", "bf16")
        return str(found)


@dataclass(frozen=True, slots=True)
class Request:
    """Everything the search needs. ``exact`` asks for one configuration as given, ``estimate``.

    ``kernels`` are series that were measured on this very machine, ``observed`` and ``loads`` engines that ran there;
    ``traffic`` asks for a simulation of it.
    """

    model: ModelSpec
    machine: Machine
    demand: Demand
    releases: tuple[PricedRelease, ...]
    settings: Settings = field(default_factory=Settings)
    narrow: Narrow = field(default_factory=Narrow)
    bounds: Bounds = field(default_factory=Bounds)
    objective: Objective = "balanced"
    top: int = 5
    exact: bool = False
    workload_given: bool = True
    drafter: Drafter | None = None
    observed: tuple[ObservedStart, ...] = ()
    kernels: tuple[MeasuredSeries, ...] = ()
    loads: tuple[MeasuredLoad, ...] = ()
    traffic: Traffic | None = None
