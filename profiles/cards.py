"""Fact cards of models: ``profiles/models/<id>.toml`` beside the public configurations in ``models/configs``.

A card holds what a configuration does not say: names, licence, parsers, the releases that exist and what
was measured of their quality. Only the card asked for is read. A key that nobody reads is an error, so a
card cannot carry a fact that is silently ignored. The user's own cards have the same form, in a folder of
the user's data.
"""

from __future__ import annotations

import json
import os
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, cast

from profiles.mixtures import UnknownMixture, base_type
from profiles.model import ChatDefaults, ModelSpec, QualityLoss, Release

CARDS_FOLDER = Path(__file__).parent / "models"

_SIZE_KEYS: dict[str, Literal["exact", "stated"]] = {
    "tensor_bytes": "exact",
    "file_bytes": "exact",
    "stated_bytes": "stated",
}
_CONTAINERS: dict[str, Literal["safetensors", "gguf", "mlx"]] = {
    "safetensors": "safetensors",
    "gguf": "gguf",
    "mlx": "mlx",
}
_T = TypeVar("_T")


class BadCard(ValueError):
    """A card that breaks the form; the message names the file and what is wrong."""


class Difference(NamedTuple):
    """A published size that the configuration does not explain: stated, never patched."""

    what: str
    published_bytes: int
    computed_bytes: int
    source: str


class TypeQuality(NamedTuple):
    """A quality measured for a quantization type of the model, on no file that is listed as a release."""

    quantization: str
    loss: QualityLoss


@dataclass(frozen=True, slots=True)
class Card:
    """One card.

    ``config`` is the parsed configuration, None for a GGUF, and ``quant_config`` the ``hf_quant_config.json`` that came
    with it; ``header`` is what the headers of the weight files held, where the configuration does not say it all;
    ``max_context`` replaces the context where the configuration is another model's. ``same_tensors_as`` names that
    model: the two differ only in their values.
    """

    id: str
    name: str
    repository: str
    aliases: tuple[str, ...]
    config: dict[str, Any] | None
    header: ModelSpec | None
    quant_config: dict[str, Any] | None
    same_tensors_as: str | None
    max_context: int | None
    sources: tuple[str, ...]
    license: str
    trust_remote_code: bool
    tool_call_parser: str | None
    reasoning_parser: str | None
    notes: tuple[str, ...]
    chat: tuple[ChatDefaults, ...]
    differences: tuple[Difference, ...]
    releases: tuple[Release, ...]
    type_quality: tuple[TypeQuality, ...]


class _Table:
    """A TOML table whose keys are read once, each with its type; ``close`` refuses the keys nobody read."""

    def __init__(self, table: dict[str, Any], where: str) -> None:
        self._left = dict(table)
        self.where = where

    def _take(self, key: str, kind: type[_T], required: bool) -> _T | None:
        if key not in self._left:
            if required:
                raise BadCard(f"{self.where}: {key} is missing")
            return None
        value = self._left.pop(key)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise BadCard(f"{self.where}: {key} must be {kind.__name__}, not {value!r}")
        return value

    def need(self, key: str, kind: type[_T]) -> _T:
        return cast(_T, self._take(key, kind, required=True))

    def get(self, key: str, kind: type[_T]) -> _T | None:
        return self._take(key, kind, required=False)

    def texts(self, key: str) -> tuple[str, ...]:
        values = self.get(key, list) or []
        if not all(isinstance(value, str) for value in values):
            raise BadCard(f"{self.where}: {key} must be a list of strings")
        return tuple(values)

    def tables(self, key: str) -> Iterator[_Table]:
        for number, table in enumerate(self.get(key, list) or [], 1):
            if not isinstance(table, dict):
                raise BadCard(f"{self.where}: {key} must be a list of tables")
            inner = _Table(table, f"{self.where}: {key} {number}")
            yield inner
            inner.close()

    def mapping(self, key: str, kind: type[_T]) -> dict[str, _T]:
        table = _Table(self.get(key, dict) or {}, f"{self.where}: {key}")
        return {name: table.need(name, kind) for name in list(table._left)}

    def sizes(self, key: str) -> int | dict[str, int | None] | None:
        """One size, or a table of quantizations and their sizes."""
        if isinstance(self._left.get(key), dict):
            return {**self.mapping(key, int)}
        return self.get(key, int)

    def close(self) -> None:
        if self._left:
            raise BadCard(f"{self.where}: unknown {', '.join(sorted(self._left))}")


@cache
def card_ids() -> tuple[str, ...]:
    """Ids of the cards, sorted."""
    return tuple(sorted(path.stem for path in CARDS_FOLDER.glob("*.toml")))


