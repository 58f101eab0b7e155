"""The most expensive files that can be made: each is read or refused in bounded time and memory.

Every file is read in a process of its own, whose peak memory and processor time are measured. On the machine where the
limits were chosen all took less than 0.9 s; twice that is allowed here, since machines differ.
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
from profiles.headers.safetensors import MAX_INDEX_BYTES
from profiles.headers.strictjson import MAX_VALUES
from profiles.headers.tensorinfo import MAX_NAME_BYTES, MAX_TENSORS_PER_FILE
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
    outcome = f"{len(file.tensors or ())} tensors, {len(file.metadata)} keys"
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
    count = MAX_TENSORS_PER_FILE
    infos = [
        text(f"{i:x}".rjust(MAX_NAME_BYTES, "x")) + struct.pack("<I4QIQ", 4, 8, 1, 1, 1, 0, (count - 1 - i) * 32)
        for i in range(count)
    ]
    assert outcome(gguf_of(tmp_path / "m.gguf", 0, count, b"".join(infos), 10**9)) == f"{count} tensors, 0 keys"


def safetensors_of(path: Path, header: bytes, data_bytes: int = 0) -> Path:
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + data_bytes)
    return path


def test_as_many_safetensors_tensors_as_allowed_in_disorder(tmp_path: Path) -> None:
    entries, end = [], 0
    for i in range(MAX_TENSORS_PER_FILE):
        name = f"{i:x}".rjust(MAX_NAME_BYTES, "x")
        entries.append(f'"{name}":{{"dtype":"U8","shape":[{i},1],"data_offsets":[{end},{end + i}]}}')
        end += i
    random.Random(0).shuffle(entries)
    path = safetensors_of(tmp_path / "m.safetensors", f"{{{','.join(entries)}}}".encode(), end)
    assert outcome(path) == f"{MAX_TENSORS_PER_FILE} tensors, 0 keys"


def test_more_safetensors_tensors_than_allowed(tmp_path: Path) -> None:
    entry = '"%x":{"dtype":"U8","shape":[],"data_offsets":[%d,%d]}'
    count = 2 * MAX_TENSORS_PER_FILE
    header = f"{{{','.join(entry % (i, i, i + 1) for i in range(count))}}}".encode()
    assert "more than the 131,072 tensors" in outcome(safetensors_of(tmp_path / "m.safetensors", header, count))


def test_as_much_safetensors_metadata_as_allowed(tmp_path: Path) -> None:
    pairs = ",".join(f'"{i:x}":""' for i in range(380_000))
    header = f'{{"__metadata__":{{{pairs}}}}}'.encode()
    assert len(header) > 4_000_000
    assert outcome(safetensors_of(tmp_path / "m.safetensors", header)) == "0 tensors, 380000 keys"


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


def index_of_keys() -> bytes:
    width = MAX_INDEX_BYTES // MAX_VALUES - 21
    entries = (f'"{i:x}"'.rjust(width, " ") + ':"a.safetensors"' for i in range(MAX_VALUES - 2))
    return f'{{"weight_map":{{{",".join(entries)}}}}}'.encode()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (index_of_keys, "names 399,998 tensors; 393,216 are allowed"),
        (lambda: b"[" * MAX_INDEX_BYTES, "values that are allowed"),
        (lambda: b"[" + b"[]," * 13_000_000, "values that are allowed"),
        (lambda: b"[" * 65 + b'""' * 19_000_000, "values that are allowed"),
        (lambda: b"[]" * 65 + b"]" * 39_000_000, "values that are allowed"),
        # An expression that fails at a string without an end, and starts over at each quote in it, takes hours here.
        (lambda: b"[]" * 65 + b'"\\' * 1_500_000 + b"\\n" * 18_000_000, "not JSON"),
        (lambda: b'{"a":"' + b"\\n" * 19_000_000 + b'\\ud800"}', "half of a surrogate pair"),
        (lambda: b'{"a":"' + b"x" * 39_000_000 + b'"}', "has no weight_map"),
    ],
    ids=["keys", "open", "empty arrays", "empty strings", "closed", "no end", "escapes", "one string"],
)
def test_indexes_of_the_size_allowed(tmp_path: Path, content: Callable[[], bytes], said: str) -> None:
    path = tmp_path / "m.safetensors.index.json"
    path.write_bytes(content())
    assert 0.9 * MAX_INDEX_BYTES < path.stat().st_size <= MAX_INDEX_BYTES
    assert said in outcome(path)
