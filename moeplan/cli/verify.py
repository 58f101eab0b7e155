"""``moeplan verify``: a running deployment beside its plan."""

from __future__ import annotations

from argparse import Namespace
from typing import Final

from moeplan.cli.arguments import Flag, add_flags
from moeplan.cli.output import print_json, print_remarks
from moeplan.cli.parser import Parser
from moeplan.cli.progress import progress_bar
from planner.errors import BadRequest

FLAGS: Final = (
    Flag("--plan", "plan.json", "the plan that the deployment was started from (needed)"),
    Flag("--rank", "1", "the candidate's rank in the plan"),
    Flag("--model", "NAME", "the model's name at the server, where it has several"),
)
LIMITS: Final = (
    Flag("--concurrency", "1,8,32", "requests at a time, step by step (1, a quarter of the plan's, the plan's)"),
    Flag("--requests", "64", "requests of all steps together"),
    Flag("--max-time", "5min", "time for everything"),
    Flag("--request-time", "2min", "time for one request"),
    Flag("--output-tokens", "128", "longest answer"),
)
STORAGE: Final = (
    Flag("--calibration", "auto/none/FILE", "where the measurement is kept: this user's data folder, nowhere, a file"),
)
MAX_REQUESTS: Final = 10_000


def register(parser: Parser) -> None:
    """The flags of the command."""
    parser.usage = "%(prog)s URL --plan PLAN [flags]"
    parser.epilog = "A key is read from MOEPLAN_API_KEY, VLLM_API_KEY or OPENAI_API_KEY and goes to URL alone."
    parser.add_argument("url", metavar="URL", help="the server, such as http://127.0.0.1:8000")
    add_flags(parser, "what it is compared with", FLAGS)
    add_flags(parser, "how much load it gets", LIMITS)
    add_flags(parser, "storage", STORAGE)


def run(args: Namespace) -> int:
    """Print the report. 0 when the plan holds, 1 where something differs or failed, 3 when nothing was measured."""
    from moeplan.cli.cost import ranked
    from moeplan.cli.launch import read_plan
    from moeplan.verifying import MAX_CONCURRENCY, Limits, verify
    from planner.quantities import parse_count, parse_duration, parse_tokens

    if args.plan is None:
        raise BadRequest("--plan: give the plan that the deployment was started from")
    limits = Limits()
    limits = Limits(
        total_s=parse_duration(args.max_time, "--max-time") if args.max_time else limits.total_s,
        request_s=parse_duration(args.request_time, "--request-time") if args.request_time else limits.request_s,
        requests=parse_count(args.requests, "--requests", high=MAX_REQUESTS) if args.requests else limits.requests,
        output_tokens=parse_tokens(args.output_tokens, "--output-tokens")
        if args.output_tokens
        else limits.output_tokens,
    )
    steps = tuple(
        [
            parse_count(text, "--concurrency", high=MAX_CONCURRENCY)
            for text in (args.concurrency.split(",") if args.concurrency else ())
        ]
    )
    if sum(steps) > limits.requests:
        raise BadRequest(f"--concurrency: {sum(steps)} requests are needed for these steps, --requests allows fewer")
    plan = read_plan(args.plan)
    if not plan.candidates:
        raise BadRequest(f"--plan {args.plan}: nothing in it fits, so nothing can be verified")
    with progress_bar("loading the server") as progress:
        report = verify(
            args.url, plan, ranked(plan, args.rank), model=args.model, limits=limits, concurrencies=steps,
            calibration=args.calibration or "auto", progress=progress,
        )  # fmt: skip
    if args.json:
        print_json(report.to_json())
        print_remarks("note", report.notes)
    else:
        from moeplan.text import show
        from moeplan.text_verify import verify_view

        show(verify_view(report))
    return {"holds": 0, "differs": 1, "failed": 1, "nothing_measured": 3}[report.verdict]
