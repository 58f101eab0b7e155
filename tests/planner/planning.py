"""Requests and searches from options as a person types them, for the tests of this folder."""

from __future__ import annotations

from typing import Any

from planner.build import build_request
from planner.engines.base import Priced
from planner.hardware import describe, machine_of
from planner.machine import Machine
from planner.options import Options
from planner.request import Request
from planner.search import Found, Outcome, search
from profiles.library import load_model

K25 = "kimi-k2.5"


def options_of(model: str = K25, **given: object) -> Options:
    """Options with numbers as text and one ``gpu`` as a tuple."""
    gpu = given.pop("gpu", ())
    assert isinstance(gpu, str | list | tuple)
    texts: dict[str, Any] = {name: value if isinstance(value, bool) else str(value) for name, value in given.items()}
    return Options(model, gpu=(gpu,) if isinstance(gpu, str) else tuple(gpu), **texts)


def machine_from(**given: object) -> Machine:
    """The machine that hardware options describe."""
    return machine_of(describe(options_of(K25, **given)), "flags")


def request_of(model: str = K25, *, exact: bool = False, machine: Machine | None = None, **given: object) -> Request:
    """The request of these options; ``machine`` stands in for the hardware options."""
    options = options_of(model, **given)
    found = machine or machine_of(describe(options), "flags")
    return build_request(options, load_model(model), found, exact=exact)


def outcome_of(model: str = K25, *, exact: bool = False, machine: Machine | None = None, **given: object) -> Outcome:
    """Everything the search finds for these options."""
    return search(request_of(model, exact=exact, machine=machine, **given))


def priced_of(model: str = K25, **given: object) -> Priced:
    """The one configuration that an exact request prices, whatever its verdict."""
    outcome = outcome_of(model, exact=True, machine=None, **given)
    priced = [found.priced for found in outcome.found] + [miss.priced for miss in outcome.missed]
    assert len(priced) == 1, priced
    assert priced[0] is not None, outcome.missed[0].reason
    return priced[0]


def layout_key(found: Found) -> tuple[object, ...]:
    """What makes a configuration another one: engine, release, ranks, KV dtype and offload, not its settings."""
    config, release = found.priced.config, found.release.release
    return (
        config.engine, release.publisher, release.quantization, config.tp, config.pp, config.dp, config.ep,
        config.dcp, config.attention_dp, config.kv_dtype,
    )  # fmt: skip


def starting(outcome: Outcome) -> set[tuple[object, ...]]:
    """Keys of the configurations that fit."""
    return {layout_key(found) for found in outcome.found if found.priced.verdict == "fits"}
