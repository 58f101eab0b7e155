"""Which kernels are measured: those that a plan lists, or that a model's best configurations here depend on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from pydantic import ValidationError

from hwdetect.bench.case import Kernel, KernelCase, kernel_case
from hwdetect.bench.layer import layer_parts
from moeplan.text_safe import printable, shortened
from planner.build import build_request
from planner.cases import kernel_cases
from planner.errors import BadRequest
from planner.hardware import machine_of
from planner.layer import layer_case
from planner.options import Options
from planner.plan import PLAN_SCHEMA, Candidate, Plan
from planner.search import search

if TYPE_CHECKING:
    from hwdetect.inventory import Inventory
    from profiles.model import ModelSpec

MAX_PLAN_BYTES: Final = 64 << 20
MEMORY_CASE_BYTES: Final = 256 << 20
MEMORY_CASE: Final = kernel_case("memory_read", "bf16", bytes=MEMORY_CASE_BYTES)
DISK_CASE_BYTES: Final = 1 << 30
SWEEP: Final = (1, 4, 16, 64, 256, 1024, 4096)
"""Tokens of a step at which a matrix is measured, so that what lies between can be interpolated."""
CONTEXTS: Final = (1024, 4096, 16384)
QUICK_BATCH: Final = 64
MISSES: Final = 2
"""Configurations measured on a machine where nothing fits: the nearest ones."""
_WEIGHTS_FIRST: Final = ("cpu_moe", "grouped_moe", "cpu_attention", "mla_decode", "gqa_decode")


def read_plan(path: Path) -> Plan:
    """A plan from a file. Raises ``BadRequest``."""
    where = printable(str(path))
    try:
        with path.open("rb") as file:
            data = file.read(MAX_PLAN_BYTES + 1)
        if len(data) > MAX_PLAN_BYTES:
            raise BadRequest(f"{where}: larger than {MAX_PLAN_BYTES >> 20} MiB")
        return Plan.model_validate_json(data)
    except OSError as error:
        raise BadRequest(f"{where}: {error.strerror or error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(str(part) for part in first["loc"]) or "the file"
        raise BadRequest(f"{where}: not a {PLAN_SCHEMA}: {at}: {shortened(str(first['msg']))}") from None


def is_plan(text: str) -> bool:
    """Whether a name is that of a plan's file rather than of a model."""
    path = Path(text)
    if path.suffix != ".json" or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            head: Any = json.loads(file.read(MAX_PLAN_BYTES))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(head, dict) and head.get("schema") == PLAN_SCHEMA


def candidate_cases(candidate: Candidate) -> list[KernelCase]:
    """The kernels of a candidate. Raises ``BadRequest`` for one that has no such kernel or dimension."""
    cases = []
    for kernel in candidate.kernels:
        # Any text: asking for its work refuses what is no kernel.
        name = cast("Kernel", kernel.kernel)
        case = KernelCase(name, kernel.quantization, tuple(sorted(kernel.dims.items())), kernel.batch, kernel.context)
        try:
            case.work()
        except (KeyError, ValueError) as error:
            raise BadRequest(f"the plan's kernel {shortened(kernel.series)}: {error.args[0]}") from None
        cases.append(case)
    return cases


def model_cases(options: Options, inventory: Inventory, spec: ModelSpec) -> list[KernelCase]:
    """The kernels of what fits best on this machine, or where nothing fits of what misses least.

    With them a whole layer of the best, and the parts that are to add up to it.
    """
    request = build_request(options, spec, machine_of(inventory, "detected"), exact=False)
    outcome = search(request, None)
    from planner.assemble import distinct
    from planner.search import score

    chosen = [
        (found.release, found.priced)
        for found in distinct(sorted(outcome.found, key=lambda found: score(request, found)))[: request.top]
    ]
    if not chosen:
        near = sorted(
            [miss for miss in outcome.missed if miss.priced is not None], key=lambda miss: miss.short_by
        )[:MISSES]  # fmt: skip
        chosen = [(miss.release, miss.priced) for miss in near if miss.priced is not None]
    if not chosen:
        raise BadRequest(f"{options.model}: no configuration of it can be priced on this machine")
    cases: dict[KernelCase, None] = {}
    for release, priced in chosen:
        cases.update(dict.fromkeys(kernel_cases(request, release, priced)))
    layer = layer_case(request, *chosen[0])
    if layer is not None:
        cases.update(dict.fromkeys((*layer_parts(layer), layer)))
    return list(cases)


def swept(cases: Iterable[KernelCase]) -> list[KernelCase]:
    """The cases and the batches, for attention the contexts, around them."""
    wider: dict[KernelCase, None] = {}
    for case in cases:
        wider[case] = None
        if case.context:
            wider.update(dict.fromkeys(case._replace(context=context) for context in CONTEXTS))
        elif case.kernel in ("cpu_moe", "cpu_dense", "grouped_moe", "dense"):
            wider.update(dict.fromkeys(case._replace(batch=batch) for batch in SWEEP))
    return list(wider)


def decode_only(cases: Iterable[KernelCase]) -> list[KernelCase]:
    """The cases without the large batches of a prompt, whose weights alone take long to lay out."""
    return [case for case in cases if case.batch <= QUICK_BATCH]


def memory_cases(numa: Sequence[int]) -> list[KernelCase]:
    """Reading memory: of all NUMA nodes at once and of each by itself, where there are several."""
    if len(numa) < 2:
        return [MEMORY_CASE]
    several = {"bytes": MEMORY_CASE_BYTES, "nodes": len(numa)}
    each = [kernel_case("memory_read", "bf16", bytes=MEMORY_CASE_BYTES, node=node) for node in numa]
    return [kernel_case("memory_read", "bf16", **several), *each]


def with_machine(cases: Sequence[KernelCase], *, disk: bool, gpus: int, numa: Sequence[int] = ()) -> list[KernelCase]:
    """The cases in the order of measuring: the memory first, then what carries most of a step."""
    machine = memory_cases(numa)
    if disk:
        machine.append(kernel_case("disk_read", "bf16", bytes=DISK_CASE_BYTES))
    if gpus:
        machine.append(kernel_case("host_to_device", "bf16", bytes=MEMORY_CASE_BYTES))
    if gpus > 1:
        machine.append(kernel_case("gpu_to_gpu", "bf16", bytes=MEMORY_CASE_BYTES))
    heavy = [case for case in cases if case.kernel in _WEIGHTS_FIRST]
    return [*machine, *heavy, *[case for case in cases if case.kernel not in _WEIGHTS_FIRST]]
