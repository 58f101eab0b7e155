"""Small objects of every kind that the views draw, and the program run as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hwdetect.inventory import (
    Cpu,
    Disk,
    FloatFact,
    Gpu,
    GpuMemory,
    GpuStatus,
    HostMemory,
    IntFact,
    Inventory,
    Node,
    TextFact,
)
from planner.memory_report import ClaimVerdict, KvCacheRow, MemoryReport, ParameterCounts, WeightsRow
from planner.plan import (
    BudgetEntry,
    Candidate,
    ChatMode,
    ContainerImage,
    Cost,
    DeviceMemory,
    Download,
    EngineRef,
    Evidence,
    HardwareSummary,
    KvCache,
    Launch,
    LedgerEntry,
    Memory,
    ModelRef,
    Offload,
    Parallel,
    ParetoPoint,
    Performance,
    Plan,
    Quality,
    QualityFact,
    QuantizationRef,
    Range,
    Rejection,
    SearchSummary,
    Serving,
    WorkloadRef,
)

REPOSITORY = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden"
GIB = 1 << 30

Moeplan = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def moeplan() -> Moeplan:
    """Runs ``python -m moeplan ARGUMENTS`` and returns the finished process."""

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR", "FORCE_COLOR")}
        return subprocess.run(
            [sys.executable, "-m", "moeplan", *arguments],
            capture_output=True, text=True, encoding="utf-8", timeout=60, cwd=REPOSITORY, env={**kept, **variables},
        )  # fmt: skip

    return run


@pytest.fixture
def golden() -> Callable[[str, str], None]:
    """Compares text with ``golden/NAME``, byte for byte; MOEPLAN_WRITE_GOLDEN=1 writes it instead."""

    def compare(name: str, text: str) -> None:
        path = GOLDEN / name
        if os.environ.get("MOEPLAN_WRITE_GOLDEN"):
            path.write_bytes(text.encode())
        assert path.read_bytes().decode() == text, (
            f"renew {name}: MOEPLAN_WRITE_GOLDEN=1 python -m pytest tests/moeplan"
        )

    return compare


def entry(kind: str, what: str, gib: float, spread: float = 0.0) -> LedgerEntry:
    """A ledger entry of some GiB, uncertain by ``spread`` GiB either way."""
    low, size, high = (int((gib + change) * GIB) for change in (-spread, 0, spread))
    return LedgerEntry(
        kind=kind,  # type: ignore[arg-type]
        what=what,
        bytes=size,
        low_bytes=low,
        high_bytes=high,
        formula=f"formula of {what}",
        source="where it is written",
        evidence="modelled" if spread else "exact",
    )


def device(
    kind: str, index: int, usable: float, ledger: tuple[LedgerEntry, ...], *, node: int = 0, name: str = "NVIDIA H200"
) -> DeviceMemory:
    """A device whose sums are those of its ledger."""
    room = int(usable * GIB)

    def total(wanted: str) -> int:
        return sum(one.bytes for one in ledger if one.kind == wanted)

    return DeviceMemory(
        node=node,
        kind=kind,  # type: ignore[arg-type]
        index=index,
        name=name,
        capacity_bytes=room + 12 * GIB,
        engine_visible_bytes=room + 11 * GIB,
        usable_bytes=room,
        weights_bytes=total("weights"),
        kv_cache_bytes=total("kv_cache"),
        compute_bytes=total("compute"),
        overhead_bytes=total("overhead"),
        free_bytes=room - sum(one.bytes for one in ledger),
        free_low_bytes=room - sum(one.high_bytes for one in ledger),
        free_high_bytes=room - sum(one.low_bytes for one in ledger),
        ledger=ledger,
    )


def gpu_ledger(weights: float) -> tuple[LedgerEntry, ...]:
    """Weights, KV cache, activation and overhead."""
    return (
        entry("weights", "routed experts", weights),
        entry("kv_cache", "KV cache, mla fp8", 2.7),
        entry("compute", "peak activation", 4.5, 1.5),
        entry("overhead", "memory outside PyTorch", 0.5, 0.25),
    )


def spread(low: float, expected: float, high: float) -> Range:
    """A range."""
    return Range(low=low, expected=expected, high=high)


def timed(what: str, milliseconds: float, share: float, bound_by: str, evidence: Evidence = "modelled") -> BudgetEntry:
    seconds = milliseconds * 1e-3
    return BudgetEntry(
        what=what, seconds=seconds, low_s=seconds / 1.1, high_s=seconds * 1.1, share=share, bound_by=bound_by,
        source=f"where {what} was timed", evidence=evidence,
    )  # fmt: skip


PERFORMANCE = Performance(
    decode_tokens_per_s_per_request=spread(31.4, 40.0, 52.0),
    decode_tokens_per_s_total=spread(502.4, 640.0, 832.0),
    prefill_tokens_per_s=spread(13104.0, 16000.0, 20474.0),
    ttft_s=spread(0.24, 0.3, 0.37),
    tpot_s=spread(0.0192, 0.025, 0.0318),
    effective_concurrency=16.0,
    bound_by="HBM",
    evidence="modelled",
    budget=(
        timed("routed experts", 15.0, 0.6, "HBM", "measured"),
        timed("attention", 7.5, 0.3, "latency"),
        timed("all-reduce", 2.5, 0.1, "link"),
    ),
    prompt_budget=(timed("routed experts", 250.0, 1.0, "compute"),),
)
SERVING = Serving(
    served_name="model-a", port=8000, health="/health", head_port=29501, api_key_variable="VLLM_API_KEY",
    api_key_flag=None, revision_flag="--revision", startup_s=14400, gpu_vendor="nvidia", shm_bytes=16 * GIB,
    packages=("vllm==0.18.0",), repository="https://github.com/vllm-project/vllm",
    image=ContainerImage(reference="vllm/vllm-openai:v0.18.0", source="its tags"), image_program=None,
    download=Download(repository="org/Model-A"), local_path=None, needs_folder=False,
    chat=(
        ChatMode(mode="thinking", temperature=1.0, top_p=0.95, source="its card"),
        ChatMode(
            mode="instant", temperature=0.6, top_p=None, chat_template_kwargs={"thinking": False}, source="its card"
        ),
    ),
)  # fmt: skip
ARGV = ("vllm", "serve", "org/Model-A", "--tensor-parallel-size", "8", "--trust-remote-code", "--host", "127.0.0.1")


def fitting(rank: int = 1) -> Candidate:
    """Eight alike GPUs, vLLM."""
    return Candidate(
        rank=rank,
        engine=EngineRef(name="vllm", version="0.18.0"),
        quantization=QuantizationRef(
            name="int4", publisher="org", release="org/Model-A", bytes=595148192736, evidence="exact"
        ),
        parallel=Parallel(tp=8, pp=1, dp=1, ep=8, dcp=1),
        offload=Offload(),
        verdict="fits",
        fits=True,
        memory=Memory(devices=tuple(device("gpu", index, 128.6, gpu_ledger(71.9)) for index in range(8))),
        kv_cache=KvCache(
            dtype="fp8", layout="mla", bytes_per_token_per_rank=35136.0, budget_bytes_per_rank=50 * GIB,
            budget_low_bytes_per_rank=49 * GIB, budget_high_bytes_per_rank=55 * GIB, tokens=1576297,
            required_tokens=81920, max_sequences_at_context=48,
        ),
        performance=PERFORMANCE,
        quality=Quality(native=True, note="weights as the model's maker published them"),
        cost=Cost(
            usd_per_hour=28.72, usd_per_million_output_tokens=spread(9.6, 12.4, 15.9), provider="Somebody",
            date="2026-08-27", source="their price list",
        ),
        launch=Launch(argv=ARGV, env={"NCCL_DEBUG": "WARN"}, serving=SERVING),
        warnings=("--trust-remote-code runs Python of the model's repository",),
        why="48.2 GiB free on the tightest device",
    )  # fmt: skip


def offloaded(rank: int = 2) -> Candidate:
    """One GPU, the experts in RAM and on disk; tight."""
    memory = Memory(
        devices=(
            device(
                "gpu",
                0,
                23.6,
                (entry("weights", "attention", 12.1), entry("compute", "graph", 10.5, 1.5)),
                name="NVIDIA GeForce RTX 4090",
            ),
            device(
                "host",
                0,
                476.8,
                (entry("weights", "experts", 402.2), entry("overhead", "the rest", 3.0, 1.0)),
                name="AMD EPYC 9004",
            ),
        )
    )
    return fitting(rank).model_copy(
        update={
            "engine": EngineRef(name="llama.cpp", version="b9000"),
            "quantization": QuantizationRef(
                name="UD-Q2_K_XL", publisher="unsloth", release="unsloth/A-GGUF", bytes=375 * 10**9, evidence="assumed"
            ),
            "parallel": Parallel(tp=1, pp=1, dp=1, ep=1, dcp=1),
            "offload": Offload(cpu_expert_layers=23, disk=True, disk_bytes=40 * GIB),
            "verdict": "tight",
            "fits": False,
            "memory": memory,
            "performance": PERFORMANCE.model_copy(update={"bound_by": "RAM", "effective_concurrency": 2.5}),
            "quality": Quality(
                native=False,
                facts=(QualityFact(suite="suite-a", metric="kld", value=0.0709, source="a table"),),
            ),
            "cost": None,
            "launch": Launch(
                argv=("llama-server", "--model", "a b.gguf", "--host", "127.0.0.1"),
                serving=SERVING.model_copy(update={"download": None, "local_path": "a b.gguf", "chat": ()}),
            ),
            "warnings": (),
            "why": "experts of 23 layers stay in RAM",
        }
    )


REJECTED = (
    Rejection(
        engine="vllm", quantization="org/fp8", parallel=Parallel(tp=8, pp=1, dp=1, ep=1, dcp=1),
        reason="weights and buffers alone exceed the usable memory of a GPU", device="gpu NVIDIA H200",
        short_by_bytes=12 * GIB, remedy="at least 9 of these GPUs", count=50,
    ),
    Rejection(
        engine="vllm", quantization="nvidia/nvfp4", parallel=Parallel(tp=4, pp=1, dp=1, ep=1, dcp=1),
        reason="weights and buffers alone exceed the usable memory of a GPU", device="gpu NVIDIA H200",
        short_by_bytes=GIB, remedy="at least 5 of these GPUs", count=7,
    ),
    Rejection(engine="sglang", quantization="org/int4", parallel=None, reason="the engine has no such kernel", count=3),
)  # fmt: skip


def point(candidate: Candidate) -> ParetoPoint:
    return ParetoPoint(
        tokens_per_s_per_user=40.0, tokens_per_s_per_gpu=80.0, total_tokens_per_s_per_gpu=400.0, concurrency=16,
        tpot_s=spread(0.0192, 0.025, 0.0318), ttft_s=spread(0.24, 0.3, 0.37), engine=candidate.engine,
        quantization=candidate.quantization, parallel=candidate.parallel, kv_dtype="fp8", gpus=8, bound_by="HBM",
        rank=1,
    )  # fmt: skip


def plan_of(candidates: tuple[Candidate, ...], rejected: tuple[Rejection, ...] = REJECTED) -> Plan:
    """A plan with these."""
    return Plan(
        schema="moeplan.plan/1",
        generated_by="moeplan 0.1.0",
        model=ModelRef(
            id="model-a", name="Model A", family="deepseek_v3", repository="org/Model-A",
            parameters=1026879376368, active_parameters=32861500928, max_context=262144,
        ),
        workload=WorkloadRef(
            name="chat", context=32768, concurrency=16, input_tokens=4096, output_tokens=1024,
            required_kv_tokens=81920, ttft_s=2.0, tpot_s=0.05,
        ),
        hardware=HardwareSummary(
            description="8x h200-sxm-141", source="flags", gpus=("h200-sxm-141",) * 8, nodes=1, host_memory_bytes=None,
            notes=("--gpu 8xH200 is read as h200-sxm-141 (NVIDIA H200)",),
        ),
        inventory={},
        objective="balanced",
        candidates=candidates,
        pareto=tuple([point(candidate) for candidate in candidates[:1]]),
        rejected=rejected,
        search=SearchSummary(
            evaluated=1234, fitting=sum(one.fits for one in candidates),
            tight=sum(not one.fits for one in candidates), rejected=sum(one.count for one in rejected),
        ),
        notes=("--gpu 8xH200 is read as h200-sxm-141 (NVIDIA H200)", "a note about the model"),
    )  # fmt: skip


@pytest.fixture
def plan() -> Plan:
    """One candidate that fits, one that is tight, three rejections."""
    return plan_of((fitting(), offloaded()))


@pytest.fixture
def tight_plan() -> Plan:
    """The best is tight."""
    return plan_of((offloaded(1),))


@pytest.fixture
def empty_plan() -> Plan:
    """Nothing fits."""
    return plan_of(())


@pytest.fixture
def two_node_plan() -> Plan:
    """A candidate over two nodes, whose command holds the head node's address in both forms."""
    devices = tuple(
        device("gpu", index, 72.9, gpu_ledger(36.5 - node), node=node) for node in range(2) for index in range(8)
    )
    shared = (*ARGV[:5], "--nnodes", "2", "--node-rank")
    launch = Launch(
        argv=(*shared, "0", "--master-addr", "HEAD_ADDRESS", "--host", "127.0.0.1"),
        env={"B": "it's", "A": "x y"},
        per_node_argv=(
            (*shared, "0", "--master-addr", "HEAD_ADDRESS", "--host", "127.0.0.1"),
            (*shared, "1", "--dist-init-addr", "HEAD_ADDRESS:5000", "--headless"),
        ),
        serving=SERVING,
    )
    changed = {"memory": Memory(devices=devices), "launch": launch, "parallel": Parallel(tp=8, pp=2, dp=1, ep=1, dcp=1)}
    return plan_of((fitting().model_copy(update=changed),))


