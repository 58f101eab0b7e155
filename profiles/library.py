"""Models by name: the built-in cards, the user's own, and configurations on the user's disk."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path

from profiles.cards import BadCard, Card, card_ids, load_card, load_user_card, user_card_ids, user_card_path
from profiles.config_reader import BadConfig, UnknownQuantization, read_config
from profiles.families.fields import shown
from profiles.headers.strictjson import load_json_object
from profiles.llama_quantize import DEFAULT_TYPE
from profiles.mixtures import UnknownMixture, base_type
from profiles.model import ModelSpec, QualityLoss, Release
from profiles.names import UnknownName, near_names

HYPOTHETICAL = "hypothetical"
"""Publisher of a release that nobody published."""
_HYPOTHETICAL_FORMATS = ("bf16", "fp8", "int4", "nvfp4")
_SYNONYMS = {"fp16": "bf16", "bfloat16": "bf16", "float16": "bf16"}
_MAX_CONFIG_BYTES = 16 << 20
_WEIGHT_SUFFIXES = (".gguf", ".safetensors", ".safetensors.index.json")


def model_ids() -> tuple[str, ...]:
    """Ids of the built-in models, sorted."""
    return card_ids()


def built_in_id(name: str) -> str | None:
    """Id of the built-in model that goes by this name: an id, a repository or an alias."""
    return _card_id(name)


def load_model(text_or_path: str | Path) -> ModelSpec:
    """The model that a built-in name or the user's card names, or that a ``config.json``, weights or a folder hold.

    Spaces, underscores and case do not matter in a name. A built-in name comes before a user's, and both before a
    path of the same spelling. A model from disk has one release, published by ``local``: the weight files, or the
    format that the configuration declares.

    Raises ``UnknownName`` (with the nearest names), ``ValueError`` where a ``config.json`` is missing,
    ``BadModelFile``, and what ``read_config`` raises.
    """
    text = str(text_or_path)
    if isinstance(text_or_path, str) and (card_id := _card_id(text)):
        return _with_shadow_told(_built_in(card_id))
    if isinstance(text_or_path, str) and (card_id := _user_card_id(text)):
        return _as_made(_from_card(load_user_card(card_id)))
    path = Path(text)
    if text.strip() and _exists(path):
        return _as_made(_from_disk(path))
    if _means_path(text):
        raise UnknownName("file or folder", text)
    raise UnknownName("model", text, _nearest(text), "; `moeplan models` lists those that are built in")


def _plain(text: str) -> str:
    return "-".join(text.casefold().replace("_", " ").replace("-", " ").split())


def _card_id(text: str) -> str | None:
    """Id of the card that a name means; the cards are read only when the name is not itself an id."""
    plain = _plain(text)
    if plain in card_ids():
        return plain
    return _names().get(plain)


@cache
def _names() -> dict[str, str]:
    """Every name of every built-in model, in plain spelling."""
    names: dict[str, str] = {}
    for card_id in card_ids():
        card = load_card(card_id)
        for name in (card_id, card.name, card.repository, card.repository.partition("/")[2], *card.aliases):
            names.setdefault(_plain(name), card_id)
    return names


def _user_card_id(text: str) -> str | None:
    """Id of the user's card that a name means. A card that cannot be read goes by its id alone."""
    plain = _plain(text)
    ids = user_card_ids()
    if plain in ids:
        return plain
    for card_id in ids:
        with contextlib.suppress(BadCard, OSError):
            card = load_user_card(card_id)
            names = (card.name, card.repository, card.repository.partition("/")[2], *card.aliases)
            if plain and plain in map(_plain, names):
                return card_id
    return None


def _nearest(text: str) -> list[str]:
    names = {**{card_id: card_id for card_id in user_card_ids()}, **_names()}
    near = near_names(_plain(text[:80]), names, 6, 0.5)
    return list(dict.fromkeys(names[name] for name in near))[:3]


def _means_path(text: str) -> bool:
    """Whether a text can be nothing but a path: neither a model's name nor ``org/name`` looks like that."""
    is_written_as_path = text.startswith(("/", "./", "../", "~")) or text.count("/") > 1 or "\\" in text
    return is_written_as_path or text.casefold().endswith((".json", ".gguf", ".safetensors"))


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


@cache
def _built_in(card_id: str) -> ModelSpec:
    spec = _from_card(load_card(card_id))
    return _marked(spec, lambda release: release.release == spec.repository and release.container == "safetensors")


