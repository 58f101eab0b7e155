"""What a checkpoint's headers hold, by module: the parts in which each matrix is stored, experts counted together.

A quantized matrix is several tensors (packed values, scales, a shape, zero points); here they are one module named
after the matrix. The 70,000 modules of a large mixture of experts become some thousands of names, since the experts
of a layer differ in nothing but their index.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from math import prod
from typing import Final, NamedTuple

from formulas.storage import FORMATS, storage_format, tensor_bytes
from profiles.headers.safetensors_header import DTYPE_BITS, Header
from profiles.headers.tensorinfo import TensorKind

EXPERT: Final = "#"
"""Stands for the index of an expert in a collapsed name. No published name has it."""
PLAIN: Final = {"BF16": "bf16", "F16": "f16", "F32": "f32", "I64": "int64"}
"""Storage formats of what is not quantized, by safetensors dtype."""

# Begins with plain text, which makes the search four times as fast.
_EXPERT_INDEX: Final = re.compile(r"\.experts\.[0-9]+\.")
_MODULE_PARTS: Final = frozenset(
    (
        "weight_packed", "weight_scale", "weight_shape", "weight_zero_point", "weight_g_idx", "weight_scale_inv",
        "weight_scale_2", "weight_global_scale", "input_global_scale", "input_scale",
        "qweight", "qzeros", "scales", "g_idx", "scale", "input_zero_point", "SCB", "weight_format",
    )
)  # fmt: skip
"""Last components of names beside ``weight``: compressed-tensors, DeepSeek, modelopt, AWQ, GPTQ and LLM.int8."""
_FUSED_PARTS: Final = ("_blocks", "_scales", "_packed", "_scale_inv", "_scale", "_shape")
"""Ends of the names of fused experts, which have no module of their own: gpt-oss and compressed-tensors."""
_BELOW_WEIGHT: Final = re.compile(r"(.*\.weight)\.(absmax|quant_map|nested_absmax|nested_quant_map|quant_state\.\w+)")
"""What bitsandbytes stores beside a matrix of 4 bits, under the matrix's own name."""
_RAW: Final = {8: "I8", 16: "I16", 32: "I32", 64: "I64"}
_GROUPS: Final = (16, 32, 64, 128, 256, 512, 1024)
_QUANTIZED: Final[dict[str, tuple[str, ...]]] = {
    "I32": (
        *(
            f"int{bits}_{group}{parts}"
            for bits in (4, 8)
            for parts in ("", "_i64", "_zp_i64", "_gidx_i64", "_zp_gidx_i64")
            for group in (*(f"g{group}" for group in _GROUPS), "channel")
        ),
        *(f"{method}_g{group}" for method in ("awq", "gptq", "gptq8", "gptq3", "gptq2") for group in _GROUPS),
    ),
    "I8": (*(name for name in FORMATS if name.startswith("int8")), "mxfp4", "bnb_int8"),
    "F8_E4M3": (*(name for name in FORMATS if name.startswith("fp8")), "mxfp8"),
    "U8": (
        *("nvfp4", "nvfp4_a16", "mxfp4", "nf4", "nf4_f16", "fp4", "fp4_f16"),
        # An F32 is written as the shortest decimal that gives a double of the same value.
        *(f"nf4_nested{digits}{dtype}" for dtype in ("", "_f16") for digits in range(1, 25)),
    ),
}
_PACKED: Final = re.compile(r"(?:int[2-8]|(?:awq|gptq)[238]?)_(?:g|channel)")
"""Names of the formats whose values are packed into I32 words, among them those of no usual group size."""


