"""A checkpoint's headers against the tensor list that its ``config.json`` implies; where they differ the files win."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from math import prod
from typing import Final, NamedTuple

from formulas.storage import storage_format, tensor_bytes
from profiles.headers.safetensors_header import Header
from profiles.model import ModelSpec, Role, TensorClass, TensorGroup
from profiles.weights.stored import EXPERT, PLAIN, Module, collapsed_names, modules, raw_part, split_part

_LAYER: Final = re.compile(r"(?<=\.layers\.)([0-9]{1,6})(?=\.)")

_VISION: Final = re.compile(r"(?:^|[._])(?:vision|visual|mm_projector|multi_modal_projector)[._]")


class Slot(NamedTuple):
    """``copies`` equal matrices of a module, and where they belong. ``layer`` is None outside the decoder layers."""

    pattern: str
    shape: tuple[int, ...]
    role: Role
    tensor_class: TensorClass
    format: str
    layer: int | None
    copies: int

    @property
    def bytes(self) -> int:
        """Bytes of all of them."""
        return tensor_bytes(storage_format(self.format), self.shape) * self.copies


class Difference(NamedTuple):
    """Tensors on which headers and configuration disagree: their number, their bytes, the name of the first.

    ``equal`` says that all are of one size.
    """

    tensors: int
    bytes: int
    first: str
    equal: bool


class Comparison(NamedTuple):
    """What the headers hold, in groups, and how it differs from the configuration (None: not at all).

    ``missing`` counts modules, since nothing says in how many tensors they would have been stored; its bytes are those
    of the configuration. ``expected`` and ``found`` count the modules of the configuration and those in the files.
    """

    groups: tuple[TensorGroup, ...]
    extra: Difference | None
    missing: Difference | None
    otherwise: Difference | None
    expected: int
    found: int


def compare(spec: ModelSpec, headers: Sequence[Header]) -> Comparison:
    """Tensor by tensor: same name, and bytes and type of the declared storage format."""
    collapse = True
    held = modules(headers, collapse=True)
    if held is None:
        collapse = False
        held = modules(headers, collapse=False) or {}
    expected = _expected(spec, collapse=collapse)
    extra = {name: module for name, module in held.items() if name not in expected}
    missing = [name for name in expected if name not in held]
    otherwise = {name for name, slots in expected.items() if name in held and not _agrees(held[name], slots)}
    if not (extra or missing or otherwise):
        return Comparison(spec.tensors, None, None, None, len(expected), len(expected))
    slots = [
        slot
        for name, wanted in expected.items()
        if name in held
        for slot in (_as_stored(held[name], wanted) if name in otherwise else wanted)
    ]
    known = {slot.pattern: wanted for wanted in expected.values() for slot in wanted}
    for name, module in extra.items():
        slots += _as_stored(module, _placed(name, spec, known))
    return Comparison(
        _grouped(slots),
        _difference([(name, module.tensors, module.bytes) for name, module in extra.items()]),
        _difference([(name, 1, sum(slot.bytes for slot in expected[name])) for name in missing]),
        _difference([(name, held[name].tensors, held[name].bytes) for name in sorted(otherwise)]),
        len(expected),
        len(expected) - len(missing),
    )


def compare_names(spec: ModelSpec, names: Sequence[str]) -> Comparison:
    """The same where only the names are known; bytes of extra tensors are then 0."""
    held: Counter[str] = Counter(split_part(name)[0] for name in collapsed_names(names, collapse=True))
    expected = _expected(spec, collapse=True)
    missing = [name for name in expected if name not in held]
    return Comparison(
        spec.tensors,
        _difference([(name, count, 0) for name, count in held.items() if name not in expected]),
        _difference([(name, 1, sum(slot.bytes for slot in expected[name])) for name in missing]),
        None,
        len(expected),
        len(expected) - len(missing),
    )


def implied_tensors(spec: ModelSpec) -> int:
    """How many tensors the configuration implies at least: one for each matrix that is not fused with others."""
    return sum(
        max(len(group.layers), 1) * (group.per_layer if "{expert}" in group.name or "{block}" in group.name else 1)
        for group in spec.tensors
    )


def _difference(rows: list[tuple[str, int, int]]) -> Difference | None:
    if not rows:
        return None
    each = {row[2] / row[1] for row in rows}
    return Difference(sum(row[1] for row in rows), sum(row[2] for row in rows), rows[0][0], len(each) == 1)


def _expected(spec: ModelSpec, *, collapse: bool) -> dict[str, list[Slot]]:
    """The matrices of each module that the configuration implies. A fused module has several."""
    slots: dict[str, list[Slot]] = {}
    for group in spec.tensors:
        for layer in group.layers or (None,):
            name = group.name
            if layer is not None:
                name = name.replace("{layer}", str(layer)).replace("{mtp_layer}", str(layer - spec.layers))
            index = next((each for each in ("{expert}", "{block}") if each in name), None)
            if index is None or (index == "{expert}" and collapse):
                names, count = [name.replace("{expert}", EXPERT)], group.per_layer
            else:
                names, count = [name.replace(index, str(number)) for number in range(group.per_layer)], 1
            for each in names:
                slot = Slot(group.name, group.shape, group.role, group.tensor_class, group.format, layer, count)
                slots.setdefault(each, []).append(slot)
    return slots


def _agrees(module: Module, slots: list[Slot]) -> bool:
    first = slots[0]
    if module.copies != (first.copies if "{expert}" in first.pattern else 1):
        return False
    if not all(module.fits(slot.format) for slot in slots) or module.bytes != sum(slot.bytes for slot in slots):
        return False
    return _is_fused(module, slots) or first.format not in PLAIN.values() or module.main.shape == first.shape


def _is_fused(module: Module, slots: list[Slot]) -> bool:
    """Whether one tensor holds several of the matrices that the configuration implies."""
    return len(slots) > 1 or slots[0].copies > module.copies


def _as_stored(module: Module, slots: list[Slot]) -> list[Slot]:
    """The matrices that ``slots`` place, in the shapes and formats that the files hold."""
    first = slots[0]
    if "{expert}" in first.pattern:
        slots = [slot._replace(copies=module.copies) for slot in slots]
    plain = module.plain_format
    if plain is not None:
        elements = sum(prod(slot.shape) * slot.copies for slot in slots)
        if _is_fused(module, slots) and elements == prod(module.main.shape) * module.copies:
            return [slot._replace(format=plain) for slot in slots]
        return [first._replace(shape=module.main.shape or (1,), format=plain, copies=module.copies)]
    # A module that the configuration does not have has no shape to be stored in.
    found = module.format_for((slot.shape, slot.copies) for slot in slots) if first.shape else None
    if found is not None:
        return [slot._replace(format=found) for slot in slots]
    raw = []
    for end, part in module.parts.items():
        shape, format_name = raw_part(part)
        name = f"{first.pattern}{end}" if end.startswith("_") else first.pattern
        raw.append(first._replace(pattern=name, shape=shape, format=format_name, copies=module.copies))
    return raw


def _placed(name: str, spec: ModelSpec, known: dict[str, list[Slot]]) -> list[Slot]:
    """Where a module belongs that the configuration does not imply."""
    found = _LAYER.search(name)
    layer = int(found[1]) if found else None
    pattern = (_LAYER.sub("{layer}", name, count=1) if found else name).replace(f".{EXPERT}.", ".{expert}.")
    part: tuple[Role, TensorClass] = ("norm", "norms")
    if name.endswith("lm_head.weight"):
        part = ("lm_head", "lm_head")
    elif name.partition(".")[0] in _vision_prefixes(spec) or _VISION.search(name):
        part, layer = ("vision_other", "vision"), None
    like = known.get(pattern, [Slot(pattern, (), *part, "", layer, 1)])
    beyond = layer is not None and layer >= spec.layers
    return [slot._replace(layer=layer, tensor_class="mtp" if beyond else slot.tensor_class) for slot in like]


def _vision_prefixes(spec: ModelSpec) -> frozenset[str]:
    """First components that only names of the vision tower and its projector have."""
    vision, text = (
        {group.name.partition(".")[0] for group in spec.tensors if (group.tensor_class == "vision") is is_vision}
        for is_vision in (True, False)
    )
    return frozenset(vision - text)


def _grouped(slots: list[Slot]) -> tuple[TensorGroup, ...]:
    totals: dict[tuple[str, tuple[int, ...], Role, TensorClass, str], dict[int | None, int]] = {}
    for slot in slots:
        key = (slot.pattern, slot.shape, slot.role, slot.tensor_class, slot.format)
        by_layer = totals.setdefault(key, {})
        by_layer[slot.layer] = by_layer.get(slot.layer, 0) + slot.copies
    groups = []
    for key, by_layer in totals.items():
        outside = by_layer.pop(None, 0)
        if outside:
            groups.append(TensorGroup(*key, per_layer=outside))
        by_count: dict[int, list[int]] = {}
        for layer, count in by_layer.items():
            by_count.setdefault(count, []).append(layer or 0)
        groups += [TensorGroup(*key, tuple(sorted(layers)), count) for count, layers in by_count.items()]
    return tuple(groups)