def _marked(spec: ModelSpec, is_by_maker: Callable[[Release], bool]) -> ModelSpec:
    """With ``by_maker`` of every release in the formats of the configuration as ``is_by_maker`` says."""
    releases = tuple(
        replace(release, by_maker=True) if release.mixture == "native" and is_by_maker(release) else release
        for release in spec.releases
    )
    return replace(spec, releases=releases)


def _as_made(spec: ModelSpec) -> ModelSpec:
    """A model from elsewhere, whose files may have been re-quantized by anyone.

    They count as the maker's own where a built-in model's are known to be the same: every tensor in the same format,
    or the same bytes in all.
    """
    geometry = (spec.family, spec.hidden, spec.layers, spec.vocab)
    known = [
        model
        for model in map(_built_in, card_ids())
        if (model.family, model.hidden, model.layers, model.vocab) == geometry
    ]
    tensors = frozenset(spec.tensors)
    published = {release.published_bytes for model in known for release in model.releases if release.by_maker}
    if any(tensors == frozenset(model.tensors) for model in known):
        return _marked(spec, lambda release: release.published_bytes in (None, _bytes(spec)))
    return _marked(spec, lambda release: release.published_bytes in published - {None})


def _bytes(spec: ModelSpec) -> int:
    return sum(group.bytes for group in spec.tensors)


def _with_shadow_told(spec: ModelSpec) -> ModelSpec:
    """A later version may build in what the user has a card of."""
    unused = user_card_path(spec.id)
    if unused is None:
        return spec
    return replace(spec, notes=(*spec.notes, f"{unused} is not used: {spec.id} is the id of a built-in model"))


def _from_card(card: Card) -> ModelSpec:
    if card.header is not None:
        spec = replace(card.header, id=card.id, name=card.name, repository=card.repository)
    else:
        spec = read_config(
            card.config or {}, id=card.id, name=card.name, repository=card.repository, quant_config=card.quant_config
        )
    unexplained = tuple(
        f"{item.what} (published {item.published_bytes:,} bytes, computed {item.computed_bytes:,})"
        for item in card.differences
    )
    return replace(
        spec,
        max_context=card.max_context or spec.max_context,
        trust_remote_code=card.trust_remote_code,
        tool_call_parser=card.tool_call_parser,
        reasoning_parser=card.reasoning_parser,
        chat=card.chat,
        releases=(*card.releases, *_other_formats(card.releases)),
        sources=card.sources,
        notes=(*spec.notes, *card.notes, *unexplained),
    )


def _other_formats(published: tuple[Release, ...]) -> tuple[Release, ...]:
    """The tensors of a GGUF file are not those of a checkpoint, of which another format could be made."""
    return () if any(release.mixture == "header" for release in published) else _missing_formats(published)


def _missing_formats(published: Iterable[Release]) -> tuple[Release, ...]:
    """A hypothetical release of every common format that nobody published."""
    present = {release.quantization.casefold() for release in published}
    missing = (name for name in _HYPOTHETICAL_FORMATS if name not in present)
    return tuple(_hypothetical(name, f"format:{name}") for name in missing)


def _hypothetical(quantization: str, mixture: str) -> Release:
    is_gguf = mixture.startswith("gguf:")
    return Release(
        quantization=quantization,
        publisher=HYPOTHETICAL,
        release="",
        container="gguf" if is_gguf else "safetensors",
        mixture=mixture,
        status="hypothetical",
        includes_vision=not is_gguf,
        note="nobody is known to publish it",
    )


def _from_disk(path: Path) -> ModelSpec:
    if path.is_dir() or path.name.casefold().endswith(_WEIGHT_SUFFIXES):
        return _from_weights(path)
    if path.is_file() and path.suffix.casefold() != ".json":
        raise ValueError(
            f"{shown(str(path))}: a config.json, a folder, a .safetensors file or index, or a .gguf file is allowed"
        )
    return _from_config(path, path)


def _from_config(config_path: Path, path: Path, *, quantized: bool = True) -> ModelSpec:
    """What a ``config.json`` describes; ``path`` is what the user named. See ``read_config`` for ``quantized``."""
    config = load_json_object(config_path, _MAX_CONFIG_BYTES, "model configuration")
    beside = config_path.parent / "hf_quant_config.json"
    quant_config = None
    if beside.is_file():
        quant_config = load_json_object(beside, _MAX_CONFIG_BYTES, "quantization configuration")
    # The folder's own name: in a cache the file may be a link to another one.
    folder = config_path.parent.resolve().name
    name = folder if config_path.name == "config.json" and folder else config_path.stem
    try:
        spec = read_config(config, id=_plain(name), name=name, quant_config=quant_config, quantized=quantized)
    except BadConfig as error:
        raise BadConfig(f"{config_path}: {error}") from error
    local = Release(
        quantization=spec.native_quantization,
        publisher="local",
        release=str(path),
        container="safetensors",
        mixture="native",
        source=str(config_path),
    )
    return replace(spec, releases=(local,), sources=(str(config_path),))