def user_models_folder() -> Path | None:
    """Where the user's cards lie, by the platform's convention, whether it exists or not; None without a home."""
    variable = "APPDATA" if sys.platform == "win32" else "XDG_DATA_HOME"
    data = Path(os.environ.get(variable, ""))
    if not data.is_absolute() or sys.platform == "darwin":
        try:
            home = Path.home()
        except RuntimeError:
            return None
        data = home / {"win32": "AppData/Roaming", "darwin": "Library/Application Support"}.get(
            sys.platform, ".local/share"
        )
    return data / "moeplan" / "models"


def user_card_path(card_id: str) -> Path | None:
    """The file of the user's card of that id, if there is one."""
    folder = user_models_folder()
    path = folder / f"{card_id}.toml" if folder else None
    return path if path and path.is_file() else None


def user_card_ids() -> tuple[str, ...]:
    """Ids of the user's cards, sorted, without those that a built-in model has."""
    folder = user_models_folder()
    try:
        if folder is None or not folder.is_dir():
            return ()
    except PermissionError:  # another user's home, as sudo leaves it
        return ()
    return tuple(sorted({path.stem for path in folder.glob("*.toml")}.difference(card_ids())))


def load_user_card(card_id: str) -> Card:
    """The user's card of that id. Raises ``FileNotFoundError`` or ``BadCard``."""
    path = user_card_path(card_id)
    if path is None:
        raise FileNotFoundError(f"no card {card_id}")
    try:
        return _unchanged_card(path, path.stat().st_mtime_ns)
    except BadCard as error:
        raise BadCard(f"{path.parent}: {error}") from error


@cache
def _unchanged_card(path: Path, modified_ns: int) -> Card:
    return read_card(path)


@cache
def load_card(card_id: str) -> Card:
    """The card of that id, with its configuration. Raises ``FileNotFoundError`` or ``BadCard``."""
    return read_card(CARDS_FOLDER / f"{card_id}.toml")


def read_card(path: Path) -> Card:
    """The card in a file; its configuration lies in ``configs`` beside it. Raises ``BadCard``."""
    try:
        table = _Table(tomllib.loads(path.read_text(encoding="utf-8")), path.name)
        card = _card(table, path)
        table.close()
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, UnknownMixture) as error:
        raise BadCard(f"{path.name}: {error}") from error
    if card.id != path.stem:
        raise BadCard(f"{path.name}: its id is {card.id!r}")
    return card


def _card(table: _Table, path: Path) -> Card:
    releases = tuple(release for row in table.tables("release") for release in _releases(row))
    keys = [(release.publisher, release.quantization) for release in releases]
    if twice := {key for key in keys if keys.count(key) > 1}:
        raise BadCard(f"{table.where}: {' and '.join('/'.join(key) for key in sorted(twice))} stated twice")
    type_quality: list[TypeQuality] = []
    for row in table.tables("quality"):
        releases = _attached(row, releases, type_quality)
    sources = [table.need("source", str), table.need("license_source", str), table.get("serving_source", str)]
    config_name, header_name = table.get("config", str), table.get("header", str)
    if config_name is None and header_name is None:
        raise BadCard(f"{table.where}: config is missing")
    section = table.get("config_section", str)
    return Card(
        id=table.need("id", str),
        name=table.need("name", str),
        repository=table.need("repository", str),
        aliases=table.texts("aliases"),
        config=_config(path, config_name, section) if config_name is not None else None,
        header=_header(path, header_name, releases) if header_name is not None else None,
        quant_config=_config(path, quant_name) if (quant_name := table.get("quant_config", str)) else None,
        same_tensors_as=table.get("same_tensors_as", str),
        max_context=table.get("max_context", int),
        sources=tuple(source for source in sources if source),
        license=table.need("license", str),
        trust_remote_code=table.need("trust_remote_code", bool),
        tool_call_parser=table.get("tool_call_parser", str),
        reasoning_parser=table.get("reasoning_parser", str),
        notes=table.texts("notes"),
        chat=tuple(
            ChatDefaults(
                row.need("mode", str),
                row.need("temperature", float),
                row.get("top_p", float),
                row.need("source", str),
                tuple(sorted(row.mapping("chat_template_kwargs", bool).items())),
            )
            for row in table.tables("chat")
        ),
        differences=tuple(
            Difference(
                row.need("what", str),
                row.need("published_bytes", int),
                row.need("computed_bytes", int),
                row.need("source", str),
            )
            for row in table.tables("difference")
        ),
        releases=releases,
        type_quality=tuple(type_quality),
    )


