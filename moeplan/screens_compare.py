"""What the compare screen of ``tui`` is handed: configurations side by side, local against API, and recommendations."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from datetime import date
from typing import TYPE_CHECKING, Final

from moeplan.screens import options_of, refusals
from tui.compare_program import CompareProgram
from tui.knobs import KNOBS
from tui.program import Alive, Machine, Refused, Values

if TYPE_CHECKING:
    from rich.console import RenderableType

    from moeplan.cli.arguments import Flag
    from planner.plan import Plan
    from tui.marks import Mark

COST_FLAGS: Final = "--tokens-per-month 2e9 --cached-share 0.8 --electricity 0.15 --hardware-usd 250000"
RECOMMEND_FLAGS: Final = "--tokens-per-s 30 --hours-per-day 12 --years 3 --top 3"
ASKED: Final = (
    "engine", "quant", "kv_dtype", "workload", "context", "concurrency", "input_tokens", "output_tokens", "ttft",
    "tpot", "min_throughput",
)  # fmt: skip
"""Knobs that say what is asked of a machine, and not what it is."""


def compare_program() -> CompareProgram:
    """The real one."""
    return CompareProgram(
        cost_flags=COST_FLAGS, recommend_flags=RECOMMEND_FLAGS, compare=compare, cost=cost, recommend=recommend
    )


def compare(marks: tuple[Mark, ...], values: Values) -> RenderableType:
    """What was marked, side by side; ``values`` are the knobs now."""
    from moeplan.text_compare import Compared, compare_view

    return compare_view(
        [
            Compared(mark.candidate, mark.plan, _labelled(mark, marks), dict(mark.values) == dict(values))
            for mark in marks
        ]
    )


def _labelled(mark: Mark, marks: tuple[Mark, ...]) -> dict[str, str]:
    """Knobs that are not the same in all; an empty one as what the plan took."""
    names = [name for name in KNOBS if len({one.values.get(name, "") for one in marks}) > 1]
    return {KNOBS[name].label: mark.values.get(name) or _taken(mark.plan, name) for name in names}


def _taken(plan: Plan, name: str) -> str:
    work = plan.workload
    taken: Mapping[str, object] = {
        "workload": work.name, "context": work.context, "concurrency": work.concurrency,
        "input_tokens": work.input_tokens, "output_tokens": work.output_tokens, "objective": plan.objective,
    }  # fmt: skip
    return f"({taken.get(name, KNOBS[name].empty)})"


def cost(marks: tuple[Mark, ...], flags: str) -> RenderableType:
    """Each of them against the APIs that serve the same model. Raises ``Refused``."""
    from moeplan.cli.cost import FLAGS, assumptions, prices_of
    from moeplan.pipeline import GENERATED_BY
    from moeplan.text import DOUBTFUL, heading, line, stacked
    from moeplan.text_compare import LETTERS
    from moeplan.text_cost import cost_view
    from moeplan.text_plan import title
    from planner.costing import cost_report

    args = _read(flags, "cost", [flag for flag in FLAGS if flag.name != "--rank"])
    with refusals():
        given, prices = assumptions(args), prices_of(args.prices)
    parts: list[RenderableType] = []
    for letter, mark in zip(LETTERS, marks, strict=False):
        parts.append(heading(f"{letter}: {title(mark.candidate)}"))
        try:
            with refusals():
                report = cost_report(mark.plan, mark.candidate, prices, given, date.today(), GENERATED_BY)
        except Refused as refusal:
            parts.append(line(f"  {refusal}", DOUBTFUL))
        else:
            parts.append(cost_view(report))
    return stacked(*parts)


def recommend(values: Values, machine: Machine | None, flags: str, alive: Alive) -> RenderableType:
    """The least costly hardware for the knobs' model and work, and upgrades of their machine. Raises ``Refused``."""
    from moeplan.cli.cost import prices_of
    from moeplan.cli.recommend import MONEY, TARGET, terms_of, tokens_per_s
    from moeplan.pipeline import read_inventory
    from moeplan.recommending import recommended
    from moeplan.text_recommend import recommend_view
    from planner.hardware import machine_of
    from planner.options import Options

    if not values.get("model"):
        raise Refused("a model is needed on the plan screen")
    known = [flag for flag in (*TARGET, *MONEY) if flag.name != "--have"]
    args = _read(flags, "recommend", known)
    bounds = {flag.name[2:].replace("-", "_") for flag in TARGET} - {"tokens_per_s"}
    asked = {name: values[name] for name in ASKED if name in values}
    asked |= {name: text for name in bounds if (text := getattr(args, name)) is not None}
    if args.tokens_per_s is not None and args.tpot is None:
        # Typed here, it stands over the knob that is the inverse of it.
        asked.pop("tpot", None)
    with refusals():
        asked |= tokens_per_s(args)
        terms, prices = terms_of(args), prices_of(args.prices)
        options = options_of(values)
        inventory, source = read_inventory(options) if options.describes_hardware else (machine, "detected")
        here = machine_of(inventory, source) if inventory is not None else None  # type: ignore[arg-type]
        report = recommended(Options(values["model"], **asked), terms, prices, here, alive)  # type: ignore[arg-type]
    return recommend_view(report)


def _read(text: str, command: str, known: list[Flag]) -> Namespace:
    """Flags as the command line reads them. Raises ``Refused``."""
    import shlex

    from moeplan.cli.arguments import add_flags
    from moeplan.cli.parser import Parser, UsageError

    parser = Parser(command, "")
    add_flags(parser, "flags", known)
    names = ", ".join(flag.name for flag in known)
    try:
        words = shlex.split(text)
        args = parser.read(words) if not {"-h", "--help"} & set(words) else None
    except (UsageError, ValueError) as error:
        message = str(error).removeprefix(f"{command}: error: ").partition("; see ")[0]
        raise Refused(f"{message}; {names} are known") from None
    if args is None:
        raise Refused(f"{names} are known")
    return args
