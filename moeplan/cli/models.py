"""``moeplan models``: the built-in models."""

from __future__ import annotations

import json
from argparse import Namespace
from typing import TYPE_CHECKING, Any

from moeplan.cli.output import print_json
from moeplan.cli.parser import Parser

if TYPE_CHECKING:
    from profiles.model import ModelSpec


def register(parser: Parser) -> None:
    """The command has no flags of its own."""
    parser.usage = "%(prog)s [--json]"


def run(args: Namespace) -> int:
    """Print the list."""
    from profiles.library import load_model, model_ids

    models = [load_model(model_id) for model_id in model_ids()]
    if args.json:
        rows = [_row(model) for model in models]
        print_json(json.dumps({"schema": "moeplan.models/1", "models": rows}, indent=2))
    else:
        from moeplan.text import show
        from moeplan.text_catalogue import models_view

        show(models_view(models))
    return 0


def _row(model: ModelSpec) -> dict[str, Any]:
    from profiles.model import active_parameters

    return {
        "id": model.id,
        "name": model.name,
        "family": model.family,
        "repository": model.repository,
        "parameters": model.parameters,
        "active_parameters": active_parameters(model, with_embedding=True),
        "bytes": sum(group.bytes for group in model.tensors),
        "native_quantization": model.native_quantization,
        "max_context": model.max_context,
        "releases": [
            {"quantization": release.quantization, "publisher": release.publisher, "release": release.release}
            for release in model.releases
            if release.status == "published"
        ],
    }
