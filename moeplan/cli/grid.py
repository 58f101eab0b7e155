"""``moeplan grid``: many models on many machines under many workloads."""

from __future__ import annotations

from argparse import Namespace
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from moeplan.cli.arguments import (
    BOUNDS,
    CONCURRENCY,
    CONTEXT,
    INPUT_TOKENS,
    OUTPUT_TOKENS,
    Flag,
    add_flags,
    add_hardware,
    options_of,
)  # fmt: skip
from moeplan.cli.output import print_json, write_whole
from moeplan.cli.parser import Parser, UsageError
from moeplan.cli.progress import progress_bar
from moeplan.text_safe import shortened
from planner.errors import BadRequest

if TYPE_CHECKING:
    from moeplan.grid import Hardware

PLACES: Final = ("here", "ray")
ANSWER: Final = (
    Flag("--objective", "NAME", "balanced (the default), throughput, latency, context, cost or quality"),
    Flag("--on", "here", "here (the default), or ray: the cluster of RAY_ADDRESS, or of this machine"),
    Flag("--output", "grid.json", "write the grid to a file as well"),
)


def register(parser: Parser) -> None:
    """The flags of the command."""
    parser.usage = "%(prog)s MODEL [MODEL ...] --machine MACHINE [--machine MACHINE ...] [flags]"
    parser.add_argument("models", metavar="MODEL", nargs="+", help="as of `moeplan plan`")
    group = parser.add_argument_group("hardware")
    group.add_argument(
        "--machine", metavar="'8xH200 --ram 2TiB'", action="append", default=[],
        help="a machine: its GPUs, and hardware flags of `moeplan plan` after them, in quotes; repeat for further ones",
    )  # fmt: skip
    group.add_argument(
        "--inventory", metavar="FILE", action="append", default=[], help="a machine or fleet; repeat for further ones"
    )
    group = parser.add_argument_group("work, for every cell")
    group.add_argument("--workload", metavar="NAME", action="append", default=[], help="repeat for further ones")
    add_flags(parser, "for every cell", (CONTEXT, CONCURRENCY, INPUT_TOKENS, OUTPUT_TOKENS))
    add_flags(parser, "bounds", BOUNDS)
    add_flags(parser, "answer", ANSWER)


def run(args: Namespace) -> int:
    """Print the grid. 0 when every cell fits; 3 when one could not be determined; else 1."""
    from dataclasses import replace

    from moeplan.grid import Named, questions, run_here, run_on_ray
    from moeplan.pipeline import GENERATED_BY, read_model
    from planner.grid import Grid
    from planner.options import Options
    from profiles.workloads import DEFAULT_WORKLOAD

    place = args.on if args.on is not None else "here"
    if place not in PLACES:
        raise BadRequest(f"--on: {place[:40]!r} is no place; {' and '.join(PLACES)} are")
    given = {name: value for name, value in options_of(args).items() if name not in ("workload", "inventory")}
    options = Options("", **given)
    workloads = tuple(dict.fromkeys(args.workload)) or (DEFAULT_WORKLOAD,)
    machines = tuple(_machines(args))
    models = tuple([Named(text, read_model(text)) for text in dict.fromkeys(args.models)])
    asked = questions(len(models), len(machines), workloads, replace(options, model=""))
    with progress_bar("planning") as progress:
        runner = run_on_ray if place == "ray" else run_here
        cells = runner(asked, models, machines, progress)
    grid = Grid(
        schema="moeplan.grid/1",
        generated_by=GENERATED_BY,
        computed_on=place,
        models=tuple([model.text for model in models]),
        machines=tuple([machine.text for machine in machines]),
        workloads=workloads,
        objective=args.objective or "balanced",
        cells=tuple(cells),
    )
    if args.output is not None:
        write_whole(Path(args.output), grid.to_json() + "\n", "--output")
    if args.json:
        print_json(grid.to_json())
    else:
        from moeplan.text import show
        from moeplan.text_grid import grid_view

        show(grid_view(grid))
    verdicts = {cell.verdict for cell in cells}
    return 3 if "undetermined" in verdicts else 0 if verdicts == {"fits"} else 1


def _machines(args: Namespace) -> list[Hardware]:
    """The described machines and those of inventory files. Raises ``BadRequest``."""
    from moeplan.grid import Hardware
    from moeplan.pipeline import read_inventory
    from planner.options import Options

    found = []
    for text in dict.fromkeys(args.machine):
        options = Options("", **_described(text))
        found.append(Hardware(text, *read_inventory(options)))
    for path in dict.fromkeys(args.inventory):
        found.append(Hardware(path, *read_inventory(Options("", inventory=path))))
    if not found:
        raise BadRequest("--machine or --inventory: at least one is needed")
    return found


def _described(text: str) -> dict[str, Any]:
    """``8xH200``, or ``8xH100 --nodes 2 --ram 2TiB``, as options."""
    import shlex

    parser = Parser("moeplan grid --machine", "")
    add_hardware(parser)
    try:
        words = shlex.split(text)
        gpus = list(takewhile(lambda word: not word.startswith("--"), words))
        parsed = parser.read([*(f"--gpu={gpu}" for gpu in gpus), *words[len(gpus) :]])
    except (UsageError, ValueError) as error:
        reason = str(error).removeprefix("moeplan grid --machine: error: ").partition("; see")[0]
        raise BadRequest(f"--machine {shortened(text)}: {reason}") from None
    if parsed is None or parsed.inventory is not None or not words:
        raise BadRequest(f"--machine {shortened(text)}: write 8xH200, or 8xH100 --nodes 2; a file goes to --inventory")
    return options_of(parsed)
