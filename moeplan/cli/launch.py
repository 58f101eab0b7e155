"""``moeplan launch``: the files that start a plan's candidate."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from moeplan.cli.arguments import Flag, add_flags
from moeplan.cli.output import print_json, print_remarks
from moeplan.cli.parser import Parser
from moeplan.text_safe import printable, shortened
from planner.errors import BadRequest

if TYPE_CHECKING:
    from planner.plan import Candidate, Plan

MAX_PLAN_BYTES: Final = 64 << 20
FLAGS: Final = (
    Flag("--format", "shell", "shell (the default), compose, kubernetes, slurm or systemd"),
    Flag("--rank", "1", "the candidate's rank in the plan"),
    Flag("--node", "0", "of several nodes, only the files of this one"),
    Flag("--host", "ADDRESS", "address the server listens on (127.0.0.1)"),
    Flag("--port", "8000", "port the server listens on (the engine's own)"),
    Flag("--revision", "COMMIT", "commit of the model's repository to pin"),
    Flag("--image", "NAME:TAG", "container image, instead of the engine's own of that version"),
)


def register(parser: Parser) -> None:
    """The flags of the command."""
    parser.usage = "%(prog)s PLAN [flags]"
    parser.add_argument("plan", metavar="PLAN", help="a plan that `moeplan plan --output` wrote")
    add_flags(parser, "what to write", FLAGS)
    parser.add_argument("-o", "--output-folder", metavar="DIR", dest="folder", help="write files there, not stdout")
    parser.add_argument("--force", action="store_true", help="overwrite files that are there")


def run(args: Namespace) -> int:
    """Print the one file that starts it, or write all. 1 when the plan holds nothing that could be started."""
    from moeplan.launch import BESIDE, launch_files
    from moeplan.launch.deployment import Wish, deployment_of, remarks

    wish = Wish(args.host, _number("--port", args.port), args.image, args.revision)
    node = _number("--node", args.node)
    plan = read_plan(args.plan)
    if not plan.candidates:
        print_remarks("nothing to launch", [f"no configuration in {args.plan} fits"])
        return 1
    candidate = _chosen(plan, args.rank)
    kind = args.format if args.format is not None else "shell"
    files = launch_files(plan, candidate, kind, wish, node)
    print_remarks("warning", remarks(deployment_of(plan, candidate, wish)))
    if args.folder is not None:
        _write(Path(args.folder), files, force=args.force)
    if args.json:
        host = wish.host if wish.host is not None else "127.0.0.1"
        shown = {"schema": "moeplan.launch/1", "rank": candidate.rank, "format": kind, "host": host, "files": files}
        print_json(json.dumps(shown))
    elif args.folder is None:
        starting = [text for name, text in files.items() if name not in BESIDE]
        if len(starting) > 1:
            raise BadRequest(f"this takes {len(files)} files: give a folder with -o, or one node with --node")
        print(starting[0], end="")
    return 0


def _number(flag: str, text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.strip().isascii() and text.strip().isdigit() and len(text.strip()) <= 9):
        raise BadRequest(f"{flag}: {shortened(text)} is not a number")
    return int(text)


def read_plan(path: str) -> Plan:
    """A plan from a file. Raises ``BadRequest`` or ``BadModelFile`` with one line."""
    from pydantic import ValidationError

    from planner.plan import PLAN_SCHEMA, Plan
    from profiles.headers.strictjson import load_json_object

    value = load_json_object(path, MAX_PLAN_BYTES, "plan")
    if value.get("schema") != PLAN_SCHEMA:
        raise BadRequest(f"{path}: not a {PLAN_SCHEMA}; its schema is {shortened(str(value.get('schema')))}")
    try:
        return Plan.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"])[:120]
        said = first["msg"].removeprefix("Value error, ")
        raise BadRequest(f"{path}: not a {PLAN_SCHEMA}: {printable(place)}: {said}") from None


def _chosen(plan: Plan, text: str | None) -> Candidate:
    if text is None:
        return plan.candidates[0]
    for candidate in plan.candidates:
        if text.strip() == str(candidate.rank):
            return candidate
    ranks = ", ".join(str(candidate.rank) for candidate in plan.candidates)
    raise BadRequest(f"--rank: {shortened(text)} is no candidate of the plan; {ranks[:60]} are (--node chooses a node)")


def _write(folder: Path, files: dict[str, str], *, force: bool) -> None:
    stale = save_files(folder, files, "-o", force=force)
    print_remarks("wrote", [str(folder / name) for name in files])
    print_remarks("warning", [f"{name} is of an earlier launch and still there" for name in stale])


def save_files(folder: Path, files: dict[str, str], flag: str, *, force: bool) -> tuple[str, ...]:
    """Write launch files, scripts as programs; the paths of an earlier launch's files that are still there.

    Raises ``BadRequest`` as ``write_folder`` does.
    """
    from moeplan.cli.output import write_folder
    from moeplan.launch import left_over

    modes = {name: 0o777 if name.endswith((".sh", ".sbatch")) else 0o666 for name in files}
    before = write_folder(folder, files, flag, modes=modes, force=force)
    return tuple(str(folder / name) for name in left_over(before, files))
