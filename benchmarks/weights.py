"""How long a 600 GB release takes from its files to a model. Run: `python -m benchmarks.weights`.

Writes the 208,550 tensors of Kimi K2.5 over 64 shards beside its `config.json`, and its text model as a GGUF file,
both with sparse data (60 megabytes on disk), and loads each five times or as often as told.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path
from typing import Final

from profiles.cards import CARDS_FOLDER
from profiles.headers import read_gguf, read_safetensors
from profiles.headers.ggmltypes import GGML_TYPES
from profiles.library import load_model
from profiles.llama_quantize import quantize
from profiles.model import ModelSpec, TensorGroup

MODEL: Final = "kimi-k2.5"
SHARDS: Final = 64
LIMIT_S: Final = 1.0

_Tensor = tuple[str, str, tuple[int, ...], int]


def main() -> int:
    """Print one line per file format; exit status 1 if a median exceeds `LIMIT_S`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    spec = load_model(MODEL)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_checkpoint(Path(folder) / "checkpoint", spec)
        gguf = write_gguf(Path(folder) / "model-Q4_K_M.gguf", spec)
        medians = [
            _report("safetensors", lambda: read_safetensors(checkpoint), lambda: load_model(checkpoint), repeats),
            _report("gguf", lambda: read_gguf(gguf), lambda: load_model(gguf), repeats),
        ]
    return int(max(medians) > LIMIT_S)


def write_checkpoint(folder: Path, spec: ModelSpec) -> Path:
    """Write the checkpoint that `spec` describes, INT4 experts packed as compressed-tensors does."""
    folder.mkdir()
    shutil.copy(CARDS_FOLDER / "configs" / f"{MODEL}.json", folder / "config.json")
    tensors = [tensor for group in spec.tensors for tensor in _stored(group)]
    weight_map = {}
    for number in range(SHARDS):
        name = f"model-{number + 1:05}-of-{SHARDS:06}.safetensors"
        header, end = {}, 0
        for tensor, dtype, shape, nbytes in tensors[number::SHARDS]:
            header[tensor] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + nbytes]}
            weight_map[tensor] = name
            end += nbytes
        raw = json.dumps(header, separators=(",", ":")).encode()
        _write_sparse(folder / name, struct.pack("<Q", len(raw)) + raw, end)
    total_bytes = sum(nbytes for *_, nbytes in tensors)
    index = {"metadata": {"total_size": total_bytes}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    return folder


def _stored(group: TensorGroup) -> Iterator[_Tensor]:
    for layer in group.layers or (0,):
        name = group.name.replace("{layer}", str(layer))
        for number in range(group.per_layer):
            each = name.replace("{expert}", str(number)).replace("{block}", str(number))
            if not group.format.startswith("int4"):
                dtype, nbytes = ("F32", 4) if group.format == "f32" else ("BF16", 2)
                yield each, dtype, group.shape, nbytes * prod(group.shape)
                continue
            rows, columns = group.shape
            yield f"{each}_packed", "I32", (rows, columns // 8), rows * columns // 2
            yield f"{each}_scale", "BF16", (rows, columns // 32), rows * columns // 16
            yield f"{each}_shape", "I32", (2,), 8


def write_gguf(path: Path, spec: ModelSpec) -> Path:
    """Write what `llama-quantize` makes of the text model, with the metadata that its geometry is read from."""
    values: dict[str, int | str] = {
        "general.architecture": "deepseek2",
        "deepseek2.block_count": spec.layers,
        "deepseek2.context_length": spec.max_context,
        "deepseek2.embedding_length": spec.hidden,
        "deepseek2.attention.head_count": spec.heads,
        "deepseek2.attention.key_length_mla": spec.q_head_dim,
        "deepseek2.attention.value_length_mla": spec.v_head_dim,
        "deepseek2.attention.kv_lora_rank": spec.kv_groups[0].kv_lora_rank,
        "deepseek2.rope.dimension_count": spec.kv_groups[0].rope_dim,
        "deepseek2.expert_count": spec.moe.experts if spec.moe else 0,
        "deepseek2.expert_used_count": spec.moe.top_k if spec.moe else 0,
    }
    entries = [_text(key) + _value(value) for key, value in values.items()]
    numbers = {kind.name: number for number, kind in GGML_TYPES.items()}
    infos, end = [], 0
    for name, shape, format_name, nbytes in _gguf_tensors(spec):
        head = _text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        infos.append(head + struct.pack("<IQ", numbers[format_name], end))
        end += -(-nbytes // 32) * 32
    head = b"GGUF" + struct.pack("<IQQ", 3, len(infos), len(entries)) + b"".join(entries + infos)
    _write_sparse(path, head.ljust(-(-len(head) // 32) * 32, b"\0"), end)
    return path


def _gguf_tensors(spec: ModelSpec) -> Iterator[tuple[str, tuple[int, ...], str, int]]:
    # The rules of quantization keep the checkpoint's names for what stays F32.
    renamed = {
        "model.norm.weight": "output_norm.weight",
        "input_layernorm.weight": "attn_norm.weight",
        "post_attention_layernorm.weight": "ffn_norm.weight",
        "q_a_layernorm.weight": "attn_q_a_norm.weight",
        "kv_a_layernorm.weight": "attn_kv_a_norm.weight",
        "mlp.gate.weight": "ffn_gate_inp.weight",
        "mlp.gate.e_score_correction_bias": "exp_probs_b.bias",
    }
    for group in quantize(spec, "Q4_K_M"):
        name = next((f"blk.{{layer}}.{new}" for old, new in renamed.items() if group.name.endswith(old)), group.name)
        for layer in group.layers or (None,):
            each = name.removeprefix("blk.{layer}.") if layer is None else name.replace("{layer}", str(layer))
            yield each, group.shape, group.format, group.bytes_each


def _text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def _value(value: int | str) -> bytes:
    string, number = 8, 4
    return struct.pack("<I", string) + _text(value) if isinstance(value, str) else struct.pack("<II", number, value)


def _write_sparse(path: Path, head: bytes, data_bytes: int) -> None:
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + data_bytes)


def _report(what: str, read: Callable[[], object], load: Callable[[], ModelSpec], repeats: int) -> float:
    reading_s, loading_s = [], []
    for _ in range(repeats):
        start = time.perf_counter()
        read()
        reading_s.append(time.perf_counter() - start)
        start = time.perf_counter()
        model = load()
        loading_s.append(time.perf_counter() - start)
    median_s = statistics.median(loading_s)
    size_bytes = model.releases[0].published_bytes or 0
    print(
        f"{what}: {model.parameters:,} parameters, {size_bytes:,} bytes; median {median_s:.3f} s, best"
        f" {min(loading_s):.3f} s of {repeats}, of which its headers {statistics.median(reading_s):.3f} s"
    )
    return median_s


if __name__ == "__main__":
    raise SystemExit(main())