def _config(path: Path, name: str, section: str | None = None) -> dict[str, Any]:
    try:
        config = json.loads((path.parent / "configs" / name).read_text(encoding="utf-8"))
        return cast(dict[str, Any], config[section] if section else config)
    except (OSError, ValueError, LookupError) as error:
        raise BadCard(f"{path.name}: configuration {name}: {error}") from error


def _header(path: Path, name: str, releases: tuple[Release, ...]) -> ModelSpec:
    from profiles.card_header import read_card_header

    try:
        spec = read_card_header((path.parent / "configs" / name).read_bytes())
        held = sum(group.bytes for group in spec.tensors)
    except (OSError, ValueError) as error:
        raise BadCard(f"{path.name}: header {name}: {error}") from error
    if [release.published_bytes for release in releases] != [held]:
        raise BadCard(f"{path.name}: header {name}: its tensors have {held:,} bytes; the one release must have as many")
    return spec


def _releases(row: _Table) -> Iterator[Release]:
    """The releases of one table: one ``quantization``, or one for each key of its sizes and ``mixtures``."""
    size_key, sizes = _sizes(row)
    single = row.get("quantization", str)
    mixture = row.get("mixture", str)
    mixtures = row.mapping("mixtures", str)
    if single is not None:
        if isinstance(sizes, dict) or mixtures:
            raise BadCard(f"{row.where}: one quantization has one size and one mixture")
        sizes, mixtures = {single: sizes}, ({single: mixture} if mixture else {})
    elif mixture is not None or not isinstance(sizes, dict):
        sizes = dict.fromkeys(mixtures)
    if not sizes:
        raise BadCard(f"{row.where}: quantization is missing")
    container = _CONTAINERS.get(row.need("container", str))
    if container is None:
        raise BadCard(f"{row.where}: container must be one of {', '.join(_CONTAINERS)}")
    known = row.get("mixture_known", bool)
    vision = row.get("includes_vision", bool)
    publisher, release = row.need("publisher", str), row.need("release", str)
    source, note = row.need("source", str), row.get("note", str) or ""
    for name, size in sizes.items():
        stored = mixtures.get(name)
        if stored is None and container != "gguf":
            raise BadCard(f"{row.where}: mixture is missing")
        yield Release(
            quantization=name,
            publisher=publisher,
            release=release,
            container=container,
            mixture=stored or f"gguf:{base_type(name).file_type}",
            mixture_known=stored is not None if known is None else known,
            published_bytes=size,
            size_evidence="computed" if size is None else _SIZE_KEYS[size_key],
            includes_vision=container != "gguf" if vision is None else vision,
            source=source,
            note=note,
        )


def _sizes(row: _Table) -> tuple[str, int | dict[str, int | None] | None]:
    """The key that states sizes, and what it states: a size, a table by quantization, or nothing."""
    given = {key: size for key in _SIZE_KEYS if (size := row.sizes(key)) is not None}
    if len(given) > 1:
        raise BadCard(f"{row.where}: {' and '.join(given)} exclude each other")
    return next(iter(given.items()), ("", None))


def _attached(row: _Table, releases: tuple[Release, ...], type_quality: list[TypeQuality]) -> tuple[Release, ...]:
    """The releases with the measurements of one table that are theirs; the others go to ``type_quality``.

    A value is a release's own when the table names its publisher, or when its key is the release's mixture.
    """
    publisher = row.get("publisher", str)
    suite, metric = row.need("suite", str), row.need("metric", str)
    baseline, source = row.get("baseline", float), row.need("source", str)
    note = row.get("note", str)
    values = row.mapping("values", float)
    remarks = row.mapping("remarks", str)
    if not values or not set(remarks) <= set(values):
        raise BadCard(f"{row.where}: values are missing, or remarks on what has no value")
    updated = list(releases)
    for name, value in values.items():
        remark = "; ".join(text for text in (remarks.get(name), note) if text)
        loss = QualityLoss(suite, metric, value, baseline, source, remark)
        by_mixture = ":" in name
        if publisher is None and not by_mixture:
            type_quality.append(TypeQuality(name, loss))
            continue
        owners = [
            index
            for index, release in enumerate(updated)
            if (release.mixture_known and release.mixture == name)
            or (not by_mixture and (release.publisher, release.quantization) == (publisher, name))
        ]
        if by_mixture and not owners:
            type_quality.append(TypeQuality(name, loss))
        elif not owners:
            raise BadCard(f"{row.where}: {publisher} has no release {name}")
        for index in owners:
            updated[index] = replace(updated[index], quality=(*updated[index].quality, loss))
    return tuple(updated)
