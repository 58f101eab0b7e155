"""The most expensive files that can be made: each is read or refused in bounded time and memory.

Every file is read in a process of its own, whose peak memory and processor time are measured. On the machine where the
limits were chosen all took less than 0.8 s; more than twice that is allowed here, since machines differ.
"""

from __future__ import annotations

import json
import random
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from profiles.headers.gguf import MAX_ARRAY_STRINGS, MAX_KEYS
from profiles.headers.gguf import MAX_TENSORS as MAX_GGUF_TENSORS
from profiles.headers.safetensors_header import MAX_KINDS
from profiles.headers.safetensors_index import MAX_INDEX_BYTES, MAX_UNUSUAL_INDEX_BYTES
from profiles.headers.strictjson import MAX_VALUES
from profiles.headers.tensorinfo import MAX_NAME_BYTES, MAX_SHARDS, MAX_TENSORS, MAX_TENSORS_PER_FILE
from tests.profiles.headers.writers import ARRAY, F32, STRING, U8, text

MAX_MEMORY_BYTES = 200_000_000
MAX_PROCESSOR_S = 2.0

READ = """
import json, resource, sys
from profiles.headers import BadModelFile, read_gguf, read_safetensors
path = sys.argv[1]
if sys.platform == "linux":  # a runaway reader must not take the machine with it
    resource.setrlimit(resource.RLIMIT_AS, (2 * 10**9, 2 * 10**9))
try:
    file = (read_gguf if path.endswith(".gguf") else read_safetensors)(path)
    if path.endswith(".gguf"):
        count = len(file.tensors)
    else:
        count = sum(len(header.names) for header in file.headers or ())
    outcome = f"{count} tensors, {len(file.metadata)} keys"
except BadModelFile as bad:
    outcome = bad.problem
usage = resource.getrusage(resource.RUSAGE_SELF)
memory_bytes = usage.ru_maxrss  # on macOS
if sys.platform == "linux":  # where ru_maxrss includes the parent's memory at the time of the fork
    with open("/proc/self/status") as status:
        memory_bytes = next(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM"))
print(json.dumps([outcome, memory_bytes, usage.ru_utime + usage.ru_stime]))
"""


def outcome(path: Path) -> str:
    """What reading came to; fails if it took more than is allowed."""
    done = subprocess.run(
        [sys.executable, "-c", READ, str(path)],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    path.unlink()  # pytest keeps the folders of three runs, and these files are large
    assert done.returncode == 0, done.stderr[-2000:]
    said, memory_bytes, processor_s = json.loads(done.stdout)
    assert memory_bytes < MAX_MEMORY_BYTES
    assert processor_s < MAX_PROCESSOR_S
    return str(said)


def gguf_of(path: Path, keys: int, tensors: int, body: bytes, size_bytes: int | None = None) -> Path:
    with path.open("wb") as file:
        file.write(b"GGUF" + struct.pack("<IQQ", 3, tensors, keys) + body)
        if size_bytes:
            file.truncate(size_bytes)  # sparse
    return path


def test_strings_of_nothing_in_a_sparse_terabyte(tmp_path: Path) -> None:
    body = text("tokens") + struct.pack("<IIQ", ARRAY, STRING, MAX_ARRAY_STRINGS)
    assert outcome(gguf_of(tmp_path / "m.gguf", 1, 0, body, 10**12)) == "0 tensors, 1 keys"


def test_as_many_strings_as_fit_in_a_header(tmp_path: Path) -> None:
    string = struct.pack("<Q", 35) + bytes(35)
    body = text("tokens") + struct.pack("<IIQ", ARRAY, STRING, MAX_ARRAY_STRINGS) + string * MAX_ARRAY_STRINGS
    assert outcome(gguf_of(tmp_path / "m.gguf", 1, 0, body)) == "0 tensors, 1 keys"


def test_a_header_that_skips_through_a_sparse_terabyte(tmp_path: Path) -> None:
    body = b"".join(text(f"k{i}") + struct.pack("<IIQ", ARRAY, U8, 0 if i else 10**11) for i in range(10))
    assert "a header of more than" in outcome(gguf_of(tmp_path / "m.gguf", 10, 0, body, 10**12))


def test_as_many_keys_as_allowed(tmp_path: Path) -> None:
    body = b"".join(text(f"{i:x}") + struct.pack("<IB", U8, 1) for i in range(MAX_KEYS))
    assert outcome(gguf_of(tmp_path / "m.gguf", MAX_KEYS, 0, body)) == f"0 tensors, {MAX_KEYS} keys"


def test_as_many_kept_numbers_as_allowed(tmp_path: Path) -> None:
    array = struct.pack("<IIQ", ARRAY, F32, 1024) + b"1" * 4096
    body = b"".join(text(f"{i:x}") + array for i in range(1400))
    assert outcome(gguf_of(tmp_path / "m.gguf", 1400, 0, body)) == "0 tensors, 1400 keys"


def test_as_much_kept_text_as_allowed(tmp_path: Path) -> None:
    wide = "😀".encode() + b"x" * 262_000  # one such character makes Python hold four bytes for each
    body = b"".join(text(f"{i:x}") + struct.pack("<I", STRING) + text(wide) for i in range(60))
    assert outcome(gguf_of(tmp_path / "m.gguf", 60, 0, body)) == "0 tensors, 60 keys"


def test_as_many_gguf_tensors_as_allowed(tmp_path: Path) -> None:
    count = MAX_GGUF_TENSORS
    infos = [
        text(f"{i:x}".rjust(MAX_NAME_BYTES, "x")) + struct.pack("<I4QIQ", 4, 8, 1, 1, 1, 0, i * 32)
        for i in range(count)
    ]
    assert outcome(gguf_of(tmp_path / "m.gguf", 0, count, b"".join(infos), 10**9)) == f"{count} tensors, 0 keys"


def safetensors_of(path: Path, header: bytes, data_bytes: int = 0) -> Path:
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + data_bytes)
    return path


