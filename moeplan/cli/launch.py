"""``moeplan launch``: the start script of a plan's candidate."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from moeplan.cli.arguments import Flag, add_flags
from moeplan.cli.output import print_json, print_remarks, write_whole
from moeplan.cli.parser import Parser
from moeplan.text_safe import printable, shortened
from planner.errors import BadRequest

if TYPE_CHECKING:
    from planner.plan import Candidate, Plan

FORMATS: Final = ("shell",)
MAX_PLAN_BYTES: Final = 64 << 20
FLAGS: Final = (
    Flag("--format", "shell", "form of the result: shell"),
    Flag("--rank", "1", "the candidate's rank in the plan"),
    Flag("--host", "ADDRESS", "address the server listens on (127.0.0.1)"),
)


def register(parser: Parser) -> None:
    """The flags of the command."""
    parser.usage = "%(prog)s PLAN [flags]"
    parser.add_argument("plan", metavar="PLAN", help="a plan that `moeplan plan --output` wrote")
    add_flags(parser, "what to write", FLAGS)
    parser.add_argument("-o", "--output-folder", metavar="DIR", dest="folder", help="write files there, not stdout")
    parser.add_argument("--force", action="store_true", help="overwrite files that are there")


def run(args: Namespace) -> int:
    """Print or write the script. 1 when the plan holds nothing that could be started."""
    from moeplan.launcher import launch_files, remarks

    kind = args.format if args.format is not None else "shell"
    if kind not in FORMATS:
        raise BadRequest(f"--format: {shortened(kind)} is not allowed; {', '.join(FORMATS)} is")
    plan = read_plan(args.plan)
    if not plan.candidates:
        print_remarks("nothing to launch", [f"no configuration in {args.plan} fits"])
        return 1
    candidate = _chosen(plan, args.rank)
    host = args.host if args.host is not None else "127.0.0.1"
    files = launch_files(candidate, model=plan.model.name, generated_by=plan.generated_by, host=host)
    print_remarks("warning", remarks(candidate, host))
    if args.folder is not None:
        _write(Path(args.folder), files, force=args.force)
    if args.json:
        print_json(json.dumps({"schema": "moeplan.launch/1", "rank": candidate.rank, "host": host, "files": files}))
    elif args.folder is None:
        if len(files) > 1:
            raise BadRequest(f"this configuration needs {len(files)} files: give a folder with -o")
        print(files["launch.sh"], end="")
    return 0


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
        raise BadRequest(f"{path}: not a {PLAN_SCHEMA}: {printable(place)}: {first['msg']}") from None


def _chosen(plan: Plan, text: str | None) -> Candidate:
    if text is None:
        return plan.candidates[0]
    for candidate in plan.candidates:
        if text.strip() == str(candidate.rank):
            return candidate
    ranks = ", ".join(str(candidate.rank) for candidate in plan.candidates)
    raise BadRequest(f"--rank: {shortened(text)} is not in the plan; {ranks[:60]} are")


def _write(folder: Path, files: dict[str, str], *, force: bool) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        present = [name for name in files if (folder / name).exists()]
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise BadRequest(f"-o {printable(str(folder))}: {reason}") from None
    if present and not force:
        raise BadRequest(f"-o: {printable(str(folder / present[0]))} exists; --force overwrites it")
    for name, text in files.items():
        write_whole(folder / name, text, "-o", mode=0o777 if name == "launch.sh" else 0o666)
        print_remarks("wrote", [str(folder / name)])
