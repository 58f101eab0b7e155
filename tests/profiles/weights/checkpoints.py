"""Writes checkpoints as their publishers do: every tensor of a configuration under the names of its quantization."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from profiles.config_reader import read_config
from profiles.headers.safetensors_header import DTYPE_BITS
from profiles.model import ModelSpec, TensorGroup

CONFIGS = Path(__file__).parents[1] / "data" / "configs"


class Stored(NamedTuple):
    """One tensor of a file."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * DTYPE_BITS[self.dtype] // 8


Tensors = dict[str, Stored]

_SMALL = {
    "num_hidden_layers": 4,
    "vocab_size": 512,
    "n_routed_experts": 4,
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "num_experts_per_token": 2,
    "first_k_dense_replace": 1,
    "depth": 2,
    "vt_num_hidden_layers": 2,
}


def small_config(name: str) -> dict[str, Any]:
    """A published configuration with few layers, experts and tokens; all other dimensions stay."""
    config: dict[str, Any] = json.loads((CONFIGS / f"{name}.json").read_text(encoding="utf-8"))
    _shrink(config)
    for section in ("text_config", "vision_config"):
        if isinstance(config.get(section), dict):
            _shrink(config[section])
    return config


def _shrink(config: dict[str, Any]) -> None:
    config |= {key: value for key, value in _SMALL.items() if config.get(key) is not None}
    for key in ("layer_types", "indexer_types", "mlp_layer_types", "no_rope_layers"):
        if config.get(key):
            config[key] = config[key][:4]
    if config.get("compress_ratios"):
        config["compress_ratios"] = [0, 4, 128, 4, 0]
    if isinstance(config.get("moe_layer_freq"), list):
        config["moe_layer_freq"] = [0, 0, 1, 1]
        marks = ("sparse_attention_freq", "sparse_disable_index_value")
        config["sparse_attention_config"] |= {mark: [0, 0, 1, 1] for mark in marks}
    if config.get("moe_layers"):
        config["moe_layers"] = [layer for layer in config["moe_layers"] if layer < 4]
    if "linear_attn_config" in config:
        config["linear_attn_config"] |= {"full_attn_layers": [4], "kda_layers": [1, 2, 3]}


def quant_config(name: str) -> dict[str, Any] | None:
    """The ``hf_quant_config.json`` of a published configuration, where it has one."""
    beside = CONFIGS / f"{name}.hf_quant_config.json"
    return json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else None


def small_model(name: str) -> ModelSpec:
    """What the configuration alone implies."""
    return read_config(small_config(name), id="small", quant_config=quant_config(name))


def stored_tensors(spec: ModelSpec) -> Tensors:
    """Every tensor of the files that a publisher would write for ``spec``."""
    tensors: Tensors = {}
    fused: dict[str, list[TensorGroup]] = {}
    for group in spec.tensors:
        for layer in group.layers or (0,):
            name = group.name.replace("{layer}", str(layer)).replace("{mtp_layer}", str(layer - spec.layers))
            index = next((each for each in ("{expert}", "{block}") if each in name), "")
            if index:
                for number in range(group.per_layer):
                    tensors |= _parts(name.replace(index, str(number)), group.format, group.shape)
            elif group.per_layer > 1:
                fused.setdefault(name, []).append(group)
            else:
                tensors |= _parts(name, group.format, group.shape)
    for name, groups in fused.items():
        rows = sum(group.shape[0] for group in groups)
        tensors |= _parts(name, groups[0].format, (groups[0].per_layer, rows, *groups[0].shape[1:]))
    return tensors


_PLAIN = {"bf16": "BF16", "f16": "F16", "f32": "F32", "int64": "I64"}


