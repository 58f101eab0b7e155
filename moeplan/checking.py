"""From a plan and a machine to a check report: ``hwdetect`` gathers the facts, ``planner`` judges them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from moeplan.pipeline import GENERATED_BY, read_inventory_file
from planner.errors import BadRequest
from planner.quantities import parse_count, parse_duration, shown

if TYPE_CHECKING:
    from planner.findings import CheckReport
    from planner.plan import Plan

MAX_BENCH_BYTES: Final = 64 << 20


def run_check(
    plan: Plan | None,
    *,
    progress: Callable[[int, int], None],
    inventory: str | None = None,
    rank: str | None = None,
    bench: str | None = None,
    engine_python: str | None = None,
    model_folder: str | None = None,
    strict: bool = False,
    cluster: str | None = None,
    node_timeout: str | None = None,
) -> CheckReport:
    """Check this machine, one that an inventory file describes, or every node of a cluster.

    Raises ``BadRequest`` with one line.
    """
    from planner.check import check

    if rank is not None and plan is None:
        raise BadRequest("--rank needs a PLAN")
    number = parse_count(rank, "--rank", high=1_000_000) if rank is not None else 1
    if cluster is not None:
        if cluster != "ray":
            raise BadRequest(f"--cluster: {shown(cluster)} is not known; ray is")
        for flag, value in (("--inventory", inventory), ("--bench", bench)):
            if value is not None:
                raise BadRequest(f"--cluster cannot be combined with {flag}")
        from moeplan.checking_cluster import NODE_TIMEOUT_S, check_on_ray

        return check_on_ray(
            plan, rank=number, strict=strict, engine_python=engine_python, model_folder=model_folder,
            timeout_s=parse_duration(node_timeout, "--node-timeout") if node_timeout is not None else NODE_TIMEOUT_S,
            progress=progress,
        )  # fmt: skip
    if node_timeout is not None:
        raise BadRequest("--node-timeout needs --cluster")
    if inventory is not None:
        for flag, value in (("--engine-python", engine_python), ("--model-folder", model_folder)):
            if value is not None:
                raise BadRequest(f"--inventory cannot be combined with {flag}: nothing is looked up on this machine")
        machine = read_inventory_file(Path(inventory))
    else:
        from moeplan.api import detect

        machine = detect(engine_python=engine_python, model_folder=model_folder)
    return check(machine, plan, rank=number, bench=_bench(bench), strict=strict, generated_by=GENERATED_BY)


def _bench(path: str | None) -> dict[str, Any] | None:
    if path is None:
        return None
    from profiles.headers.strictjson import load_json_object

    return dict(load_json_object(path, MAX_BENCH_BYTES, "result of bench"))