@pytest.fixture
def refused_estimate() -> Plan:
    """An estimate that does not fit, with its ledger."""
    memory = Memory(devices=tuple(device("gpu", index, 72.9, gpu_ledger(71.9)) for index in range(8)))
    rejected = REJECTED[0].model_copy(update={"memory": memory, "kv_cache": fitting().kv_cache, "count": 1})
    return plan_of((), (rejected,))


@pytest.fixture
def report() -> MemoryReport:
    """Two releases, two KV rows."""
    return MemoryReport(
        schema="moeplan.memory/1",
        generated_by="moeplan 0.1.0",
        model="model-a",
        name="Model A",
        family="deepseek_v3",
        max_context=262144,
        parameters=ParameterCounts(total=1026879376368, active=32861500928, active_without_embedding=31687095808),
        weights=(
            WeightsRow(
                quantization="int4", publisher="org", release="org/Model-A", status="published", bytes=595148192736,
                bytes_by_class={"routed_experts": 582811302880, "attention": 12336889856},
                active_bytes_per_token=32986531072, evidence="exact", includes_vision=True,
            ),
            WeightsRow(
                quantization="bf16", publisher="hypothetical", release="", status="hypothetical", bytes=2053758752736,
                bytes_by_class={"routed_experts": 2053756739552, "norms": 2013184},
                active_bytes_per_token=63372000000, evidence="modelled", includes_vision=False,
                note="nobody publishes it",
            ),
        ),
        kv_cache=(
            KvCacheRow(
                layout="mla", dtype="bf16", bytes_per_token=70272.0, bytes=18421383168, tokens=262144, sequences=1
            ),
            KvCacheRow(
                layout="mla_expanded_mha", dtype="bf16", bytes_per_token=2498560.0, bytes=654982512640, tokens=262144,
                sequences=1, note="for comparison: 35.6 times the latent",
            ),
        ),
        notes=("a note about the model",),
    )  # fmt: skip


