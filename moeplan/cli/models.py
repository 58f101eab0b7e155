"""``moeplan models``: the models that are known, and ``add``, which makes the user's own card of another."""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moeplan.cli.output import print_json, print_remarks
from moeplan.cli.parser import Parser
from moeplan.cli.progress import progress_bar
from moeplan.text_safe import shortened

if TYPE_CHECKING:
    from moeplan.user_cards import CardContent
    from profiles.model import ModelSpec


def register(parser: Parser) -> None:
    """Nothing lists; ``add`` takes what to add."""
    parser.usage = "%(prog)s [--json]\n       %(prog)s add PATH_OR_ID [flags]"
    parser.add_argument("action", nargs="?", choices=("add",), help="write a card of your own")
    parser.add_argument(
        "source",
        nargs="?",
        metavar="PATH_OR_ID",
        help="a config.json, weights, their folder, or org/name[:quant]",
    )
    group = parser.add_argument_group("of add")
    group.add_argument("--id", metavar="NAME", help="name of the model in other commands")
    group.add_argument("--output", metavar="DIR", help="folder of the card, instead of the one that is searched")
    group.add_argument("--force", action="store_true", help="replace a card of the same id")


def run(args: Namespace) -> int:
    """Print the list, or write a card."""
    from planner.errors import BadRequest

    if args.action is None:
        if args.id or args.output or args.force:
            raise BadRequest("--id, --output and --force belong to `moeplan models add`")
        return _list(args)
    if not args.source:
        raise BadRequest("add: PATH_OR_ID is missing: a config.json, weights, their folder, or org/name on the hub")
    return _add(args)


def _list(args: Namespace) -> int:
    from profiles.cards import user_card_ids, user_card_path
    from profiles.library import load_model, model_ids

    models = [load_model(model_id) for model_id in model_ids()]
    own, unreadable = [], []
    for card_id in user_card_ids():
        try:
            models.append(load_model(card_id))
            own.append(f"{card_id} is a card of yours: {user_card_path(card_id)}")
        except (ValueError, OSError) as error:
            unreadable.append(str(error))
    if args.json:
        print_json(json.dumps({"schema": "moeplan.models/1", "models": [_row(model) for model in models]}, indent=2))
    else:
        from moeplan.text import show
        from moeplan.text_catalogue import models_view

        show(models_view(models))
    print_remarks("note", own)
    print_remarks("warning", unreadable)
    return 0


def _add(args: Namespace) -> int:
    from moeplan.user_cards import write_card
    from planner.errors import BadRequest
    from profiles.cards import user_models_folder
    from profiles.config_reader import UnknownFamily
    from profiles.library import built_in_id

    if (known := built_in_id(args.source)) and not args.id:
        raise BadRequest(f"{shortened(args.source)} is built in as {known}; --id NAME makes a card of another name")
    folder = Path(args.output) if args.output else user_models_folder()
    if folder is None:
        raise BadRequest("there is no home folder to keep a card in; --output DIR names another")
    try:
        content = _content(args.source)
    except UnknownFamily:
        raise
    except ValueError as error:
        raise BadRequest(str(error)) from None
    card_id = args.id or content.spec.id
    card = write_card(content, card_id, folder, force=args.force)
    if args.json:
        row = _row(replace(content.spec, id=card_id))
        print_json(json.dumps({"schema": "moeplan.models/1", "models": [row], "card": str(card)}, indent=2))
    else:
        print(f"{card_id}: {card}")
    print_remarks("note", content.spec.notes)
    return 0


def _content(source: str) -> CardContent:
    from moeplan.hub import fetch_hub_model, is_hub_id
    from moeplan.user_cards import content_from_hub, content_from_path
    from planner.errors import BadRequest

    if Path(source).exists():
        return content_from_path(Path(source))
    if not is_hub_id(source):
        raise BadRequest(f"{shortened(source)}: no such file or folder, and no org/name")
    with progress_bar(f"reading {source}") as draw:
        return content_from_hub(fetch_hub_model(source, draw))


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
