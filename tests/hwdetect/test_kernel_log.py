from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwdetect.inventory import KernelEvent, known
from hwdetect.kernel_log import MAX_EVENTS, kernel_log
from tests.hwdetect.conftest import WriteTree

UPTIME = {"proc/uptime": "10000.00 5.00\n"}
FELL_OFF = "NVRM: Xid (PCI:0000:1b:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus."


def kmsg(*lines: str) -> dict[str, str]:
    return UPTIME | {"dev/kmsg": "".join(f"{line}\n" for line in lines)}


def test_an_xid_with_its_age_and_place(write_tree: WriteTree) -> None:
    log = kernel_log(write_tree(kmsg("6,1,4000000,-;first", f"3,2,9000000000,-;{FELL_OFF}")))
    (event,) = log.events
    assert (event.kind, event.code, event.bus_id, event.age_s, event.count) == ("xid", 79, "0000:1b:00.0", 1000, 1)
    assert event.text.endswith("GPU has fallen off the bus.")
    assert (known(log.read), known(log.covers_s)) == ("2 lines", 9996)


def test_equal_ones_are_counted_and_the_last_gives_the_age(write_tree: WriteTree) -> None:
    lines = [f"3,{number},{number}000000,-;{FELL_OFF}" for number in (100, 200, 300)]
    (event,) = kernel_log(write_tree(kmsg(*lines))).events
    assert (event.count, event.age_s) == (3, 9700)


def test_a_switch_and_the_dictionary_of_a_record(write_tree: WriteTree) -> None:
    lines = ("3,1,1000000,-;nvidia-nvswitch3: SXid (PCI:0000:05:00.0): 20034, Fatal, Link 30", f" SUBSYSTEM={FELL_OFF}")
    (event,) = kernel_log(write_tree(kmsg(*lines))).events
    assert (event.kind, event.code, event.bus_id) == ("sxid", 20034, "0000:05:00.0")


def test_the_old_form_and_a_log_file_without_known_times(write_tree: WriteTree) -> None:
    root = write_tree(
        {"var/log/kern.log": "May 19 07:08:57 node kernel: [680111.6] NVRM: Xid (0000:03:00): 14, Channel 1\n"}
    )
    log = kernel_log(root)
    (event,) = log.events
    assert (event.code, event.bus_id, event.age_s) == (14, "0000:03:00.0", None)
    assert log.read is not None and log.read.source == "/var/log/kern.log"
    assert known(log.covers_s) is None


def test_a_log_that_may_not_be_read_is_not_an_empty_one(tmp_path: Path) -> None:
    log = kernel_log(tmp_path)
    assert log.read is not None and log.read.value is None
    assert log.read.reason is not None and "No such file or directory" in log.read.reason


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_no_permission(write_tree: WriteTree) -> None:
    root = write_tree(kmsg("6,1,4000000,-;first"))
    (root / "dev/kmsg").chmod(0)
    assert "Permission denied" in str(kernel_log(root).read)


def test_only_so_many_events_are_kept_and_the_newest_are(write_tree: WriteTree) -> None:
    lines = [f"3,{code},{code}000000,-;NVRM: Xid (PCI:0000:1b:00): {code}, x" for code in range(1, MAX_EVENTS + 50)]
    events = kernel_log(write_tree(kmsg(*lines))).events
    assert (len(events), events[-1].code) == (MAX_EVENTS, MAX_EVENTS + 49)


def test_this_machine_s_log_ends() -> None:
    log = kernel_log()
    assert log.read is not None and (log.read.value or log.read.reason)


@given(st.binary(max_size=400) | st.text(max_size=200).map(lambda text: f"3,1,5,-;NVRM: Xid ({text}".encode()))
def test_whatever_stands_in_the_log(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    root = tmp_path_factory.getbasetemp() / "kmsg"
    for name in ("dev/kmsg", "proc/uptime"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    log = kernel_log(root)
    assert log.read is not None and log.read.value is not None
    assert all(isinstance(event, KernelEvent) for event in log.events)