def _from_weights(path: Path) -> ModelSpec:
    """What weight files hold, or a folder: of safetensors, else of one GGUF model, else of a ``config.json`` alone."""
    from profiles.weights import gguf_in, holds_safetensors, model_from_gguf, model_from_safetensors

    is_folder = path.is_dir()
    gguf = (None if holds_safetensors(path) else gguf_in(path)) if is_folder else path
    if gguf is not None and gguf.name.casefold().endswith(".gguf"):
        spec = model_from_gguf(gguf)
        return replace(spec, id=_plain(spec.name))
    config_path = path / "config.json" if is_folder else path.with_name("config.json")
    if is_folder and not holds_safetensors(path):
        if not config_path.is_file():
            raise ValueError(f"{path}: no config.json in this folder, and no weight files")
        return _from_config(config_path, path)
    if not config_path.is_file():
        raise ValueError(f"{path}: needs the config.json of the model beside the safetensors files")
    try:
        spec = model_from_safetensors(path, _from_config(config_path, path))
    except UnknownQuantization as error:
        # Headers say how everything is stored, whatever the configuration declares; an index does not.
        spec = model_from_safetensors(path, _from_config(config_path, path, quantized=False), error)
    if is_folder and any(each.name.casefold().endswith(".gguf") for each in path.iterdir()):
        return replace(
            spec, notes=(*spec.notes, f"{path} also holds GGUF files, which were not read; name one to read it")
        )
    return spec


def find_releases(model: ModelSpec, text: str) -> tuple[Release, ...]:
    """The releases of ``model`` that a quantization means, of every publisher.

    ``text`` is a quantization (``int4``, ``Q8_0``), ``publisher/quantization``, or the repository of the
    release. Case does not matter, a dynamic type is found without its ``UD-``, and ``fp16`` means bf16.
    What nobody published is answered with a hypothetical release: the common formats, and GGUF file types
    by llama.cpp's plain rules.

    Raises ``UnknownName`` with all that exists.
    """
    wanted = text.strip().casefold()
    in_repository = tuple(release for release in model.releases if release.release.casefold() == wanted)
    if wanted and in_repository:
        return in_repository
    publisher, separator, quantization = wanted.rpartition("/")
    quantization = _SYNONYMS.get(quantization, quantization)
    formats = _other_formats(model.releases)
    named = [
        (release.quantization.casefold(), release)
        for release in (*model.releases, *formats)
        if not separator or release.publisher.casefold() == publisher
    ]
    for spelling in (quantization, f"ud-{quantization}"):
        if found := tuple(release for name, release in named if name == spelling):
            return found
    if quantization.upper() in DEFAULT_TYPE and publisher in ("", HYPOTHETICAL):
        return (_hypothetical(quantization.upper(), f"gguf:{quantization.upper()}"),)
    known = [f"{release.publisher}/{release.quantization}" for release in model.releases]
    spellings = {spelling.casefold(): name for name in known for spelling in (name, name.rpartition("/")[2])}
    near = near_names(quantization, spellings, 4, 0.4)
    raise UnknownName("quantization", text, dict.fromkeys([spellings[name] for name in near] or known[:8]))


def quality_of(model_id: str, release: Release) -> tuple[QualityLoss, ...]:
    """What was measured of a release, then what was measured of its type in suites that did not measure it.

    Only ``release.quality`` was measured on the release's own mixture; the others carry a note that says
    on what. A model without a card has none.
    """
    if model_id not in card_ids() and model_id not in user_card_ids():
        return release.quality
    own = {(loss.suite, loss.metric) for loss in release.quality}
    types = _types_of(release)
    listed = (load_card if model_id in card_ids() else load_user_card)(model_id).type_quality
    of_type = (quality.loss for quality in listed if quality.quantization.upper() in types)
    return (*release.quality, *(loss for loss in of_type if (loss.suite, loss.metric) not in own))


def _types_of(release: Release) -> set[str]:
    """Names under which the quality of a release's type may be listed, in upper case."""
    types = {release.quantization.upper(), release.mixture.upper() if release.mixture_known else ""}
    if release.mixture.startswith("gguf:"):
        try:
            base = base_type(release.quantization)
        except UnknownMixture:
            return types
        if not base.needs_ik_llama:
            types.add(DEFAULT_TYPE[base.file_type])
    return types
