"""``moeplan hardware``: the accelerators and CPU memory systems that are known."""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import asdict

from moeplan.cli.output import print_json
from moeplan.cli.parser import Parser


def register(parser: Parser) -> None:
    """The command has no flags of its own."""
    parser.usage = "%(prog)s [--json]"


def run(args: Namespace) -> int:
    """Print both lists."""
    from profiles.cpus import cpu_keys, load_cpu
    from profiles.gpus import gpu_keys, load_gpu

    gpus = [load_gpu(key) for key in gpu_keys()]
    cpus = [load_cpu(key) for key in cpu_keys()]
    if args.json:
        facts = {"gpus": [asdict(gpu) for gpu in gpus], "cpus": [asdict(cpu) for cpu in cpus]}
        print_json(json.dumps({"schema": "moeplan.hardware/1", **facts}, indent=2))
    else:
        from moeplan.text import show
        from moeplan.text_catalogue import hardware_view

        show(hardware_view(gpus, cpus))
    return 0
