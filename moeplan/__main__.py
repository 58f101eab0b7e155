"""``python -m moeplan``."""

from __future__ import annotations

import sys

from moeplan.cli import main

sys.exit(main())
