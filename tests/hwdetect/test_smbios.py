from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwdetect.inventory import known
from hwdetect.smbios import TABLE, memory_modules

GIB = 1 << 30
END = b"\x7f\x04\xff\xff\0\0"


def structure(kind: int, area: bytes, *strings: str) -> bytes:
    texts = b"".join(text.encode() + b"\0" for text in strings) or b"\0"
    return bytes((kind, 4 + len(area))) + b"\x01\0" + area + texts + b"\0"


def module(locator: str, bank: str, size_mib: int | None, configured: int = 4800, rated: int = 5600) -> bytes:
    """A memory device as SMBIOS 3.3 lays it out, 92 bytes."""
    extended = size_mib is not None and size_mib >= 0x7FFF
    size = 0xFFFF if size_mib is None else 0x7FFF if extended else size_mib
    strings = [text for text in (locator, bank) if text]
    places = [strings.index(text) + 1 if text else 0 for text in (locator, bank)]
    area = struct.pack("<HHHHHBBBBBHH", 0, 0, 72, 64, size, 9, 0, *places, 0x22, 0, rated)
    area += bytes(5) + struct.pack("<IH", size_mib if extended and size_mib else 0, configured)
    area += bytes(84 - 4 - len(area)) + struct.pack("<II", 0, 0)
    return structure(17, area, *strings)


def read(folder: Path, table: bytes) -> object:
    path = folder / TABLE.lstrip("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(table)
    return memory_modules(folder)


BIOS = structure(0, bytes(20), "Vendor", "1.0")


def test_two_sockets_with_an_empty_slot(tmp_path: Path) -> None:
    rows = [("CPU0_DIMM_A1", 65536), ("CPU0_DIMM_B1", 65536), ("CPU1_DIMM_A1", 65536), ("CPU1_DIMM_B1", 0)]
    read(tmp_path, BIOS + b"".join(module(name, "", size) for name, size in rows) + END)
    found = memory_modules(tmp_path)
    assert (known(found.slots), known(found.populated), known(found.channels)) == (4, 3, 3)
    first = found.modules[0]
    assert (first.locator, first.kind, known(first.size_bytes)) == ("CPU0_DIMM_A1", "DDR5", 64 * GIB)
    assert (known(first.speed_mt_per_s), known(first.rated_speed_mt_per_s)) == (4800, 5600)
    assert known(first.data_width_bits) == 64
    assert found.nominal_bytes_per_s is not None
    assert (found.nominal_bytes_per_s.value, found.nominal_bytes_per_s.provenance) == (3 * 4800e6 * 8, "assumed")


@pytest.mark.parametrize(
    ("names", "channels"),
    [
        ([("DIMM 0", "P0 CHANNEL A"), ("DIMM 1", "P0 CHANNEL A"), ("DIMM 0", "P0 CHANNEL B")], 2),
        ([("ChannelA-DIMM0", "BANK 0"), ("ChannelB-DIMM0", "BANK 1")], 2),
        ([("DIMM_P0_A0", ""), ("DIMM_P1_A0", "")], 2),
        ([("A1", ""), ("A2", ""), ("B1", "")], 2),
        ([("RAM slot #0", "RAM slot #0")], None),
    ],
)
def test_channels_by_the_names_that_boards_use(
    tmp_path: Path, names: list[tuple[str, str]], channels: int | None
) -> None:
    read(tmp_path, b"".join(module(locator, bank, 32768) for locator, bank in names) + END)
    assert known(memory_modules(tmp_path).channels) == channels


def test_small_modules_and_unknown_sizes(tmp_path: Path) -> None:
    read(tmp_path, module("A1", "", 16384) + module("B1", "", None) + END)
    found = memory_modules(tmp_path)
    assert known(found.modules[0].size_bytes) == 16 * GIB
    assert found.populated is not None and found.populated.reason == "1 of 2 sockets do not say their size"


def test_a_table_that_is_not_there_or_empty(tmp_path: Path) -> None:
    assert "No such file" in str(memory_modules(tmp_path).slots)
    read(tmp_path, BIOS + END)
    assert "lists no memory device" in str(memory_modules(tmp_path).slots)


TABLES = BIOS + module("CPU0_DIMM_A1", "P0 CHANNEL A", 65536) + module("B1", "", 16384) + END


@given(st.binary(max_size=300) | st.tuples(st.integers(0, len(TABLES) - 1), st.binary(min_size=1, max_size=8)))
def test_whatever_a_firmware_wrote(tmp_path_factory: pytest.TempPathFactory, data: bytes | tuple[int, bytes]) -> None:
    table = data if isinstance(data, bytes) else TABLES[: data[0]] + data[1] + TABLES[data[0] + len(data[1]) :]
    read(tmp_path_factory.getbasetemp(), table)
    found = memory_modules(tmp_path_factory.getbasetemp())
    assert found.slots is not None
    assert found.slots.value is None or found.slots.value == len(found.modules)
