"""``moeplan schema``: the JSON Schemas, checked in under ``moeplan/schemas`` and derived from the types."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Final

from moeplan.cli.output import print_json, print_remarks, write_whole
from moeplan.cli.parser import Parser, did_you_mean
from moeplan.text_safe import shortened
from planner.errors import BadRequest

SCHEMAS: Final = (
    "plan", "grid", "inventory", "memory", "check", "observation", "calibration", "bench", "cluster-bench",
    "validation", "cost", "recommend", "verify",
)  # fmt: skip
FOLDER: Final = Path(__file__).parent.parent / "schemas"


def register(parser: Parser) -> None:
    """Which schema, or ``--write``."""
    parser.usage = f"%(prog)s {' | '.join(SCHEMAS)}"
    parser.add_argument("name", metavar="NAME", nargs="?", help=", ".join(SCHEMAS))
    parser.add_argument("--write", action="store_true", help="renew the checked-in files from the types")


def run(args: Namespace) -> int:
    """Print one schema, or write all of them."""
    if args.name is not None and args.name not in SCHEMAS:
        hint = did_you_mean(args.name, SCHEMAS)
        raise BadRequest(f"{shortened(args.name)} is no schema{hint}; {', '.join(SCHEMAS)} are")
    if args.write:
        for name in (args.name,) if args.name else SCHEMAS:
            path = FOLDER / f"{name}.json"
            write_whole(path, derived(name), "--write")
            print_remarks("wrote", [str(path)])
        return 0
    if args.name is None:
        raise BadRequest(f"which schema? {', '.join(SCHEMAS)} are known")
    print_json((FOLDER / f"{args.name}.json").read_text(encoding="utf-8"))
    return 0


def derived(name: str) -> str:
    """The schema as its types have it now, as text of a file."""
    from pydantic import BaseModel

    from hwdetect.inventory import Inventory
    from moeplan.bench_report import BenchReport, ClusterBench
    from moeplan.calibration import Calibration
    from moeplan.observing import ObservationReport
    from moeplan.validating import Validation
    from planner.cost_report import CostReport
    from planner.findings import CheckReport
    from planner.grid import Grid
    from planner.memory_report import MemoryReport
    from planner.plan import Plan
    from planner.recommend_report import RecommendReport
    from planner.verify_report import VerifyReport

    types: dict[str, type[BaseModel]] = {
        "plan": Plan,
        "grid": Grid,
        "inventory": Inventory,
        "memory": MemoryReport,
        "check": CheckReport,
        "observation": ObservationReport,
        "calibration": Calibration,
        "bench": BenchReport,
        "cluster-bench": ClusterBench,
        "validation": Validation,
        "cost": CostReport,
        "recommend": RecommendReport,
        "verify": VerifyReport,
    }
    if name == "inventory":
        schema = types[name].model_json_schema()
    else:
        # What is printed has every key, also those with a default, and a later version may have more of them.
        schema = types[name].model_json_schema(mode="serialization")
        _as_printed(schema)
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return json.dumps({**head, **schema}, indent=2) + "\n"


def _as_printed(schema: object) -> None:
    """Demand every key and allow further ones, here and in everything below."""
    if isinstance(schema, dict):
        if schema.get("additionalProperties") is False:
            del schema["additionalProperties"]
            schema["required"] = list(schema["properties"])
        for part in schema.values():
            _as_printed(part)
    elif isinstance(schema, list):
        for part in schema:
            _as_printed(part)
