"""The program ``moeplan``, also as ``python -m moeplan``: one command in a process of its own."""

from __future__ import annotations

import gc
import sys
from typing import Final

from moeplan.cli import main

BRIEF: Final = frozenset(
    (
        *("--help", "--version", "plan", "estimate", "memory", "launch", "recommend", "cost"),
        *("models", "hardware", "schema"),
    )
)
"""What ends before there could be much garbage: looking for it costs a tenth of the time."""


def program() -> int:
    """Run the command of the command line and return its exit code; the end of the process frees everything."""
    if sys.argv[1:2] and sys.argv[1] in BRIEF:
        gc.disable()
    code = main()
    # Or the interpreter would go through all objects once more before it frees them.
    gc.freeze()
    return code


if __name__ == "__main__":
    sys.exit(program())
