"""The program ``llama-server`` as the wheel `xllamacpp` has it: its arguments are read by llama.cpp's own parser.

Buffers are in its log (stderr), as with ``-lv 4``; it serves until it is told to end.
"""

from __future__ import annotations

import ctypes
import importlib
import signal
import sys
from typing import Any

from tests.support.llama_cpp_worker import _library

SERVER = 12
"""LLAMA_EXAMPLE_SERVER, whose arguments the parser takes."""
PARAMETERS_OFFSET = 16
"""Where a ``CommonParams`` of the wheel holds llama.cpp's ``common_params``."""
PARSE = "_Z19common_params_parseiPPcR13common_params13llama_examplePFviS0_E"
LIBRARY_LINES = 4


def main(argv: list[str]) -> None:
    """Serve. Exits with 2 where the parser refuses the arguments."""
    library = importlib.import_module("xllamacpp")
    parameters: Any = library.CommonParams()
    address = id(parameters) + PARAMETERS_OFFSET
    if ctypes.c_int32.from_address(address + 8).value != parameters.n_batch:
        raise SystemExit("CommonParams is not laid out as in the wheel 2026.10.11549")
    parse = getattr(_library(), PARSE)
    parse.restype = ctypes.c_bool
    parse.argtypes = (
        ctypes.c_int, ctypes.POINTER(ctypes.c_char_p), ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p,
    )  # fmt: skip
    words = (ctypes.c_char_p * (len(argv) + 1))(*[word.encode() for word in argv], None)
    if not parse(len(argv), words, address, SERVER, None):
        raise SystemExit(2)
    parameters.verbosity = LIBRARY_LINES
    server = library.Server(parameters)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    del server


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    main(["llama-server", *sys.argv[1:]])
