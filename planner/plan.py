"""The plan and its JSON, ``moeplan.plan/1``. Other programs rely on these keys: add freely, never rename.

Sizes are bytes (int), times seconds, rates per second. A field that could not be determined is null, never zero.
"""

from __future__ import annotations

from math import inf
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

PLAN_SCHEMA: Final = "moeplan.plan/1"

Evidence = Literal["exact", "measured", "modelled", "assumed"]
Verdict = Literal["fits", "tight", "no"]


class Record(BaseModel):
    """Frozen, strict in its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True, protected_namespaces=())


class Range(Record):
    """A quantity with its uncertainty; ``low <= expected <= high``."""

    low: float
    expected: float
    high: float


def _above_zero(times: Range) -> Range:
    if not 0 < times.low <= times.expected <= times.high < inf:
        raise ValueError("not low <= expected <= high, all above zero")
    return times


Times = Annotated[Range, AfterValidator(_above_zero)]
"""Seconds, of which no machine needs none."""
Count = Annotated[int, Field(ge=1)]
Place = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class LedgerEntry(Record):
    """One named part of a device's memory. ``low`` and ``high`` equal ``bytes`` when the entry is exact."""

    kind: Literal["weights", "kv_cache", "compute", "overhead"]
    what: str
    bytes: int
    low_bytes: int
    high_bytes: int
    formula: str
    source: str
    evidence: Evidence


class DeviceMemory(Record):
    """The ledger of one device and its sums. ``free_bytes`` is usable minus the ledger; negative when it is short."""

    node: Place
    kind: Literal["gpu", "host", "unified", "disk"]
    index: Place
    name: str
    capacity_bytes: int
    engine_visible_bytes: int
    usable_bytes: int
    weights_bytes: int
    kv_cache_bytes: int
    compute_bytes: int
    overhead_bytes: int
    free_bytes: int
    free_low_bytes: int
    free_high_bytes: int
    ledger: tuple[LedgerEntry, ...]


class Memory(Record):
    """Memory of every device of a configuration."""

    devices: tuple[DeviceMemory, ...]


class KvCache(Record):
    """The KV cache of one rank: what a token costs, what room there is, what that holds.

    ``tokens`` counts the tokens of one replica (data-parallel replicas hold that many each).
    """

    dtype: str
    layout: str
    bytes_per_token_per_rank: float
    budget_bytes_per_rank: int
    budget_low_bytes_per_rank: int
    budget_high_bytes_per_rank: int
    tokens: int
    required_tokens: int
    max_sequences_at_context: int


class EngineRef(Record):
    """An inference engine and the version the numbers are for."""

    name: str
    version: str


class QuantizationRef(Record):
    """A release: the same quantization name of two publishers is two releases."""

    name: str
    publisher: str
    release: str
    status: Literal["published", "hypothetical"] = "published"
    bytes: int
    evidence: Evidence


class Parallel(Record):
    """Ranks: tensor, pipeline, data, expert (1 when experts are sharded by tensor parallelism), decode context."""

    tp: int
    pp: int
    dp: int
    ep: int
    dcp: int


class Offload(Record):
    """Where routed experts live when not on a GPU.

    ``cpu_expert_layers`` layers keep all or part of their experts in RAM, ``gpu_experts_per_layer`` of them stay on
    the GPUs; ``disk_bytes`` are paged from disk.
    """

    cpu_expert_layers: int = 0
    gpu_experts_per_layer: int = 0
    disk: bool = False
    disk_bytes: int = 0


class BudgetEntry(Record):
    """A row of the time budget of one output token: ``seconds`` of it, as a range, and what bounds them.

    The rows' ``seconds`` sum to the expected time per token. ``evidence`` is measured where a calibration of this
    machine has the kernel, else modelled; ``source`` says from what.
    """

    what: str
    seconds: float
    low_s: float
    high_s: float
    share: float
    bound_by: str
    source: str
    evidence: Evidence


class Performance(Record):
    """Speed at the workload, as ranges, with what bounds it and how it is known.

    ``budget`` is the time of one output token by kernel, ``prompt_budget`` that of one request's prompt.
    """

    decode_tokens_per_s_per_request: Range
    decode_tokens_per_s_total: Range
    prefill_tokens_per_s: Range
    ttft_s: Times
    tpot_s: Times
    effective_concurrency: float
    bound_by: str
    evidence: str
    budget: tuple[BudgetEntry, ...] = ()
    prompt_budget: tuple[BudgetEntry, ...] = ()


