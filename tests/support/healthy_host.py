"""A host on which nothing is wrong, around the GPUs of a scenario."""

from __future__ import annotations

from hwdetect.facts import BoolFact, FloatFact, IntFact, IntsFact, TextFact, TextsFact
from hwdetect.inventory import Cpu, Disk, GpuStatus, HostMemory, ModelFolder, Network, Node, NumaNode, Software

GIB = 1 << 30
DISK = Disk(
    mount="/models",
    device="/dev/nvme0n1p1",
    fstype="xfs",
    kind="local",
    read_only=BoolFact.reported(False, "mount options"),
    total_bytes=IntFact.reported(4000 * GIB, "statvfs /models"),
    free_bytes=IntFact.reported(3000 * GIB, "statvfs /models"),
    free_inodes=IntFact.reported(10_000_000, "statvfs /models"),
)
HOST = Node(
    name="node-a",
    gpu_status=GpuStatus(code="no_library", detail="to be replaced"),
    cpu=Cpu(
        sockets=IntFact.reported(2, "/sys"),
        physical_cores=IntFact.reported(96, "/sys"),
        usable_cores=FloatFact.reported(96.0, "sched_getaffinity"),
        cgroup_quota_cores=FloatFact.no_limit("cpu.max"),
        flags=TextsFact.reported(("avx2", "avx512f", "amx_int8"), "/proc/cpuinfo flags"),
    ),
    memory=HostMemory(
        total_bytes=IntFact.reported(2048 * GIB, "/proc/meminfo MemTotal"),
        available_bytes=IntFact.reported(2000 * GIB, "/proc/meminfo MemAvailable"),
        cgroup_limit_bytes=IntFact.no_limit("cgroup memory controller"),
        usable_bytes=IntFact.reported(2048 * GIB, "/proc/meminfo MemTotal"),
        hugetlb_bytes=IntFact.reported(0, "/proc/meminfo Hugetlb"),
        memlock_bytes=IntFact.no_limit("RLIMIT_MEMLOCK (soft)"),
        shm_total_bytes=IntFact.reported(1024 * GIB, "/dev/shm"),
        overcommit=TextFact.reported("heuristic", "/proc/sys/vm/overcommit_memory"),
        open_files=IntFact.reported(1_048_576, "RLIMIT_NOFILE (soft)"),
    ),
    numa=tuple(
        NumaNode(
            index=index,
            cpu_count=IntFact.reported(48, f"/sys/devices/system/node/node{index}/cpulist"),
            memory_total_bytes=IntFact.reported(1024 * GIB, f"/sys/devices/system/node/node{index}/meminfo"),
        )
        for index in (0, 1)
    ),
    disks=(DISK,),
    container=TextFact.reported("none", "/proc/1/cgroup"),
    network=Network(listening_ports=IntsFact.reported((22,), "/proc/net/tcp")),
    software=(Software(name="vllm", version=TextFact.reported("0.33.0", "importlib.metadata"), place="/opt/vllm"),),
    model_folder=ModelFolder(
        path="/models/hub", source="HF_HUB_CACHE", disk=DISK, writable=BoolFact.reported(True, "access /models")
    ),
)
BENCH = {
    "kernels": [
        {
            "series": f"{kernel}/bf16/{dims}",
            "provider": "torch",
            "version": "2.14.0",
            "date": "2026-11-01",
            "device": "h200-sxm-141",
            "points": [{"batch": 1, "median_s": moved / rate, "bytes": moved, "flops": 0.0, "stable": True}],
        }
        for kernel, dims, moved, rate in (
            ("memory_read", "bytes4294967296", 4.0 * GIB, 4.3e12),
            ("host_to_device", "bytes4294967296", 4.0 * GIB, 54e9),
            ("gpu_to_gpu", "bytes4294967296", 4.0 * GIB, 390e9),
            # 8 ranks: the bus carries 2 x 7 / 8 of the message.
            ("all_reduce", "hidden8589934592.ranks8", 16.0 * GIB, 275e9),
        )
    ]
}
"""What a benchmark of a healthy 8x H200 leaves behind."""
