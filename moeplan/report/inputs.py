"""Results of other commands, read from their JSON files. Every reader raises with one line."""

from __future__ import annotations

import json
from typing import Final, TypeVar

from pydantic import ValidationError

from moeplan.bench_report import BENCH_SCHEMA, BenchReport
from moeplan.text_safe import printable, shortened
from planner.cost_report import COST_SCHEMA, CostReport
from planner.errors import BadRequest
from planner.findings import CHECK_SCHEMA, CheckReport
from planner.plan import Record
from profiles.headers.strictjson import load_json_object

MAX_BYTES: Final = 64 << 20

R = TypeVar("R", bound=Record)


def read_check(path: str) -> CheckReport:
    """A result of ``moeplan check --json``."""
    return _read(path, "--check", CheckReport, CHECK_SCHEMA)


def read_bench(path: str) -> BenchReport:
    """A result of ``moeplan bench --json``."""
    return _read(path, "--bench", BenchReport, BENCH_SCHEMA)


def read_cost(path: str) -> CostReport:
    """A result of ``moeplan cost --json``."""
    return _read(path, "--cost", CostReport, COST_SCHEMA)


def _read(path: str, flag: str, kind: type[R], schema: str) -> R:
    value = load_json_object(path, MAX_BYTES, flag.removeprefix("--"))
    if value.get("schema") != schema:
        raise BadRequest(f"{flag} {path}: not a {schema}; its schema is {shortened(str(value.get('schema')))}")
    try:
        # As JSON: facts are strict, and a list is no tuple to them.
        return kind.model_validate_json(json.dumps(value))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"])[:120]
        raise BadRequest(f"{flag} {path}: not a {schema}: {printable(place)}: {first['msg']}") from None
