"""What an inventory says of the host: memory, processors, disks, logs and software. Facts, as everywhere."""

from __future__ import annotations

from typing import Literal

from hwdetect.facts import BoolFact, FloatFact, IntFact, IntsFact, Maybe, Model, Natural, Text, TextFact, TextsFact

DiskKind = Literal["local", "network", "memory", "overlay"]


class HostMemory(Model):
    """Main memory. usable_bytes = min(total less huge pages and GPU memory, cgroup limit).

    memlock_bytes and open_files: this process's soft limits. shm_*: /dev/shm, which collective libraries use.
    """

    total_bytes: Maybe[IntFact] = None
    available_bytes: Maybe[IntFact] = None
    cgroup_limit_bytes: Maybe[IntFact] = None
    cgroup_used_bytes: Maybe[IntFact] = None
    usable_bytes: Maybe[IntFact] = None
    swap_total_bytes: Maybe[IntFact] = None
    swap_free_bytes: Maybe[IntFact] = None
    cgroup_swap_limit_bytes: Maybe[IntFact] = None
    hugepages_total: Maybe[IntFact] = None
    hugepages_free: Maybe[IntFact] = None
    hugepage_size_bytes: Maybe[IntFact] = None
    hugetlb_bytes: Maybe[IntFact] = None
    transparent_hugepages: Maybe[TextFact] = None
    memlock_bytes: Maybe[IntFact] = None
    shm_total_bytes: Maybe[IntFact] = None
    shm_free_bytes: Maybe[IntFact] = None
    overcommit: Maybe[TextFact] = None
    open_files: Maybe[IntFact] = None
    bandwidth_bytes_per_s: Maybe[FloatFact] = None


class Cpu(Model):
    """The processors of one node together.

    flags: those of `host_cpu.FLAGS` that the kernel lists. usable_cores: physical cores this process may run
    on, or the cgroup quota where that is less.
    """

    model: Maybe[TextFact] = None
    vendor: Maybe[TextFact] = None
    sockets: Maybe[IntFact] = None
    physical_cores: Maybe[IntFact] = None
    logical_cpus: Maybe[IntFact] = None
    affinity_cpus: Maybe[IntFact] = None
    cpuset: Maybe[TextFact] = None
    cgroup_quota_cores: Maybe[FloatFact] = None
    usable_cores: Maybe[FloatFact] = None
    flags: Maybe[TextsFact] = None


class NumaNode(Model):
    """A memory node. Without CPUs it may be a GPU's memory (`gpu_index`) or an expander; memory may be 0."""

    index: Natural
    cpus: Maybe[TextFact] = None
    cpu_count: Maybe[IntFact] = None
    memory_total_bytes: Maybe[IntFact] = None
    memory_free_bytes: Maybe[IntFact] = None
    distances: tuple[Natural, ...] = ()
    gpu_index: Maybe[Natural] = None


class Disk(Model):
    """A mounted file system. read_bytes_per_s: sequential, measured or described.

    kind: where its bytes are: on a disk here, behind a network, in memory, or in a container's layer.
    """

    mount: Maybe[Text] = None
    device: Maybe[Text] = None
    fstype: Maybe[Text] = None
    kind: Maybe[DiskKind] = None
    read_only: Maybe[BoolFact] = None
    total_bytes: Maybe[IntFact] = None
    free_bytes: Maybe[IntFact] = None
    free_inodes: Maybe[IntFact] = None
    read_bytes_per_s: Maybe[FloatFact] = None


class OperatingSystem(Model):
    """As `uname` and os-release name it."""

    system: Maybe[Text] = None
    kernel: Maybe[Text] = None
    architecture: Maybe[Text] = None
    distribution: Maybe[Text] = None


class MemoryModule(Model):
    """One socket for a memory module, as the firmware's table lists it. speed: configured, not rated."""

    locator: Maybe[Text] = None
    bank: Maybe[Text] = None
    size_bytes: Maybe[IntFact] = None
    speed_mt_per_s: Maybe[IntFact] = None
    rated_speed_mt_per_s: Maybe[IntFact] = None
    data_width_bits: Maybe[IntFact] = None
    kind: Maybe[Text] = None


class MemoryModules(Model):
    """Memory modules. channels: distinct channels that the locators name, where all of them name one.

    nominal_bytes_per_s: channels x configured speed x 8 bytes, a figure of the table, not of a measurement.
    """

    modules: tuple[MemoryModule, ...] = ()
    slots: Maybe[IntFact] = None
    populated: Maybe[IntFact] = None
    channels: Maybe[IntFact] = None
    nominal_bytes_per_s: Maybe[FloatFact] = None


class KernelEvent(Model):
    """One Xid (NVIDIA GPU) or SXid (NVSwitch) of the kernel's log. age_s: at the time of the scan, if known."""

    kind: Literal["xid", "sxid"]
    code: Natural
    bus_id: Maybe[Text] = None
    age_s: Maybe[Natural] = None
    count: Natural = 1
    text: Text


class KernelLog(Model):
    """The GPU events in the kernel's log. `read` is missing, with its reason, where the log could not be read.

    An empty tuple of events means that nothing happened only where `read` has a value, and only as far back as the
    log reaches (`covers_s`).
    """

    read: Maybe[TextFact] = None
    covers_s: Maybe[IntFact] = None
    events: tuple[KernelEvent, ...] = ()


class Software(Model):
    """A program that serves models, or what it needs. place: the interpreter or the file it was found by."""

    name: Text
    version: Maybe[TextFact] = None
    place: Maybe[Text] = None


class Checkpoint(Model):
    """A model that lies in the cache of models. complete: no part of it is still being downloaded."""

    repository: Text
    bytes: IntFact
    complete: Maybe[BoolFact] = None


class ModelFolder(Model):
    """Where engines of this user keep what they download, and the file system it lies on."""

    path: Text
    source: Text
    disk: Maybe[Disk] = None
    writable: Maybe[BoolFact] = None
    checkpoints: tuple[Checkpoint, ...] = ()


class Network(Model):
    """TCP ports that something on this machine listens on already."""

    listening_ports: Maybe[IntsFact] = None