class Module(NamedTuple):
    """The parts of one matrix or vector by the end of their names (empty for the tensor itself), ``copies`` times."""

    parts: dict[str, TensorKind]
    copies: int

    @property
    def bytes(self) -> int:
        """Bytes of all its parts."""
        return sum(part.nbytes for part in self.parts.values()) * self.copies

    @property
    def tensors(self) -> int:
        """Tensors in the files."""
        return len(self.parts) * self.copies

    @property
    def main(self) -> TensorKind:
        """The part with the values: the largest."""
        return max(self.parts.values(), key=lambda part: part.nbytes)

    @property
    def plain_format(self) -> str | None:
        """The storage format of a tensor that is not quantized, None for the others."""
        return PLAIN.get(self.main.type_name) if len(self.parts) == 1 else None

    def fits(self, format_name: str) -> bool:
        """Whether values of this storage format have the dtype found here."""
        if format_name in PLAIN.values():
            return self.plain_format == format_name
        dtype = {"F8_E5M2": "F8_E4M3", "F4": "U8"}.get(self.main.type_name, self.main.type_name)
        known = _QUANTIZED.get(dtype, ())
        if dtype == "F8_E4M3" and format_name.startswith("fp8_block"):
            return True
        return format_name in known or (dtype == "I32" and _PACKED.match(format_name) is not None)

    def format_for(self, shapes: Iterable[tuple[tuple[int, ...], int]]) -> str | None:
        """The storage format in which matrices of ``shapes``, each so many times, take exactly these bytes."""
        shapes = tuple(shapes)
        candidates = [name for names in _QUANTIZED.values() for name in names if self.fits(name)]
        if "qweight" in self.parts:
            method = "gptq" if "g_idx" in self.parts else "awq"
            candidates = [name for name in candidates if name.startswith(method)]
        if "quant_map" in self.parts:
            candidates = [name for name in candidates if name.startswith(("nf4", "fp4"))]
        for name in candidates:
            storage = storage_format(name)
            if sum(tensor_bytes(storage, shape) * count for shape, count in shapes) == self.bytes:
                return name
        return None


def collapsed_names(names: Sequence[str], *, collapse: bool) -> Sequence[str]:
    """The names with the index of each expert replaced."""
    return _EXPERT_INDEX.sub(f".experts.{EXPERT}.", "\n".join(names)).split("\n") if collapse and names else names


def modules(headers: Sequence[Header], *, collapse: bool) -> dict[str, Module] | None:
    """The modules by name. Without ``collapse`` every expert is its own; with it None when experts differ."""
    rows: Counter[tuple[str, TensorKind]] = Counter()
    for header in headers:
        # A pass in C: the loop below then sees only what is distinct.
        rows.update(zip(collapsed_names(header.names, collapse=collapse), header.kinds, strict=True))
    parts: dict[str, dict[str, TensorKind]] = {}
    counts: dict[str, int] = {}
    for (name, kind), count in rows.items():
        if not kind.nbytes:
            continue
        module, end = split_part(name)
        of_module = parts.setdefault(module, {})
        if end in of_module or counts.setdefault(module, count) != count:
            return None
        of_module[end] = kind
    return {module: Module(found, counts[module]) for module, found in parts.items()}


def split_part(name: str) -> tuple[str, str]:
    """The module a tensor belongs to and which part of it it is.

    >>> split_part("model.layers.1.mlp.experts.#.up_proj.weight_scale")
    ('model.layers.1.mlp.experts.#.up_proj.weight', 'weight_scale')
    >>> split_part("model.layers.0.mlp.experts.gate_up_proj_blocks")
    ('model.layers.0.mlp.experts.gate_up_proj', '_blocks')
    >>> split_part("layers.0.hc_attn_scale"), split_part("model.norm.weight.absmax")
    (('layers.0.hc_attn_scale', ''), ('model.norm.weight', 'absmax'))
    """
    head, dot, last = name.rpartition(".")
    if dot and last in _MODULE_PARTS:
        return f"{head}.weight", last
    for end in _FUSED_PARTS if ".experts." in name else ():
        if last.endswith(end):
            return name.removesuffix(end), end
    if found := _BELOW_WEIGHT.fullmatch(name):
        return found[1], found[2]
    return name, ""


def raw_part(part: TensorKind) -> tuple[tuple[int, ...], str]:
    """Shape and storage format that give a part its bytes, whatever it means."""
    bits = DTYPE_BITS[part.type_name]
    format_name = PLAIN.get(part.type_name) or _RAW.get(bits)
    if format_name is None or prod(part.shape) * bits != part.nbytes * 8:
        return (part.nbytes,), "I8"
    return part.shape or (1,), format_name
