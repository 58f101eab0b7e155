"""``moeplan bench``: the kernels that decide a plan, measured on this machine."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from moeplan.cli.arguments import ENGINE, QUANT, Flag, add_flags, options_of
from moeplan.cli.output import print_json, print_remarks, write_whole
from moeplan.cli.parser import Parser
from moeplan.cli.progress import progress_bar
from planner.errors import BadRequest

if TYPE_CHECKING:
    from moeplan.benching import BenchOptions

INTERRUPTED = 130
STANDS_OUT = 1
NOTHING_MEASURED = 3
MEASURING = (
    Flag("--quick", "", "under a minute: the plan's own batches, few samples"),
    Flag("--threads", "N", "CPU threads; all physical cores if not given"),
    Flag("--routing", "NAME", "experts of a token: uniform (the default), power_law or replay"),
    Flag("--trace", "FILE.npy", "recorded expert ids to replay, integers (tokens, experts of a token)"),
    Flag("--library", "FILE.so", "a llama.cpp of your own, instead of the one in xllamacpp"),
    Flag("--disk-folder", "FOLDER", "measure reading from the disk that holds it; a file of 1 GiB is written"),
)
RESULT = (
    Flag("--calibration", "auto/none/FILE", "where results are kept: this user's data folder, nowhere, a file"),
    Flag("--output", "FILE", "write the result to a file as well: JSON, or charts where it ends in .html"),
)


CLUSTER = (
    Flag("--cluster", "ray", "every node of the Ray cluster of RAY_ADDRESS, instead of this machine"),
    Flag("--node-timeout", "1h", "how long a node may take"),
)


def register(parser: Parser) -> None:
    """The flags of the command."""
    parser.usage = "%(prog)s [MODEL / PLAN] [flags]"
    parser.add_argument(
        "target", metavar="MODEL / PLAN", nargs="?", help="a model, or the JSON of a plan; kimi-k2.5 if not given"
    )
    parser.add_argument(
        "--engine-python", metavar="PYTHON", action="append", help="an engine's own interpreter; repeat for several"
    )
    add_flags(parser, "measuring", MEASURING)
    add_flags(parser, "with a MODEL, what of it", (ENGINE, QUANT))
    add_flags(parser, "a cluster", CLUSTER)
    add_flags(parser, "result", RESULT)


def run(args: Namespace) -> int:
    """Print what was measured. 0 with results, 1 where a node stands out, 3 without any, 130 when interrupted."""
    chosen = bench_options(args)
    named = options_of(args)
    if args.cluster is not None:
        return _cluster(args, chosen, named.get("engine"), named.get("quant"))
    if args.node_timeout is not None:
        raise BadRequest("--node-timeout needs --cluster")
    from moeplan.benching import bench

    with progress_bar("measuring") as progress:
        report = bench(args.target, chosen, engine=named.get("engine"), quant=named.get("quant"), progress=progress)
    if args.json:
        print_json(report.to_json())
        print_remarks("note", report.notes)
    else:
        from moeplan.text import show
        from moeplan.text_bench import bench_view

        show(bench_view(report))
    if args.output is not None:
        # Last, so that a full disk does not cost what is printed.
        write_whole(Path(args.output), _file_of(report, args.output), "--output")
    if report.ended == "interrupted":
        return INTERRUPTED
    return 0 if report.rows else NOTHING_MEASURED


def _cluster(args: Namespace, chosen: BenchOptions, engine: str | None, quant: str | None) -> int:
    from planner.quantities import parse_duration, shown

    if args.cluster != "ray":
        raise BadRequest(f"--cluster: {shown(args.cluster)} is not known; ray is")
    if chosen.calibration not in ("auto", "none"):
        raise BadRequest("--cluster: --calibration auto and none are allowed; each node keeps its own")
    if args.output is not None and args.output.endswith(".html"):
        raise BadRequest("--cluster: --output writes JSON; charts are of one machine")
    from moeplan.bench_cases import is_plan, read_plan
    from moeplan.benching_cluster import NODE_TIMEOUT_S, bench_on_ray

    timeout_s = parse_duration(args.node_timeout, "--node-timeout") if args.node_timeout else NODE_TIMEOUT_S
    plan = read_plan(Path(args.target)) if args.target and is_plan(args.target) else None
    with progress_bar("measuring nodes") as progress:
        report = bench_on_ray(
            args.target, chosen, plan=plan, engine=engine, quant=quant, timeout_s=timeout_s, progress=progress
        )
    if args.json:
        print_json(report.to_json())
    else:
        from moeplan.text import show
        from moeplan.text_cluster import cluster_bench_view

        show(cluster_bench_view(report))
    if args.output is not None:
        write_whole(Path(args.output), report.to_json() + "\n", "--output")
    if not report.nodes:
        return NOTHING_MEASURED
    return STANDS_OUT if report.findings else 0


def _file_of(report: object, name: str) -> str:
    from moeplan.bench_report import BenchReport

    assert isinstance(report, BenchReport)
    if not name.endswith(".html"):
        return report.to_json() + "\n"
    from moeplan.bench_plot import page

    return page(report)


def bench_options(args: Namespace) -> BenchOptions:
    """What was asked, checked. Raises ``BadRequest``."""
    from moeplan.benching import ROUTINGS, BenchOptions

    routing = args.routing or ("replay" if args.trace else "uniform")
    if routing not in ROUTINGS:
        raise BadRequest(f"--routing {routing}: {', '.join(ROUTINGS)} are known")
    return BenchOptions(
        quick=args.quick, threads=_threads(args.threads), routing=routing, trace=args.trace,
        engine_pythons=tuple(args.engine_python or ()), library=args.library, disk=args.disk_folder,
        calibration=args.calibration or "auto",
    )  # fmt: skip


def _threads(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and 0 < int(text) <= 4096):
        raise BadRequest(f"--threads {text}: a whole number from 1 to 4096 is needed")
    return int(text)
