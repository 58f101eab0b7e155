"""Fuzz one reader for some minutes: `python -m fuzz.run gguf --minutes 10`.

With atheris installed the search is guided by coverage; otherwise hypothesis mutates the corpus. A finding is written
into the corpus, which the tests replay, and ends the run with exit status 1.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import importlib.util
import random
import sys
import tempfile
import time
from pathlib import Path

from fuzz.targets import CORPUS, TARGETS, check

EXAMPLES_AT_A_TIME = 2_000


def main() -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--engine", choices=["atheris", "hypothesis"], default=_best_engine())
    arguments = parser.parse_args()
    if arguments.engine == "atheris":
        _run_atheris(arguments.target, arguments.minutes)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        return _run_hypothesis(arguments.target, arguments.minutes, Path(folder))


def _best_engine() -> str:
    return "atheris" if importlib.util.find_spec("atheris") else "hypothesis"


def _seeds(target: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((CORPUS / target).iterdir())]


def _keep(target: str, content: bytes) -> Path:
    path = CORPUS / target / f"found-{hashlib.sha256(content).hexdigest()[:12]}"
    path.write_bytes(content)
    return path


def _run_hypothesis(target: str, minutes: float, folder: Path) -> int:
    from hypothesis import HealthCheck, given, seed, settings

    from fuzz.mutations import mutated

    failing = b""

    @settings(max_examples=EXAMPLES_AT_A_TIME, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(content=mutated(_seeds(target)))
    def one(content: bytes) -> None:
        nonlocal failing
        try:
            check(target, content, folder)
        except BaseException:
            failing = content  # the last one is the smallest that hypothesis found
            raise

    end_s = time.monotonic() + 60 * minutes
    examples = 0
    while time.monotonic() < end_s:
        try:
            seed(random.getrandbits(64))(one)()
        except Exception as error:
            print(f"{target}: {error!r}, kept as {_keep(target, failing)}")
            return 1
        examples += EXAMPLES_AT_A_TIME
        print(f"{target}: {examples:,} examples, nothing found", flush=True)
    return 0


def _run_atheris(target: str, minutes: float) -> None:
    atheris = importlib.import_module("atheris")

    # libFuzzer grows the corpus it is given: the project's own, of seeds and findings only, is copied. It also ends the
    # process by itself, so the copy stays, and the next run goes on from it.
    folder = Path(tempfile.gettempdir()) / f"moeplan-fuzz-{target}"
    growing = folder / "corpus"
    growing.mkdir(parents=True, exist_ok=True)
    for number, content in enumerate(_seeds(target)):
        (growing / str(number)).write_bytes(content)

    def one(content: bytes) -> None:
        try:
            check(target, content, folder)
        except Exception:
            print(f"{target}: kept as {_keep(target, content)}")
            raise

    atheris.instrument_all()
    options = [f"-max_total_time={round(60 * minutes)}", "-max_len=65536", "-rss_limit_mb=500", "-timeout=5"]
    atheris.Setup([sys.argv[0], *options, str(growing)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    raise SystemExit(main())
