"""Logs that nobody vouches for: endless lines, bytes that are no text, a million starts."""

from __future__ import annotations

import doctest
import time
import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwdetect.serving import readings
from hwdetect.serving.lines import MAX_LINE_BYTES, NotText, clean_lines
from hwdetect.serving.startup import read_startup
from tests.hwdetect.serving.test_llamacpp_log import TWO_GPUS
from tests.hwdetect.serving.test_sglang_log import KIMI
from tests.hwdetect.serving.test_vllm_log import CONSUMED, LLAMA_19, OLD

CHUNK = 1 << 20
LINES = [line for text in (LLAMA_19, CONSUMED, OLD, KIMI, TWO_GPUS) for line in text.splitlines()]


def test_lines_end_at_newlines_and_carriage_returns_and_lose_colours() -> None:
    chunks = [b"\x1b[36mone\x1b[0m\r\ntw", b"o\n#033[1;36mthree", b"\xff\n", b"", b"last"]
    assert [line for line in clean_lines(chunks) if line] == ["one", "two", "three\ufffd", "last"]


def test_a_line_without_an_end_keeps_its_beginning() -> None:
    def endless() -> Iterator[bytes]:
        yield b"begin"
        for _ in range(40):
            yield b"x" * CHUNK
        yield b"tail\nnext\n"

    tracemalloc.start()
    lines = list(clean_lines(endless()))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [line[:5] for line in lines] == ["begin", "next"]
    assert len(lines[0]) == MAX_LINE_BYTES
    assert peak < 16 * CHUNK


def test_zero_bytes_are_no_text() -> None:
    with pytest.raises(NotText, match="zero bytes"):
        list(clean_lines([b"\x7fELF\x02\x01\0\0"]))


def test_nothing_is_not_a_start() -> None:
    assert read_startup([]) is None
    assert read_startup(["", "hello"]) is None


LONG = (
    "Actual usage is 1.0 GiB for weight, " * 6000,
    "non-default args: {" + "'model': " * 25000,
    "ServerArgs(" + "tp_size=" * 30000,
    "KV Cache is allocated. " * 10000,
    "Load weight end. mem usage=" * 9000,
    "CUDA0 model buffer size = " * 10000,
    "(Worker_TP0 pid=" * 15000 + "Available KV cache memory: 1 GiB",
    "x" * 250_000 + " buffer size = 1.00 MiB",
    "llama_model_loader: loaded meta data with  tensors from " * 5000,
    "llama_kv_cache" * 18_000,
    "# GPU blocks: " + "9" * 100_000,
)


@pytest.mark.parametrize("line", LONG, ids=[line[:24] for line in LONG])
def test_no_line_takes_long(line: str) -> None:
    began = time.process_time()
    read_startup([line[:MAX_LINE_BYTES]] * 3)
    assert time.process_time() - began < 3


def test_a_million_lines_that_matter_are_not_all_read() -> None:
    def lines() -> Iterator[str]:
        while True:
            yield f"(Worker_TP{next(numbers)} pid=1) INFO x Model loading took 1.00 GiB memory"

    numbers = iter(range(10**9))
    began = time.process_time()
    found = read_startup(lines())
    assert time.process_time() - began < 12
    assert found is not None
    assert len(found.measurements[0].readings) == readings.MAX_PLACES


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(st.sampled_from(LINES), st.text(max_size=60)), max_size=25), st.data())
def test_lines_in_any_order_and_cut_anywhere_give_facts_or_nothing(lines: list[str], data: st.DataObject) -> None:
    text = "\n".join(line[data.draw(st.integers(0, 3)) :] for line in lines)
    text = text[: data.draw(st.integers(0, len(text)))]
    found = read_startup(text.splitlines())
    if found is not None:
        for measurement in found.measurements:
            assert measurement.readings
            assert measurement.resolution >= 1
        assert found.model_validate_json(found.model_dump_json()) == found


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=400), st.lists(st.sampled_from(LINES), max_size=4))
def test_any_bytes_are_read_or_refused(noise: bytes, lines: list[str]) -> None:
    data = b"\n".join([noise, *(line.encode() for line in lines), noise])
    try:
        read_startup(clean_lines([data]))
    except NotText:
        assert b"\0" in data


def test_the_examples_in_the_text() -> None:
    result = doctest.testmod(readings)
    assert (result.failed, result.attempted) == (0, 3)
