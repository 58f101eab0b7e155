"""A worker: ``python .../workers PROVIDER`` answers each JSON line on stdin with one JSON line on stdout.

``python .../workers rank WHAT`` is one rank of a collective, which a worker starts.

The folder is loaded as a package under a name of its own, so that neither this project's other modules nor its
installed libraries become visible to the interpreter that runs the provider.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

PACKAGE = "moeplan_bench_workers"


def main() -> None:
    """Load the package and serve one provider."""
    folder = Path(__file__).resolve().parent
    # Python puts this folder first on the path, where files of it would hide libraries of the same name.
    sys.path[:] = [entry for entry in sys.path if not entry or Path(entry).resolve() != folder]
    spec = importlib.util.spec_from_file_location(
        PACKAGE, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules[PACKAGE] = package
    spec.loader.exec_module(package)
    if sys.argv[1] == "rank":
        importlib.import_module(f"{PACKAGE}.rank").main(sys.argv[2])
    else:
        importlib.import_module(f"{PACKAGE}.serve").serve(sys.argv[1])


if __name__ == "__main__":
    main()
