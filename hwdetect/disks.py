"""Mounted file systems that could hold a model, and how much is free on them."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path
from typing import NamedTuple, Protocol

import psutil

from hwdetect.facts import BoolFact, IntFact, printable
from hwdetect.host_parts import Disk, DiskKind

# These hold no files of ours: kernel interfaces, or memory that is counted as memory.
_PSEUDO = frozenset(
    (
        *("autofs", "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devfs", "devpts"),
        *("devtmpfs", "efivarfs", "fdescfs", "fuse.gvfsd-fuse", "fuse.lxcfs", "fuse.portal", "fusectl"),
        *("hugetlbfs", "mqueue", "nsfs", "proc", "pstore", "ramfs", "rpc_pipefs", "securityfs", "selinuxfs"),
        *("squashfs", "sysfs", "tmpfs", "tracefs"),
    )
)
_NETWORK = frozenset(
    (
        *("9p", "afs", "beegfs", "ceph", "cifs", "fuse.gcsfuse", "fuse.glusterfs", "fuse.goofys", "fuse.juicefs"),
        *("fuse.rclone", "fuse.s3fs", "fuse.sshfs", "glusterfs", "gpfs", "lustre", "nfs", "nfs4", "smb3", "smbfs"),
        *("wekafs",),
    )
)
_MEMORY = frozenset(("ramfs", "tmpfs"))
_OVERLAYS = frozenset(("aufs", "fuse.fuse-overlayfs", "overlay"))
_LOCAL = frozenset(
    (
        *("apfs", "bcachefs", "btrfs", "exfat", "ext2", "ext3", "ext4", "f2fs", "fuseblk", "hfs", "jfs", "ntfs"),
        *("ntfs3", "reiserfs", "ufs", "vfat", "xfs", "zfs"),
    )
)
ANSWER_TIMEOUT_S = 2.0


class _Usage(NamedTuple):
    device_id: int
    is_directory: bool
    total_bytes: int
    free_bytes: int
    inodes: int
    free_inodes: int


def disks() -> tuple[Disk, ...]:
    """Every real file system once, under its shortest mount point, in the order of mount points.

    Single files that a container runtime mounts do not count. A file system that does not answer within
    `ANSWER_TIMEOUT_S` (a dead NFS server) is listed without its sizes.
    """
    found: dict[object, Disk] = {}
    for partition in sorted(psutil.disk_partitions(all=True), key=lambda each: each.mountpoint):
        # A container's own root is an overlay; on a host, overlays are the roots of its containers.
        if partition.fstype in _PSEUDO or (partition.fstype == "overlay" and partition.mountpoint != "/"):
            continue
        usage = _usage(partition.mountpoint)
        if isinstance(usage, _Usage) and (not usage.is_directory or usage.total_bytes == 0):
            continue
        key = usage.device_id if isinstance(usage, _Usage) else partition.mountpoint
        if key not in found:
            found[key] = _disk(partition, usage)
    return tuple(found.values())


def disk_of(path: Path) -> Disk | None:
    """The file system a path lies on, memory included; None where the table of mounts does not hold it."""
    parts = psutil.disk_partitions(all=True)
    above = {str(path), *map(str, path.parents)}
    around = [part for part in parts if part.mountpoint in above]
    if not around:
        return None
    # Of mounts on the same point the last one is what one sees.
    partition = max(reversed(around), key=lambda part: len(part.mountpoint))
    return _disk(partition, _usage(str(path)))


def kind_of(fstype: str) -> DiskKind | None:
    """Where a file system of this type keeps its bytes; None where that cannot be told from its name.

    >>> kind_of("nfs4"), kind_of("tmpfs"), kind_of("virtiofs")
    ('network', 'memory', None)
    """
    kinds: tuple[tuple[frozenset[str], DiskKind], ...] = (
        (_NETWORK, "network"),
        (_MEMORY, "memory"),
        (_OVERLAYS, "overlay"),
        (_LOCAL, "local"),
    )
    return next((kind for names, kind in kinds if fstype in names), None)


class _Partition(Protocol):
    @property
    def device(self) -> str: ...
    @property
    def mountpoint(self) -> str: ...
    @property
    def fstype(self) -> str: ...
    @property
    def opts(self) -> str: ...


def _disk(partition: _Partition, usage: _Usage | str) -> Disk:
    source = printable(f"statvfs {partition.mountpoint}")
    if isinstance(usage, str):
        total = free = inodes = IntFact.missing(source, usage)
    else:
        total = IntFact.reported(usage.total_bytes, source)
        free = IntFact.reported(usage.free_bytes, source)
        # Btrfs and some network file systems have no fixed number of inodes and say 0 of 0.
        inodes = (
            IntFact.reported(usage.free_inodes, source)
            if usage.inodes
            else IntFact.missing(source, "this file system does not count inodes")
        )
    return Disk(
        mount=printable(partition.mountpoint),
        device=printable(partition.device),
        fstype=printable(partition.fstype),
        kind=kind_of(partition.fstype),
        read_only=BoolFact.reported("ro" in partition.opts.split(","), "mount options"),
        total_bytes=total,
        free_bytes=free,
        free_inodes=inodes,
    )


def _usage(mount: str) -> _Usage | str:
    """The sizes, or why there are none. In a thread, because a dead network file system never returns."""
    answers: list[_Usage | str] = []

    def ask() -> None:
        try:
            answers.append(_stat(mount))
        except OSError as error:
            answers.append(printable(error.strerror or str(error)))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(ANSWER_TIMEOUT_S)
    return answers[0] if answers else f"no answer within {ANSWER_TIMEOUT_S:g} s"


def _stat(mount: str) -> _Usage:
    status = Path(mount).stat()
    is_directory = stat.S_ISDIR(status.st_mode)
    if not hasattr(os, "statvfs"):
        usage = psutil.disk_usage(mount)
        return _Usage(status.st_dev, is_directory, usage.total, usage.free, 0, 0)
    sizes = os.statvfs(mount)
    return _Usage(
        status.st_dev,
        is_directory,
        sizes.f_blocks * sizes.f_frsize,
        sizes.f_bavail * sizes.f_frsize,
        sizes.f_files,
        sizes.f_favail,
    )