@pytest.fixture
def claims_report(report: MemoryReport) -> MemoryReport:
    """The same with a right, a wrong and an open claim."""
    claims = (
        ClaimVerdict(
            claim="3.2 % are active", claimed="3.2 %", computed="3.20%", verdict="right", reason="counted", source="a"
        ),
        ClaimVerdict(
            claim="it runs on 2x H100", claimed="2x H100", computed="595.1 GB against 171 GB", verdict="wrong",
            off_by="424 GB short", reason="the weights alone need 3.5 times the memory", source="a",
        ),
        ClaimVerdict(
            claim="it is pleasant", claimed="yes", computed="-", verdict="not_checkable", reason="taste", source="a"
        ),
    )  # fmt: skip
    return report.model_copy(update={"claims": claims})


@pytest.fixture
def inventory() -> Inventory:
    """Two alike GPUs that differ in their identity, and facts of every kind."""
    gpus = tuple(
        Gpu(
            index=index,
            uuid=TextFact.reported(f"GPU-{index}", "nvmlDeviceGetUUID"),
            name=TextFact.reported("NVIDIA H200", "nvmlDeviceGetName"),
            memory=GpuMemory(total_bytes=IntFact.reported(150754820096, "nvmlDeviceGetMemoryInfo_v2")),
            power_limit_w=FloatFact.missing("nvmlDeviceGetPowerManagementLimit", "not supported"),
        )
        for index in range(2)
    )
    node = Node(
        name="box",
        gpus=gpus,
        gpu_status=GpuStatus(code="ok", detail="2 GPUs"),
        cpu=Cpu(sockets=IntFact.reported(2, "/sys"), usable_cores=FloatFact.reported(63.5, "cgroup")),
        memory=HostMemory(
            total_bytes=IntFact.reported(512 * GIB, "/proc/meminfo"),
            cgroup_limit_bytes=IntFact.no_limit("cgroup"),
            bandwidth_bytes_per_s=FloatFact(value=4e11, source="bench", provenance="measured"),
        ),
        disks=(Disk(mount="/data", free_bytes=IntFact.reported(2 * 10**12, "statvfs /data")),),
        environment={"CUDA_VISIBLE_DEVICES": "0,1"},
    )
    return Inventory(nodes=(node,), notes=("something to know",))