def _parts(name: str, format_name: str, shape: tuple[int, ...]) -> Tensors:
    """How one matrix is written. Sources: the published checkpoints of the quantizations named."""
    if format_name in _PLAIN:
        return {name: Stored(_PLAIN[format_name], shape)}
    module = name.removesuffix("weight")
    *leading, rows, columns = shape
    if format_name.endswith("_e8m0"):
        scales = (-(-rows // 128), -(-columns // 128))
        return {name: Stored("F8_E4M3", shape), f"{module}scale": Stored("F8_E8M0", scales)}
    if format_name == "mxfp4" and ".ffn.experts." in name:
        packed, scales = (rows, columns // 2), (rows, columns // 32)
        return {name: Stored("I8", packed), f"{module}scale": Stored("F8_E8M0", scales)}
    if format_name == "mxfp8":
        return {name: Stored("F8_E4M3", shape), f"{module}weight_scale_inv": Stored("U8", (rows, columns // 32))}
    if format_name in ("nf4", "fp4"):
        note = f'{{"quant_type": "{format_name}", "blocksize": 64, "dtype": "bfloat16", "shape": [{rows}, {columns}]}}'
        return {
            name: Stored("U8", (rows * columns // 2, 1)),
            f"{name}.absmax": Stored("F32", (rows * columns // 64,)),
            f"{name}.quant_map": Stored("F32", (16,)),
            f"{name}.quant_state.bitsandbytes__{format_name}": Stored("U8", (len(note),)),
        }
    if format_name == "bnb_int8":
        return {
            name: Stored("I8", shape),
            f"{module}SCB": Stored("F32", (rows,)),
            f"{module}weight_format": Stored("U8", ()),
        }
    if format_name == "mxfp4" and len(shape) == 3:
        return {
            f"{name}_blocks": Stored("U8", (*leading, rows, columns // 32, 16)),
            f"{name}_scales": Stored("U8", (*leading, rows, columns // 32)),
        }
    scale_type = "BF16" if format_name.endswith("_bf16") else "F32"
    method, _, detail = format_name.partition("_")
    if method == "int4" or format_name.endswith("_i64"):
        bits, (group, *marks) = int(method[3:]), detail.split("_")
        groups = 1 if group == "channel" else columns // int(group[1:])
        parts = {
            f"{module}weight_packed": Stored("I32", (rows, columns * bits // 32)),
            f"{module}weight_scale": Stored("BF16", (rows, groups)),
            f"{module}weight_shape": Stored("I64" if "i64" in marks else "I32", (2,)),
        }
        if "zp" in marks:
            parts |= {f"{module}weight_zero_point": Stored("I32", (rows * bits // 32, groups))}
        return parts | ({f"{module}weight_g_idx": Stored("I32", (columns,))} if "gidx" in marks else {})
    if method in ("awq", "gptq"):
        groups = columns // int(detail[1:])
        packed = (columns, rows // 8) if method == "awq" else (columns // 8, rows)
        parts = {
            f"{module}qweight": Stored("I32", packed),
            f"{module}qzeros": Stored("I32", (groups, rows // 8)),
            f"{module}scales": Stored("F16", (groups, rows)),
        }
        return parts if method == "awq" else parts | {f"{module}g_idx": Stored("I32", (columns,))}
    if method == "nvfp4":
        parts = {
            f"{module}weight": Stored("U8", (rows, columns // 2)),
            f"{module}weight_scale": Stored("F8_E4M3", (rows, columns // 16)),
            f"{module}weight_scale_2": Stored("F32", ()),
        }
        return parts if detail == "a16" else parts | {f"{module}input_scale": Stored("F32", ())}
    if method == "mxfp4":
        return {
            f"{module}weight_packed": Stored("U8", (rows, columns // 2)),
            f"{module}weight_scale": Stored("U8", (rows, columns // 32)),
        }
    parts = {f"{module}weight": Stored("I8" if method == "int8" else "F8_E4M3", (rows, columns))}
    if detail.startswith("block128"):
        return parts | {f"{module}weight_scale_inv": Stored(scale_type, (-(-rows // 128), -(-columns // 128)))}
    if detail.startswith("channel"):
        return parts | {f"{module}weight_scale": Stored(scale_type, (rows, 1))}
    if detail.startswith("static"):
        parts |= {f"{module}input_scale": Stored(scale_type, ())}
    return parts | {f"{module}weight_scale": Stored(scale_type, ())}


def write_checkpoint(folder: Path, tensors: Mapping[str, Stored], config: object = None, shards: int = 1) -> Path:
    """Write the files, their data a hole, and return the folder. More than one shard gets an index."""
    folder.mkdir(exist_ok=True)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    names = sorted(tensors)
    weight_map: dict[str, str] = {}
    for number in range(shards):
        name = f"model-{number + 1:05}-of-{shards:05}.safetensors" if shards > 1 else "model.safetensors"
        part = names[number * len(names) // shards : (number + 1) * len(names) // shards]
        _write_file(folder / name, {each: tensors[each] for each in part})
        weight_map |= dict.fromkeys(part, name)
    if shards > 1:
        write_index(folder, weight_map, sum(tensor.nbytes for tensor in tensors.values()))
    return folder


def write_index(folder: Path, weight_map: Mapping[str, str], total_bytes: int | None) -> Path:
    """Write the index alone, with its statement of the total where one is given."""
    index = folder / "model.safetensors.index.json"
    metadata = {} if total_bytes is None else {"total_size": total_bytes}
    index.write_text(json.dumps({"metadata": metadata, "weight_map": weight_map}), encoding="utf-8")
    return index


def _write_file(path: Path, tensors: Mapping[str, Stored]) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.nbytes
        header[name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": (begin, end)}
    raw = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        file.truncate(8 + len(raw) + end)