def entries_in_disorder(space: str, kinds: int = MAX_KINDS) -> tuple[bytes, int]:
    """As many tensors as are allowed, of as many kinds, with the longest names; and the bytes of their data."""
    entries, end = [], 0
    for i in range(MAX_TENSORS_PER_FILE):
        name, size = f"{i:x}".rjust(MAX_NAME_BYTES, "x"), i % kinds
        entries.append(f'"{name}":{{"dtype":{space}"U8","shape":[{size},1],"data_offsets":[{end},{end + size}]}}')
        end += size
    random.Random(0).shuffle(entries)
    return f"{{{','.join(entries)}}}".encode(), end


@pytest.mark.parametrize("space", ["", " "], ids=["compact", "spelled"])
def test_as_many_safetensors_tensors_as_allowed_in_disorder(tmp_path: Path, space: str) -> None:
    path = safetensors_of(tmp_path / "m.safetensors", *entries_in_disorder(space))
    assert outcome(path) == f"{MAX_TENSORS_PER_FILE} tensors, 0 keys"


def test_more_kinds_of_tensors_than_allowed(tmp_path: Path) -> None:
    path = safetensors_of(tmp_path / "m.safetensors", *entries_in_disorder("", MAX_KINDS + 1))
    assert "more than the 16,384 types and shapes that are allowed" in outcome(path)


def test_more_safetensors_tensors_than_allowed(tmp_path: Path) -> None:
    entry = '"%x":{"dtype":"U8","shape":[],"data_offsets":[%d,%d]}'
    count = 2 * MAX_TENSORS_PER_FILE
    header = f"{{{','.join(entry % (i, i, i + 1) for i in range(count))}}}".encode()
    assert f"more than the {MAX_TENSORS_PER_FILE:,} tensors" in outcome(
        safetensors_of(tmp_path / "m.safetensors", header, count)
    )


def test_as_much_safetensors_metadata_as_allowed(tmp_path: Path) -> None:
    pairs = ",".join(f'"{i:x}":""' for i in range(240_000))
    header = f'{{"__metadata__":{{{pairs}}}}}'.encode()
    assert len(header) > 2_500_000
    assert outcome(safetensors_of(tmp_path / "m.safetensors", header)) == "0 tensors, 240000 keys"


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (lambda: b"{}" + b" " * 99_000_000, "0 tensors, 0 keys"),
        (lambda: b"{" + b" " * 99_000_000 + b"}", "begins no entry"),
        (lambda: b'{"' + b"\\n" * 49_000_000 + b'":1}', "begins no entry"),
        (lambda: b"{" + b'"' * 99_000_000, "begins no entry"),
        (lambda: b'{"__metadata__":{' + b'"a":"",' * 14_000_000, "begins no entry"),
    ],
    ids=["padding", "white space", "escapes", "quotes", "metadata"],
)
def test_headers_of_a_hundred_megabytes(tmp_path: Path, header: Callable[[], bytes], said: str) -> None:
    assert said in outcome(safetensors_of(tmp_path / "m.safetensors", header()))