class Percentiles(Record):
    """Mean and percentiles of what single requests saw."""

    mean: float
    p50: float
    p95: float
    p99: float


class Simulation(Record):
    """A discrete-event simulation of the workload on the expected step times.

    ``arrival_rate_per_s`` is null for a fixed number of users; ``length_variation`` is the coefficient of variation of
    the lengths. ``requests`` were counted, start and end left out; ``ttft_s`` includes ``queue_s``. ``goodput`` counts
    those within the bounds on TTFT and TPOT. ``saturated``: arrivals outrun the machine, and waiting only grows.
    """

    arrival_rate_per_s: float | None
    length_variation: float
    requests: int
    ttft_s: Percentiles
    tpot_s: Percentiles
    latency_s: Percentiles
    queue_s: Percentiles
    mean_running: float
    mean_waiting: float
    output_tokens_per_s: float
    requests_per_s: float
    goodput_share: float
    goodput_requests_per_s: float
    preemptions: int
    saturated: bool
    evidence: Evidence


class Kernel(Record):
    """A kernel the speed depends on, as a benchmark measures it: ``hwdetect.bench.KernelCase`` with its series."""

    series: str
    kernel: str
    quantization: str
    dims: dict[str, int]
    batch: int
    context: int = 0


class QualityFact(Record):
    """A measured quality of this quantization under one suite; suites are not comparable with each other.

    ``measured_on`` is the release itself, or its main type alone throughout, which says little of a mixture.
    """

    suite: str
    metric: str
    value: float
    baseline: float | None = None
    source: str
    measured_on: Literal["release", "type"] = "release"


class Quality(Record):
    """What is known of the quality loss; ``native`` means the weights as the model's maker published them."""

    native: bool
    facts: tuple[QualityFact, ...] = ()
    note: str = ""


class Cost(Record):
    """Rent of the hardware by the cheapest known offer; null where no price is known."""

    usd_per_hour: float | None
    usd_per_million_output_tokens: Range | None
    provider: str | None
    date: str | None
    source: str | None
    note: str = ""


class ContainerImage(Record):
    """A container image that holds exactly this engine version."""

    reference: str
    source: str


class Download(Record):
    """What to fetch from the Hub before the first start. Empty ``include`` means the whole repository."""

    repository: str
    include: tuple[str, ...] = ()


class ChatMode(Record):
    """Sampling of one mode of answering, and what a request hands the chat template to choose it."""

    mode: str
    temperature: float
    top_p: float | None
    chat_template_kwargs: dict[str, bool] = Field(default_factory=dict)
    source: str


class Serving(Record):
    """What the launch files need beside the command.

    Nodes meet on ``head_port``. Starting takes at most ``startup_s``, with a slow download. Weights are named by
    ``download``, or lie on ``local_path``; where ``needs_folder``, the engine wants the folder of the download. The
    engine itself comes as pip's ``packages``, or from its ``repository`` where there are none. ``images``: requests may
    carry pictures.
    """

    served_name: str
    port: int
    health: str
    head_port: int | None
    api_key_variable: str
    api_key_flag: str | None
    revision_flag: str | None
    startup_s: int
    gpu_vendor: str | None
    shm_bytes: int | None
    packages: tuple[str, ...]
    repository: str
    image: ContainerImage | None
    image_program: tuple[str, ...] | None
    download: Download | None
    local_path: str | None
    needs_folder: bool
    chat: tuple[ChatMode, ...] = ()
    images: bool = False


class Launch(Record):
    """How the engine is started: arguments, environment, files to write beside it.

    With several nodes ``per_node_argv`` has the arguments of each, in which HEAD_ADDRESS stands for the address of
    node 0.
    """

    argv: tuple[str, ...]
    env: dict[str, str] = Field(default_factory=dict)
    files: dict[str, str] = Field(default_factory=dict)
    per_node_argv: tuple[tuple[str, ...], ...] = ()
    serving: Serving | None = None


