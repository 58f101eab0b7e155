"""Runs a grid of plans, here or on a Ray cluster, through the same pure function.

A cell is computed from objects that were read before, so that a worker needs neither the files nor the network. On Ray
a cell whose node dies is given to another; a cell that no worker returns is computed here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from hwdetect.inventory import Inventory
from moeplan.pipeline import Source, plan_on
from planner.errors import BadRequest, Undetermined
from planner.grid import GridCell, cell_of
from planner.options import Options

if TYPE_CHECKING:
    from profiles.model import ModelSpec

Progress = Callable[[int, int], None]
Table = tuple["tuple[Named, ...]", "tuple[Hardware, ...]"]
RETRIES: Final = 3
"""How often Ray starts a cell again whose worker or node died."""
AHEAD: Final = 4
"""Cells in flight per CPU of the cluster: enough to keep all busy, few enough to lose with a node."""


class Named(NamedTuple):
    """A model by the text that asked for it."""

    text: str
    spec: ModelSpec


class Hardware(NamedTuple):
    """A machine by the text that described it."""

    text: str
    inventory: Inventory
    source: Source


class Question(NamedTuple):
    """One cell, by the places of its model and machine in the tables; ``options`` hold its workload and bounds."""

    model: int
    machine: int
    workload: str
    options: Options


def questions(models: int, machines: int, workloads: Iterable[str], options: Options) -> list[Question]:
    """All cells in the order of the answer."""
    each = [(workload, replace(options, workload=workload)) for workload in workloads]
    return [
        Question(model, machine, workload, chosen)
        for model in range(models)
        for machine in range(machines)
        for workload, chosen in each
    ]


def answer(question: Question, models: tuple[Named, ...], machines: tuple[Hardware, ...]) -> GridCell:
    """The cell of one question; what is wrong with it is its answer too."""
    model, machine = models[question.model], machines[question.machine]
    names = {"model": model.text, "machine": machine.text, "workload": question.workload}
    try:
        plan = plan_on(question.options, model.spec, machine.inventory, machine.source)
    except (BadRequest, Undetermined) as error:
        refused = isinstance(error, BadRequest)
        return GridCell(
            **names, verdict="refused" if refused else "undetermined", best=None, why=str(error), evaluated=0
        )
    return cell_of(plan, **names)


def run_here(
    asked: list[Question], models: tuple[Named, ...], machines: tuple[Hardware, ...], progress: Progress
) -> list[GridCell]:
    """Every cell in this process."""
    cells = []
    for done, question in enumerate(asked):
        progress(done, len(asked))
        cells.append(answer(question, models, machines))
    progress(len(asked), len(asked))
    return cells


def run_on_ray(
    asked: list[Question], models: tuple[Named, ...], machines: tuple[Hardware, ...], progress: Progress
) -> list[GridCell]:
    """Every cell on the Ray cluster that ``RAY_ADDRESS`` names, or the one of this machine.

    Raises ``BadRequest`` without Ray or without a cluster.
    """
    from moeplan.ray_nodes import connected

    ray = connected()
    try:
        tables = ray.put((models, machines))
        remote = ray.remote(num_cpus=1, max_retries=RETRIES)(_answer_from)
        cells: dict[int, GridCell] = {}
        running: dict[Any, int] = {}
        waiting = iter(range(len(asked)))
        room = max(1, int(ray.cluster_resources().get("CPU", 1))) * AHEAD
        while True:
            for number in _first(waiting, room - len(running)):
                running[remote.remote(asked[number], tables)] = number
            if not running:
                break
            progress(len(cells), len(asked))
            ready, _ = ray.wait(list(running), num_returns=1)
            for reference in ready:
                number = running.pop(reference)
                cells[number] = _fetched(ray, reference) or answer(asked[number], models, machines)
        progress(len(asked), len(asked))
        return [cells[number] for number in range(len(asked))]
    finally:
        ray.shutdown()


def _answer_from(question: Question, tables: Table) -> GridCell:
    """The Ray task: shipped by name, so that the workers need moeplan installed."""
    return answer(question, *tables)


def _first(numbers: Iterator[int], count: int) -> Iterator[int]:
    for _ in range(count):
        number = next(numbers, None)
        if number is None:
            return
        yield number


def _fetched(ray: ModuleType, reference: object) -> GridCell | None:
    """The cell of a task; None where its worker, node or object was lost for good."""
    try:
        cell: GridCell = ray.get(reference)
    except ray.exceptions.RayError:
        return None
    return cell
