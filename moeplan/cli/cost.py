"""``moeplan cost``: a plan's machine against the APIs that serve the same model."""

from __future__ import annotations

from argparse import Namespace
from datetime import date
from typing import TYPE_CHECKING, Final

from moeplan.cli.arguments import Flag, add_flags
from moeplan.cli.output import print_json, print_remarks
from moeplan.cli.parser import Parser
from moeplan.text_safe import shortened
from planner.errors import BadRequest

if TYPE_CHECKING:
    from planner.costing import Assumptions
    from planner.plan import Candidate, Plan
    from profiles.prices import Prices

FLAGS: Final = (
    Flag("--rank", "1", "the candidate's rank in the plan"),
    Flag("--prices", "FILE", "prices over the shipped ones: TOML with [[cloud]], [[api]], [[purchase]], [[memory]]"),
    Flag("--tokens-per-month", "2e9", "input and output tokens together; else the machine is used fully"),
    Flag("--utilization", "0.5", "share of its capacity that the machine is used, instead of --tokens-per-month"),
    Flag("--cached-share", "0.8", "share of the input that the API finds in its cache"),
    Flag("--hardware-usd", "250000", "price of the whole machine, instead of the known prices of its GPUs"),
    Flag("--years", "3", "time over which bought hardware loses its value (3)"),
    Flag("--electricity", "0.15", "dollars per kWh"),
    Flag("--operations", "2000", "dollars per month for people, space and network"),
)


def register(parser: Parser) -> None:
    """The flags of the command."""
    parser.usage = "%(prog)s PLAN [flags]"
    parser.add_argument("plan", metavar="PLAN", help="a plan that `moeplan plan --output` wrote")
    add_flags(parser, "what to assume", FLAGS)


def run(args: Namespace) -> int:
    """Print the comparison. 1 when the plan has no candidate, 3 when the prices to decide it are not known."""
    from moeplan.cli.launch import read_plan
    from moeplan.pipeline import GENERATED_BY
    from planner.costing import cost_report

    given = assumptions(args)
    prices = prices_of(args.prices)
    plan = read_plan(args.plan)
    if not plan.candidates:
        print_remarks("nothing to price", [f"no configuration in {args.plan} fits"])
        return 1
    report = cost_report(plan, ranked(plan, args.rank), prices, given, date.today(), GENERATED_BY)
    if args.json:
        print_json(report.to_json())
        print_remarks("warning", report.warnings)
    else:
        from moeplan.text import show
        from moeplan.text_cost import cost_view

        show(cost_view(report))
    return 3 if report.verdict == "undetermined" else 0


def assumptions(args: Namespace) -> Assumptions:
    """What was given to assume. Raises ``BadRequest``."""
    from planner.costing import Assumptions
    from planner.quantities import parse_fraction

    volume = positive(args.tokens_per_month, "--tokens-per-month")
    if volume is not None and args.utilization is not None:
        raise BadRequest("--utilization cannot be combined with --tokens-per-month")
    return Assumptions(
        tokens_per_month=volume,
        utilization=parse_fraction(args.utilization, "--utilization") if args.utilization is not None else 1.0,
        cached_share=share(args.cached_share, "--cached-share"),
        years=positive(args.years, "--years") or 3.0,
        usd_per_kwh=positive(args.electricity, "--electricity"),
        operations_usd_per_month=positive(args.operations, "--operations"),
        hardware_usd=positive(args.hardware_usd, "--hardware-usd"),
    )


def positive(text: str | None, flag: str) -> float | None:
    """A number above zero; None where nothing was given. Raises ``BadRequest``."""
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1e18:
        raise BadRequest(f"{flag}: {shortened(text)} is not a number above zero")
    return value


def share(text: str | None, flag: str) -> float | None:
    """A number from 0 to 1; None where nothing was given. Raises ``BadRequest``."""
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise BadRequest(f"{flag}: {shortened(text)} is not a share from 0 to 1")
    return value


def prices_of(path: str | None) -> Prices:
    """The shipped prices, with those of a file over them. Raises ``BadRequest``."""
    from profiles.prices import BadPrices, known_prices, prices_with

    if path is None:
        return known_prices()
    try:
        return prices_with(path)
    except BadPrices as error:
        raise BadRequest(f"--prices {error}") from None


def ranked(plan: Plan, text: str | None) -> Candidate:
    """The candidate of ``--rank``, the first without it. Raises ``BadRequest``."""
    for candidate in plan.candidates:
        if text is None or text.strip() == str(candidate.rank):
            return candidate
    known = ", ".join(str(candidate.rank) for candidate in plan.candidates)
    raise BadRequest(f"--rank: {shortened(text or '')} is not in the plan; {known[:60]} are")
