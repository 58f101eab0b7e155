"""The least costly ways to a target: reads the model and the day, and leaves the search to the planner."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import date

from moeplan.pipeline import GENERATED_BY, read_model
from planner.build import build_request
from planner.machine import Machine
from planner.offers import purchases, rents
from planner.options import Options
from planner.recommend import Terms, recommend
from planner.recommend_report import RecommendReport
from planner.search import no_collection
from planner.upgrades import have_report
from profiles.prices import Prices


def recommended(
    options: Options,
    terms: Terms,
    prices: Prices,
    machine: Machine | None,
    progress: Callable[[int, int], None] | None,
) -> RecommendReport:
    """The report; ``machine`` is one at hand, if there is one. Raises as ``read_model`` and ``build_request`` do."""
    nowhere = Machine((), None, "flags")
    with no_collection():
        request = build_request(options, read_model(options.model), machine or nowhere, exact=False)
        have = have_report(request, prices) if machine is not None else None
        return recommend(
            replace(request, machine=nowhere), tuple(rents(prices)), tuple(purchases(prices)), prices, terms, have,
            date.today(), GENERATED_BY, progress,
        )  # fmt: skip
