"""Writing a card of the user's own: what was read of a model, where and when, with its configuration beside it."""

from __future__ import annotations

import json
import re
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from moeplan.text_safe import printable, shortened
from planner.errors import BadRequest
from profiles.card_header import card_header
from profiles.cards import read_card
from profiles.config_reader import UnknownQuantization, read_config
from profiles.headers.strictjson import load_json_object
from profiles.library import built_in_id, load_model
from profiles.model import ModelSpec, TensorGroup
from profiles.weights import gguf_in, holds_safetensors

if TYPE_CHECKING:
    from moeplan.hub import HubModel

NOT_STATED = "not stated"

_ID = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,62}[a-z0-9])?")
_WEIGHTS = (".safetensors", ".safetensors.index.json")
_CONFIG, _QUANT_CONFIG = "config.json", "hf_quant_config.json"


@dataclass(frozen=True, slots=True)
class CardContent:
    """What goes into a card. ``source`` says what was read and when; ``spec`` has one release.

    ``config`` is None for a GGUF, whose header is all there is.
    """

    spec: ModelSpec
    config: bytes | None
    quant_config: bytes | None
    license: str
    source: str


def content_from_path(path: Path) -> CardContent:
    """A ``config.json``, weight files, or the folder of either: where there are weights, their headers say the size.

    Raises ``BadRequest`` and what ``load_model`` raises.
    """
    if gguf := _gguf_at(path):
        spec = load_model(gguf)
        # Of a split file the first, whichever was named.
        return CardContent(spec, None, None, NOT_STATED, _source(Path(spec.sources[0])))
    is_weights = path.name.endswith(_WEIGHTS)
    config = path / _CONFIG if path.is_dir() else path.with_name(_CONFIG) if is_weights else path
    if config.suffix != ".json" or not config.is_file():
        raise BadRequest(
            f"{printable(str(path))}: a card is made of a {_CONFIG}, safetensors beside one, a GGUF file, or the folder"
            " of these"
        )
    has_weights = is_weights or (path.is_dir() and holds_safetensors(path))
    spec = load_model(path if has_weights else config)
    beside = config.with_name(_QUANT_CONFIG)
    return CardContent(
        spec=spec,
        config=config.read_bytes(),
        quant_config=beside.read_bytes() if beside.is_file() else None,
        license=NOT_STATED,
        source=_source(config),
    )


def _gguf_at(path: Path) -> Path | None:
    if path.is_dir():
        return None if holds_safetensors(path) else gguf_in(path)
    return path if path.name.casefold().endswith(".gguf") else None


def _source(file: Path) -> str:
    return f"{file.resolve()}, {datetime.fromtimestamp(file.stat().st_mtime, UTC).date()}"


def content_from_hub(model: HubModel) -> CardContent:
    """A model of the hub."""
    return CardContent(
        spec=model.spec,
        config=model.config,
        quant_config=model.quant_config,
        license=model.repository.license or NOT_STATED,
        source=", ".join(filter(None, (model.source, model.repository.modified))),
    )


def write_card(content: CardContent, card_id: str, folder: Path, *, force: bool) -> Path:
    """Write ``<card_id>.toml`` and its configuration into ``folder`` and return the card's path.

    The card appears last and whole. Raises ``BadRequest`` for an id that is no id or that a built-in model goes by, for
    a card that exists unless ``force``, and where the folder cannot be written.
    """
    if not _ID.fullmatch(card_id):
        raise BadRequest(f"--id {shortened(card_id)}: a-z, 0-9, dots and dashes are allowed, up to 64")
    if taken := built_in_id(card_id):
        raise BadRequest(f"--id {card_id}: the built-in model {taken} goes by this name; choose another")
    card = folder / f"{card_id}.toml"
    if card.exists() and not force:
        raise BadRequest(f"{printable(str(card))} exists; --force replaces it")
    files = {}
    if content.config is not None:
        files[f"configs/{card_id}.json"] = content.config
    if _needs_header(content):
        files[f"configs/{card_id}.header.json"] = card_header(content.spec)
    if content.quant_config is not None:
        files[f"configs/{card_id}.quant.json"] = content.quant_config
    files[card.name] = _toml(content, card_id).encode()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".new-", dir=folder) as name:
            staging = Path(name)
            for place in (staging, folder):
                (place / "configs").mkdir(exist_ok=True)
            for path, data in files.items():
                (staging / path).write_bytes(data)
            read_card(staging / card.name)
            for path in files:
                (staging / path).replace(folder / path)
    except OSError as error:
        raise BadRequest(f"{printable(str(folder))}: {error.strerror or error}") from None
    return card


def _toml(content: CardContent, card_id: str) -> str:
    spec = content.spec
    (release,) = spec.releases
    needs_header = _needs_header(content)
    # Where only the index is there, what the configuration does not explain is scaled to the size that it states.
    explained = needs_header or release.published_bytes in (None, _bytes(spec.tensors))
    card: dict[str, str | bool | int] = {
        "id": card_id,
        "name": spec.name,
        "repository": spec.repository,
    }
    if content.config is not None:
        card["config"] = f"{card_id}.json"
    if needs_header:
        card["header"] = f"{card_id}.header.json"
    if content.quant_config is not None:
        card["quant_config"] = f"{card_id}.quant.json"
    card |= {
        "source": content.source,
        "license": content.license,
        "license_source": content.source,
        "trust_remote_code": spec.trust_remote_code,
    }
    stored: dict[str, str | bool | int] = {
        "quantization": release.quantization,
        "publisher": release.publisher,
        "release": release.release,
        "container": release.container,
        "mixture": release.mixture,
        "mixture_known": release.mixture_known and explained,
        "includes_vision": release.includes_vision,
        "source": release.source,
        "note": release.note,
    }
    if release.published_bytes is not None:
        stored["tensor_bytes"] = release.published_bytes
    lines = (*_lines(card), "", "[[release]]", *_lines(stored))
    return "\n".join(lines) + "\n"


def _needs_header(content: CardContent) -> bool:
    """Whether headers were read that hold other tensors than the configuration, read alone, implies."""
    spec = content.spec
    if content.config is None:
        return True
    if spec.releases[0].published_bytes != _bytes(spec.tensors):
        return False
    config, quant_config = (
        None if text is None else load_json_object(text, len(text), "model configuration")
        for text in (content.config, content.quant_config)
    )
    try:
        configured = read_config(config or {}, id="card", quant_config=quant_config)
    except UnknownQuantization:
        return True
    return frozenset(configured.tensors) != frozenset(spec.tensors)


def _bytes(tensors: tuple[TensorGroup, ...]) -> int:
    return sum(group.bytes for group in tensors)


def _lines(values: dict[str, str | bool | int]) -> list[str]:
    """TOML's basic strings are JSON's, but for the one control character that JSON leaves bare."""
    texts = {key: printable(value) if isinstance(value, str) else value for key, value in values.items()}
    return [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in texts.items()]
