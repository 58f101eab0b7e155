"""The real llama.cpp, as the wheel `xllamacpp` carries it, asked what it allocates and whether it can decode.

Every question is answered in a process of its own (`llama_cpp_worker.py`), because llama.cpp aborts on some
refusals.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

WORKER = Path(__file__).with_name("llama_cpp_worker.py")
TIMEOUT_S = 120
GGML_TYPE_NUMBERS = {"f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8, "bf16": 30}
FLASH_ATTENTION = {"auto": -1, "off": 0, "on": 1}


class LlamaCppError(RuntimeError):
    """llama.cpp refused, aborted or ran too long; the message ends with its last log lines."""


@dataclass(frozen=True)
class BufferBytes:
    """What llama.cpp allocates of one buffer type (`CPU`, `CPU_REPACK`, ...)."""

    model_bytes: int
    kv_cache_bytes: int
    compute_bytes: int


@dataclass(frozen=True)
class Breakdown:
    """A loaded model: `buffers` by buffer type, and their totals."""

    tensors: int
    parameters: int
    buffers: dict[str, BufferBytes]

    @property
    def model_bytes(self) -> int:
        return sum(buffer.model_bytes for buffer in self.buffers.values())

    @property
    def kv_cache_bytes(self) -> int:
        return sum(buffer.kv_cache_bytes for buffer in self.buffers.values())

    @property
    def compute_bytes(self) -> int:
        return sum(buffer.compute_bytes for buffer in self.buffers.values())


@dataclass(frozen=True)
class Decoded:
    """Greedily decoded token ids, and the logits' range over all steps (None where any was not finite)."""

    token_ids: tuple[int, ...]
    logit_range: tuple[float, float] | None


def load_breakdown(
    path: Path,
    *,
    n_ctx: int,
    n_batch: int = 2048,
    n_ubatch: int = 512,
    n_seq_max: int = 1,
    n_outputs_max: int = 0,
    kv_unified: bool = False,
    type_k: str = "f16",
    type_v: str = "f16",
    flash_attention: Literal["auto", "on", "off"] = "auto",
    repack: bool = False,
) -> Breakdown:
    """Bytes that llama.cpp would allocate for `path` (of a split model, its first file), allocating nothing.

    The arguments are llama.cpp's context parameters under its own names; `n_outputs_max` 0 means `n_batch`,
    and `repack` lets it store weights in a layout of the CPU's (its default; off here, so that file bytes are
    kept). Raises `LlamaCppError` where llama.cpp refuses, `KeyError` for a cache type it does not have.
    """
    answer = _ask(
        "breakdown",
        path,
        n_ctx=n_ctx,
        n_batch=n_batch,
        n_ubatch=n_ubatch,
        n_seq_max=n_seq_max,
        n_outputs_max=n_outputs_max,
        kv_unified=kv_unified,
        type_k=GGML_TYPE_NUMBERS[type_k],
        type_v=GGML_TYPE_NUMBERS[type_v],
        flash_attn_type=FLASH_ATTENTION[flash_attention],
        repack=repack,
    )
    buffers = {name: BufferBytes(**sizes) for name, sizes in answer["buffers"].items()}
    return Breakdown(answer["tensors"], answer["parameters"], buffers)


def decode_tokens(path: Path, n_tokens: int, *, prompt: str | None = None) -> Decoded:
    """Decodes `n_tokens` greedily after `prompt` (after token 0 where there is none).

    A prompt needs a file with a tokenizer. Raises `LlamaCppError` where llama.cpp refuses.
    """
    answer = _ask("decode", path, n_tokens=n_tokens, prompt=prompt)
    low_high = answer["logit_range"]
    return Decoded(tuple(answer["token_ids"]), None if low_high is None else (low_high[0], low_high[1]))


def ggml_type_sizes(numbers: list[int]) -> list[tuple[str, int, int]]:
    """`(name, block elements, block bytes)` of each ggml type number, from llama.cpp's own type table."""
    return [(name, elements, size) for name, elements, size in _ask("types", None, numbers=numbers)["types"]]


@dataclass(frozen=True)
class GgufHeader:
    """A header as ggml's own reader has it: `tensors` are name, type, bytes and place in the file."""

    version: int
    data_start: int
    tensors: tuple[tuple[str, str, int, int], ...]


def gguf_headers(paths: list[Path]) -> list[GgufHeader | None]:
    """The header of each file, None where ggml refuses it."""
    answers = _ask("headers", None, paths=list(map(str, paths)))["headers"]
    return [
        answer
        and GgufHeader(answer["version"], answer["data_start"], tuple((*tensor,) for tensor in answer["tensors"]))
        for answer in answers
    ]


def _ask(question: str, path: Path | None, **arguments: object) -> dict[str, Any]:
    request = json.dumps({"question": question, "path": None if path is None else str(path), **arguments})
    command = [sys.executable, str(WORKER), request]
    try:
        finished = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as late:
        raise LlamaCppError(f"{question}: no answer in {TIMEOUT_S} s") from late
    if finished.returncode != 0:
        log = "\n".join(finished.stderr.splitlines()[-12:])
        raise LlamaCppError(f"{question} ended with status {finished.returncode}:\n{log}")
    answer: dict[str, Any] = json.loads(finished.stdout)
    return answer
