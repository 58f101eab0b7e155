from __future__ import annotations

import os
import time
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from hwdetect import disks as disks_module
from hwdetect.disks import disk_of, disks
from hwdetect.inventory import known


class Partition(NamedTuple):
    """A row of psutil.disk_partitions."""

    device: str
    mountpoint: str
    fstype: str
    opts: str = "rw"


def list_partitions(monkeypatch: pytest.MonkeyPatch, *rows: Partition) -> None:
    """The mount table is the one thing a test cannot bring about; the sizes stay real."""

    def partitions(all: bool = False) -> list[Partition]:
        return list(rows)

    monkeypatch.setattr(psutil, "disk_partitions", partitions)


def test_this_machine_has_a_root_with_sizes() -> None:
    by_mount = {disk.mount: disk for disk in disks()}
    root, sizes = by_mount["/"], os.statvfs("/")
    assert known(root.total_bytes) == sizes.f_blocks * sizes.f_frsize
    assert 0 < (known(root.free_bytes) or 0) <= (known(root.total_bytes) or 0)
    assert not {disk.fstype for disk in by_mount.values()} & {"proc", "sysfs", "tmpfs", "cgroup"}


def test_each_file_system_once_under_its_shortest_mount(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "bound").mkdir()
    list_partitions(
        monkeypatch,
        Partition("/dev/x", str(tmp_path / "bound"), "ext4"),
        Partition("/dev/x", str(tmp_path), "ext4"),
    )
    assert [disk.mount for disk in disks()] == [str(tmp_path)]


def test_files_memory_and_other_containers_are_no_disks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "resolv.conf").write_text("")
    list_partitions(
        monkeypatch,
        Partition("/dev/x", str(tmp_path / "resolv.conf"), "ext4"),
        Partition("tmpfs", "/dev/shm", "tmpfs"),
        Partition("overlay", str(tmp_path), "overlay"),
    )
    assert disks() == ()


def test_the_root_of_a_container_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    list_partitions(monkeypatch, Partition("overlay", "/", "overlay"))
    assert [(disk.mount, disk.fstype) for disk in disks()] == [("/", "overlay")]


def test_a_mount_that_is_gone_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    list_partitions(monkeypatch, Partition("server:/models", str(tmp_path / "gone"), "nfs4"))
    (disk,) = disks()
    assert disk.total_bytes is not None
    assert (disk.fstype, disk.total_bytes.reason) == ("nfs4", "No such file or directory")


def test_a_server_that_does_not_answer_does_not_hang(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    list_partitions(monkeypatch, Partition("server:/models", str(tmp_path), "nfs4"))
    monkeypatch.setattr(disks_module, "ANSWER_TIMEOUT_S", 0.05)
    monkeypatch.setattr(disks_module, "_stat", lambda mount: time.sleep(0.5))
    started = time.monotonic()
    (disk,) = disks()
    assert time.monotonic() - started < 0.4
    assert disk.free_bytes is not None
    assert disk.free_bytes.reason == "no answer within 0.05 s"


@pytest.mark.parametrize(
    ("fstype", "options", "kind", "read_only"),
    [
        ("ext4", "rw,relatime", "local", False),
        ("nfs4", "ro,vers=4.2", "network", True),
        ("lustre", "rw", "network", False),
        ("virtiofs", "rw", None, False),
    ],
)
def test_where_the_bytes_are_and_whether_they_may_be_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fstype: str, options: str, kind: str | None, read_only: bool
) -> None:
    list_partitions(monkeypatch, Partition("somewhere", str(tmp_path), fstype, options))
    (disk,) = disks()
    assert (disk.kind, known(disk.read_only)) == (kind, read_only)


def test_the_file_system_a_folder_lies_on_is_the_nearest_mount(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "models/deep").mkdir(parents=True)
    list_partitions(
        monkeypatch,
        Partition("/dev/a", "/", "ext4"),
        Partition("/dev/b", str(tmp_path / "models"), "ext4"),
        Partition("shm", str(tmp_path / "models"), "tmpfs"),
        Partition("/dev/c", str(tmp_path / "mod"), "xfs"),
    )
    found = disk_of(tmp_path / "models/deep")
    assert found is not None
    # Of two mounts on one point the later one is what a program sees.
    assert (found.device, found.kind) == ("shm", "memory")
    assert known(found.free_bytes)


def test_a_folder_under_no_mount(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    list_partitions(monkeypatch)
    assert disk_of(tmp_path) is None
