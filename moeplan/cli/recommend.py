"""``moeplan recommend``: the inverse of plan, from a target to the least costly way to meet it."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace
from datetime import date
from typing import TYPE_CHECKING, Final

from moeplan.cli.arguments import BOUNDS, NARROWING, WORKLOAD, Flag, add_flags, add_model, options_of
from moeplan.cli.output import print_json, print_remarks
from moeplan.cli.parser import Parser
from moeplan.cli.progress import progress_bar
from planner.errors import BadRequest

if TYPE_CHECKING:
    from planner.machine import Machine

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
    from moeplan.cli.cost import positive, prices_of
    from moeplan.pipeline import GENERATED_BY, read_model
    from planner.build import build_request
    from planner.machine import Machine
    from planner.offers import hours, purchases, rents
    from planner.options import Options
    from planner.quantities import parse_count
    from planner.recommend import Terms, recommend
    from planner.search import no_collection
    from planner.upgrades import have_report

    given = {name: value for name, value in options_of(args).items() if name != "top"}
    rate = positive(args.tokens_per_s, "--tokens-per-s")
    if rate is not None:
        if args.tpot is not None:
            raise BadRequest("--tokens-per-s cannot be combined with --tpot: one is the inverse of the other")
        given["tpot"] = f"{1e3 / rate:.9f}ms"
    terms = Terms(
        hours(args.hours_per_day),
        positive(args.years, "--years") or 3.0,
        parse_count(args.top, "--top", high=20) if args.top is not None else 3,
    )
    prices = prices_of(args.prices)
    machine = _at_hand(args.have) if args.have is not None else None
    with no_collection(), progress_bar("searching") as progress:
        request = build_request(
            Options(args.model, **given), read_model(args.model), machine or Machine((), None, "flags"), exact=False
        )
        have = have_report(request, prices) if machine is not None else None
        report = recommend(
            replace(request, machine=Machine((), None, "flags")), tuple(rents(prices)), tuple(purchases(prices)),
            prices, terms, have, date.today(), GENERATED_BY, progress,
        )  # fmt: skip
    if args.json:
        print_json(report.to_json())
        print_remarks("warning", report.warnings)
    else:
        from moeplan.text import show
        from moeplan.text_recommend import recommend_view

        show(recommend_view(report))
    return 0 if report.rent or report.buy or (have is not None and have.meets_target) else 1


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
