"""``moeplan recommend``: the inverse of plan, from a target to the least costly way to meet it."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Final

from moeplan.cli.arguments import BOUNDS, NARROWING, WORKLOAD, Flag, add_flags, add_model, options_of
from moeplan.cli.output import print_json, print_remarks
from moeplan.cli.parser import Parser
from moeplan.cli.progress import progress_bar
from planner.errors import BadRequest

if TYPE_CHECKING:
    from planner.machine import Machine
    from planner.recommend import Terms

TARGET: Final = (
    Flag("--tokens-per-s", "30", "output tokens per second of each request, instead of --tpot"),
    *BOUNDS,
)
MONEY: Final = (
    Flag("--hours-per-day", "24", "hours that rented hardware is paid for and used"),
    Flag("--years", "3", "time over which bought hardware loses its value (3)"),
    Flag("--prices", "FILE", "prices over the shipped ones: TOML with [[cloud]], [[api]], [[purchase]], [[memory]]"),
    Flag("--have", "MACHINE", "a machine at hand, '1xRTX4090 --ram 256GiB' in quotes: what upgrades would help"),
    Flag("--top", "3", "how many ways of each kind"),
)


def register(parser: Parser) -> None:
    """The flags of the command."""
    parser.usage = "%(prog)s MODEL [flags]"
    add_model(parser)
    add_flags(parser, "work", WORKLOAD)
    add_flags(parser, "target", TARGET)
    add_flags(parser, "narrow the search", NARROWING)
    add_flags(parser, "money", MONEY)


def run(args: Namespace) -> int:
    """Print the ways. 0 when one of them, or the machine at hand, meets the target; else 1."""
    from moeplan.cli.cost import prices_of
    from moeplan.recommending import recommended
    from planner.options import Options

    given = {name: value for name, value in options_of(args).items() if name != "top"}
    given |= tokens_per_s(args)
    terms = terms_of(args)
    prices = prices_of(args.prices)
    machine = _at_hand(args.have) if args.have is not None else None
    with progress_bar("searching") as progress:
        report = recommended(Options(args.model, **given), terms, prices, machine, progress)
    have = report.have
    if args.json:
        print_json(report.to_json())
        print_remarks("warning", report.warnings)
    else:
        from moeplan.text import show
        from moeplan.text_recommend import recommend_view

        show(recommend_view(report))
    return 0 if report.rent or report.buy or (have is not None and have.meets_target) else 1


def tokens_per_s(args: Namespace) -> dict[str, str]:
    """``--tokens-per-s`` as the option that it is the inverse of. Raises ``BadRequest``."""
    from moeplan.cli.cost import positive

    rate = positive(args.tokens_per_s, "--tokens-per-s")
    if rate is None:
        return {}
    if args.tpot is not None:
        raise BadRequest("--tokens-per-s cannot be combined with --tpot: one is the inverse of the other")
    return {"tpot": f"{1e3 / rate:.9f}ms"}


def terms_of(args: Namespace) -> Terms:
    """How the money is counted. Raises ``BadRequest``."""
    from moeplan.cli.cost import positive
    from planner.offers import hours
    from planner.quantities import parse_count
    from planner.recommend import Terms

    return Terms(
        hours(args.hours_per_day),
        positive(args.years, "--years") or 3.0,
        parse_count(args.top, "--top", high=20) if args.top is not None else 3,
    )


def _at_hand(text: str) -> Machine:
    """The machine of ``--have``, whose first word is what ``--gpu`` takes. Raises ``BadRequest``."""
    from moeplan.cli.grid import _described
    from planner.upgrades import machine_at_hand

    try:
        return machine_at_hand(_described(text))
    except BadRequest as error:
        said = str(error)
        if said.startswith("--machine "):
            raise BadRequest(said.replace("--machine", "--have", 1)) from None
        raise BadRequest(f"--have: {said.removeprefix('--gpu: ')}") from None