class Candidate(Record):
    """One configuration that starts and holds the workload (``fits``), or may (``tight``)."""

    rank: int
    engine: EngineRef
    quantization: QuantizationRef
    parallel: Parallel
    offload: Offload
    verdict: Verdict
    fits: bool
    memory: Memory
    kv_cache: KvCache
    performance: Performance
    simulation: Simulation | None = None
    kernels: tuple[Kernel, ...] = ()
    quality: Quality
    cost: Cost | None
    launch: Launch
    settings: dict[str, Any] = Field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    why: str = ""


class Rejection(Record):
    """A configuration that does not fit or that the engine refuses, and what would help."""

    engine: str
    quantization: str
    parallel: Parallel | None
    reason: str
    device: str | None = None
    short_by_bytes: int | None = None
    remedy: str = ""
    memory: Memory | None = None
    kv_cache: KvCache | None = None
    count: int = 1


class ParetoPoint(Record):
    """A configuration at a concurrency that no other beats in both: tokens per second of a GPU, and of a user.

    ``tokens_per_s_per_gpu`` counts output tokens, ``total_tokens_per_s_per_gpu`` input and output, as published
    comparisons do. ``rank`` is the candidate's, null when it is not among those shown.
    """

    tokens_per_s_per_user: float
    tokens_per_s_per_gpu: float
    total_tokens_per_s_per_gpu: float
    concurrency: int
    tpot_s: Range
    ttft_s: Range
    engine: EngineRef
    quantization: QuantizationRef
    parallel: Parallel
    kv_dtype: str
    gpus: int
    bound_by: str
    rank: int | None = None
    note: str = ""


class ModelRef(Record):
    """The model as planned."""

    id: str
    name: str
    family: str
    repository: str
    parameters: int
    active_parameters: int
    max_context: int


class WorkloadRef(Record):
    """What the machine is asked to carry. Lengths are tokens."""

    name: str
    context: Count
    concurrency: Count
    input_tokens: Count
    output_tokens: Count
    images: Place = 0
    prefix_cache_hit_rate: Share = 0.0
    routing: Literal["uniform", "power_law"] = "uniform"
    required_kv_tokens: int
    ttft_s: float | None = None
    tpot_s: float | None = None
    min_throughput: float | None = None


class HardwareSummary(Record):
    """The hardware in one line per kind, with where it comes from."""

    description: str
    source: Literal["flags", "detected", "file"]
    gpus: tuple[str, ...]
    nodes: int
    host_memory_bytes: int | None
    notes: tuple[str, ...] = ()


class SearchSummary(Record):
    """How much was searched."""

    evaluated: int
    fitting: int
    tight: int
    rejected: int


class FleetPool(Record):
    """Equal nodes of a fleet and the replica that they run; without one, ``why`` says what is in the way.

    ``concurrency`` and ``decode_tokens_per_s_total`` are those of all replicas together. ``stranded_gpus`` serve
    nothing: those of spare nodes, and those that a replica leaves idle.
    """

    description: str
    nodes: int
    node_names: tuple[str, ...]
    gpus_per_node: int
    candidate_rank: int | None
    nodes_per_replica: int | None
    replicas: int
    spare_nodes: int
    stranded_gpus: int
    idle_gpus_per_replica: int
    concurrency: float
    decode_tokens_per_s_total: Range | None
    why: str


class Fleet(Record):
    """Many nodes as pools of replicas, and their sums."""

    pools: tuple[FleetPool, ...]
    nodes: int
    gpus: int
    replicas: int
    stranded_gpus: int
    concurrency: float
    decode_tokens_per_s_total: Range


class Plan(Record):
    """The answer: ranked candidates, what was rejected and why, and everything it was computed from."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", defer_build=True, populate_by_name=True, protected_namespaces=()
    )

    schema_: Literal["moeplan.plan/1"] = Field(PLAN_SCHEMA, alias="schema")
    generated_by: str
    model: ModelRef
    workload: WorkloadRef
    hardware: HardwareSummary
    inventory: dict[str, Any]
    objective: str
    candidates: tuple[Candidate, ...]
    pareto: tuple[ParetoPoint, ...] = ()
    rejected: tuple[Rejection, ...]
    search: SearchSummary
    fleet: Fleet | None = None
    notes: tuple[str, ...] = ()

    def to_json(self, *, indent: int | None = 2) -> str:
        """The plan as ``moeplan.plan/1`` JSON."""
        return self.model_dump_json(indent=indent, by_alias=True)