def numbered(count: int, width: int) -> list[str]:
    return [f"{i:x}".rjust(width, "x") for i in range(count)]


def index_of(names: list[str], after: str = "") -> bytes:
    """An index as publishers write it, of one shard that is not there."""
    entries = ",".join(f'"{name}":"a.safetensors"' for name in names)
    return f'{{"weight_map":{{{entries}}}{after}}}'.encode()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (lambda: index_of(numbered(MAX_TENSORS, 95)), "0 tensors, 0 keys"),
        (lambda: index_of(numbered(MAX_TENSORS + 1, 20)), "names more than the 655,360 tensors"),
        (
            lambda: index_of([*numbered(500_000, 119), "x"]).replace(b'"x":', b'"' + b"x" * 118 + b'0":'),
            "appears twice",
        ),
        (lambda: index_of(numbered(500_000, 119), "\n" * 70_000), "are allowed only of"),
        (lambda: index_of(numbered(500_000, 119), ',"weight_map":{}'), "are allowed only of"),
        (lambda: index_of(["x", "y" * 60_000_000, "z"]), "are allowed only of"),
    ],
    ids=["names", "more names", "one twice", "padding", "two maps", "one long name"],
)
def test_large_indexes_as_publishers_write_them(tmp_path: Path, content: Callable[[], bytes], said: str) -> None:
    path = tmp_path / "m.safetensors.index.json"
    path.write_bytes(content())
    assert path.stat().st_size <= MAX_INDEX_BYTES
    assert said in outcome(path)


def test_an_index_of_more_shards_than_allowed(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors.index.json"
    entries = ",".join(f'"{i}":"{i}.safetensors"' for i in range(MAX_SHARDS + 1))
    path.write_text(f'{{"weight_map":{{{entries}}}}}')
    assert "names more than the 4,096 shards" in outcome(path)


N = MAX_UNUSUAL_INDEX_BYTES


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (lambda: index_of([*numbered(MAX_VALUES - 5, 75), "\\u0061"]), "0 tensors, 0 keys"),
        (lambda: b"[" * N, "values that are allowed"),
        (lambda: b"[" + b"[]," * (N // 3 - 1), "values that are allowed"),
        (lambda: b"[" * 65 + b'""' * (N // 2 - 65), "values that are allowed"),
        (lambda: b"[]" * 65 + b"]" * (N - 130), "values that are allowed"),
        # An expression that fails at a string without an end, and starts over at each quote in it, takes hours here.
        (lambda: b"[]" * 65 + b'"\\' * 950_000 + b"\\n" * ((N - 1_900_130) // 2), "not JSON"),
        (lambda: b'{"a":"' + b"\\n" * (N // 2 - 20) + b'\\ud800"}', "half of a surrogate pair"),
        (lambda: b'{"a":"' + b"x" * (N - 20) + b'"}', "has no weight_map"),
    ],
    ids=["keys", "open", "empty arrays", "empty strings", "closed", "no end", "escapes", "one string"],
)
def test_indexes_of_the_size_allowed(tmp_path: Path, content: Callable[[], bytes], said: str) -> None:
    path = tmp_path / "m.safetensors.index.json"
    path.write_bytes(content())
    assert 0.8 * N < path.stat().st_size <= N
    assert said in outcome(path)


def test_a_set_of_as_many_shards_as_allowed(tmp_path: Path) -> None:
    """Four thousand files of nothing but padding: what is read of all of them together is bounded."""
    header = b"{}" + b" " * 99_998
    for number in range(MAX_SHARDS):
        safetensors_of(tmp_path / f"{number}.safetensors", header if number % 64 == 0 else b"{}")
    path = tmp_path / "m.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {str(i): f"{i}.safetensors" for i in range(MAX_SHARDS)}}))
    assert "does not hold tensor '0'" in outcome(path)


def test_a_set_of_more_header_than_allowed(tmp_path: Path) -> None:
    for number in range(8):
        with (tmp_path / f"{number}.safetensors").open("wb") as file:
            file.write(struct.pack("<Q", 99_000_000) + b"{}" + b" " * 98_999_998)
    path = tmp_path / "m.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {str(i): f"{i}.safetensors" for i in range(8)}}))
    assert "exceed the 160,000,000 bytes of headers" in outcome(path)
    for number in range(8):
        (tmp_path / f"{number}.safetensors").unlink()
