"""How long reading the headers of a 600 GB release takes. Run: `python -m benchmarks.headers`.

Writes a safetensors checkpoint with the 208,550 tensors of Kimi K2.5 over 64 shards and a GGUF file with
1,096 tensors and a vocabulary of 163,840, both with sparse data (60 megabytes on disk), and reads each five
times or as often as told.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from profiles.headers import read_gguf, read_safetensors

SHARDS = 64
LIMIT_S = 1.0

_BF16, _INT32, _F32 = ("BF16", 2), ("I32", 4), ("F32", 4)
_Tensor = tuple[str, str, list[int], int]


def main() -> int:
    """Print one line per reader; exit status 1 if a median exceeds `LIMIT_S`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as folder:
        index = write_safetensors(Path(folder) / "safetensors")
        gguf = write_gguf(Path(folder) / "model.gguf")
        medians = [
            _report("safetensors", lambda: len(read_safetensors(index).names), repeats),
            _report("gguf", lambda: len(read_gguf(gguf).tensors), repeats),
        ]
    print(f"peak memory of the process: {_peak_memory_bytes() / 1e6:.0f} MB")
    return int(max(medians) > LIMIT_S)


def write_safetensors(folder: Path) -> Path:
    """Write the checkpoint into `folder`, new, and return its index."""
    folder.mkdir()
    tensors = list(_kimi_k25_tensors())
    weight_map = {}
    for number in range(SHARDS):
        name = f"model-{number + 1:05}-of-{SHARDS:06}.safetensors"
        shard = tensors[number * len(tensors) // SHARDS : (number + 1) * len(tensors) // SHARDS]
        header, end = {}, 0
        for tensor, dtype, shape, nbytes in shard:
            header[tensor] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + nbytes]}
            weight_map[tensor] = name
            end += nbytes
        raw = json.dumps(header, separators=(",", ":")).encode()
        with (folder / name).open("wb") as file:
            file.write(struct.pack("<Q", len(raw)) + raw)
            file.truncate(8 + len(raw) + end)
    index = folder / "model.safetensors.index.json"
    total_bytes = sum(nbytes for *_, nbytes in tensors)
    index.write_text(json.dumps({"metadata": {"total_size": total_bytes}, "weight_map": weight_map}, indent=2))
    return index


def _kimi_k25_tensors() -> Iterator[_Tensor]:
    """Names, types and shapes of Kimi K2.5; the vision tower's 334 tensors are filled up with equal ones."""
    hidden, latent, experts, expert_width = 7168, 512, 384, 2048
    yield _tensor("model.embed_tokens.weight", _BF16, 163_840, hidden)
    yield _tensor("lm_head.weight", _BF16, 163_840, hidden)
    yield _tensor("model.norm.weight", _BF16, hidden)
    for layer in range(61):
        prefix = f"language_model.model.layers.{layer}"
        attention = {
            "q_a": (1536, hidden),
            "q_b": (12288, 1536),
            "kv_b": (16384, latent),
            "o": (hidden, 8192),
        }
        for projection, shape in attention.items():
            yield _tensor(f"{prefix}.self_attn.{projection}_proj.weight", _BF16, *shape)
        yield _tensor(f"{prefix}.self_attn.kv_a_proj_with_mqa.weight", _BF16, 576, hidden)
        for norm, width in {"q_a": 1536, "kv_a": latent}.items():
            yield _tensor(f"{prefix}.self_attn.{norm}_layernorm.weight", _BF16, width)
        for norm in ("input", "post_attention"):
            yield _tensor(f"{prefix}.{norm}_layernorm.weight", _BF16, hidden)
        dense = f"{prefix}.mlp" if layer == 0 else f"{prefix}.mlp.shared_experts"
        dense_width = 18432 if layer == 0 else expert_width
        for projection, rows, columns in _mlp(hidden, dense_width):
            yield _tensor(f"{dense}.{projection}_proj.weight", _BF16, rows, columns)
        if layer == 0:
            continue
        yield _tensor(f"{prefix}.mlp.gate.weight", _BF16, experts, hidden)
        yield _tensor(f"{prefix}.mlp.gate.e_score_correction_bias", _F32, experts)
        for expert in range(experts):
            for projection, rows, columns in _mlp(hidden, expert_width):
                name = f"{prefix}.mlp.experts.{expert}.{projection}_proj.weight"
                yield _tensor(f"{name}_packed", _INT32, rows, columns // 8)
                yield _tensor(f"{name}_scale", _BF16, rows, columns // 32)
                yield _tensor(f"{name}_shape", _INT32, 2)
    for number in range(335):
        yield _tensor(f"vision_tower.encoder.{number}.weight", _BF16, 1152, 1152)


def _mlp(hidden: int, width: int) -> list[tuple[str, int, int]]:
    return [("down", hidden, width), ("gate", width, hidden), ("up", width, hidden)]


def _tensor(name: str, dtype: tuple[str, int], *shape: int) -> _Tensor:
    type_name, nbytes = dtype
    for length in shape:
        nbytes *= length
    return name, type_name, list(shape), nbytes


def write_gguf(path: Path, tensors: int = 1096, vocabulary: int = 163_840) -> Path:
    """Write a GGUF file with a tokenizer and stacks of 384 experts in Q4_K (ggml type 12)."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    def strings(key: str, values: list[str]) -> bytes:
        return text(key) + struct.pack("<IIQ", 9, 8, len(values)) + b"".join(map(text, values))

    entries = [
        text("general.architecture") + struct.pack("<I", 8) + text("deepseek2"),
        strings("tokenizer.ggml.tokens", [f"token{i:x}" for i in range(vocabulary)]),
        text("tokenizer.ggml.token_type") + struct.pack("<IIQ", 9, 5, vocabulary) + bytes(4 * vocabulary),
        strings("tokenizer.ggml.merges", [f"tok en{i:x}" for i in range(vocabulary)]),
    ]
    columns, rows, experts = 7168, 2048, 384
    nbytes = columns // 256 * 144 * rows * experts
    infos = [
        text(f"blk.{i}.ffn_up_exps.weight") + struct.pack("<IQQQIQ", 3, columns, rows, experts, 12, i * nbytes)
        for i in range(tensors)
    ]
    head = b"GGUF" + struct.pack("<IQQ", 3, tensors, len(entries)) + b"".join(entries + infos)
    with path.open("wb") as file:
        file.write(head)
        file.truncate(-(-len(head) // 32) * 32 + tensors * nbytes)
    return path


def _report(what: str, read: Callable[[], int], repeats: int) -> float:
    samples_s, processor_s = [], []
    for _ in range(repeats):
        start, processor_start = time.perf_counter(), time.process_time()
        count = read()
        samples_s.append(time.perf_counter() - start)
        processor_s.append(time.process_time() - processor_start)
    median_s = statistics.median(samples_s)
    print(
        f"{what}: {count:,} tensors, median {median_s:.3f} s, best {min(samples_s):.3f} s of {repeats};"
        f" of the processor {statistics.median(processor_s):.3f} s"
    )
    return median_s


def _peak_memory_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    raise SystemExit(main())
