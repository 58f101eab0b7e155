"""Models on the Hugging Face hub: ``org/name``, or ``org/name:quantization`` for one of its GGUF quantizations.

``org/name@revision`` is a branch, a tag or a commit other than the main branch.

Read are the configuration, the index and, where those two do not settle the size, the headers of the weight files.
Weights are never read. Needs the extra ``hub``, which is imported when a model is asked for.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

from moeplan.hub_gguf import GgufSet, choose, gguf_sets
from moeplan.text_safe import shortened
from planner.errors import BadRequest
from profiles.config_reader import BadConfig, UnknownFamily
from profiles.headers.errors import BadModelFile, quoted
from profiles.headers.safetensors_index import MAX_INDEX_BYTES, read_index
from profiles.library import load_model, model_ids
from profiles.model import ModelSpec
from profiles.weights.projector import is_projector_name

if TYPE_CHECKING:
    from moeplan.hub_client import Hub, Repository

Progress = Callable[[int, int], None]

CONFIG: Final = "config.json"
QUANT_CONFIG: Final = "hf_quant_config.json"
INDEX: Final = "model.safetensors.index.json"
SINGLE_FILE: Final = "model.safetensors"
MAX_CONFIG_BYTES: Final = 16 << 20

_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_REVISION = r"[A-Za-z0-9](?:[A-Za-z0-9._/-]{0,94}[A-Za-z0-9])?"
_ID = re.compile(
    rf"(?P<repository>{_PART}/{_PART})(?:@(?P<revision>{_REVISION}))?(?::(?P<quantization>[A-Za-z0-9._-]{{1,96}}))?"
)
_FILE_SUFFIXES = (".json", ".gguf", ".safetensors")


@dataclass(frozen=True, slots=True)
class HubModel:
    """A model as the hub describes it, and what that was read from.

    ``config`` and ``quant_config`` are the texts of ``config.json`` and ``hf_quant_config.json``, None for a GGUF
    model and where the repository has none. ``source`` is the address of what was read, at its commit.
    """

    spec: ModelSpec
    repository: Repository
    source: str
    config: bytes | None = None
    quant_config: bytes | None = None


def is_hub_id(text: str) -> bool:
    """Whether a text has the form ``org/name[@revision][:quantization]`` and does not end like a file.

    >>> is_hub_id("moonshotai/Kimi-K2.5"), is_hub_id("unsloth/Kimi-K2.5-GGUF:UD-Q2_K_XL"), is_hub_id("./folder")
    (True, True, False)
    """
    return _ID.fullmatch(text) is not None and not text.endswith(_FILE_SUFFIXES)


def fetch_hub_model(text: str, progress: Progress | None = None) -> HubModel:
    """The model that ``org/name[@revision][:quantization]`` names, and what it was read from.

    ``progress`` is called with the steps done (one for each file) and the steps known so far. Raises ``BadRequest``
    where the user can mend it (no such repository, gated, no such quantization, extra missing), ``Undetermined`` where
    not (no network, a server that is not the hub), ``BadModelFile``, and what ``profiles.library.load_model`` raises.
    """
    named = _ID.fullmatch(text)
    if named is None:
        raise BadRequest(f"{shortened(text)} is no repository; org/name[@revision][:quantization] is allowed")
    try:
        from moeplan.hub_client import MAIN, Hub
    except ModuleNotFoundError:
        raise BadRequest(f"install moeplan[hub] to read {text}") from None
    hub = Hub(progress or _unwatched)
    hub.expect(1)
    repository = hub.repository(named["repository"], named["revision"] or MAIN)
    hub.step_done()
    sets = gguf_sets(repository.files)
    has_safetensors = any(path.endswith(".safetensors") for path in repository.files)
    quantization = named["quantization"]
    with _scratch(repository) as folder:
        visit = _Visit(hub, repository, folder)
        if sets and (quantization is not None or not has_safetensors):
            return visit.gguf(choose(repository.id, sets, quantization))
        return visit.checkpoint(quantization)


def _unwatched(done: int, total: int) -> None:
    """What is called when nobody wants to know."""


@contextmanager
def _scratch(repository: Repository) -> Iterator[Path]:
    """A folder for copies, which no error mentions: the user knows the repository."""
    with tempfile.TemporaryDirectory(prefix="moeplan-hub-") as name:
        folder = Path(name).resolve()
        try:
            yield folder
        except BadModelFile as bad:
            raise BadModelFile(f"{repository.id}/{Path(bad.file).name}", bad.problem) from None
        except (BadConfig, UnknownFamily) as error:
            raise type(error)(str(error).replace(str(folder), repository.id)) from None


class _Visit:
    """One model of one repository; copies of what is fetched lie in ``folder``."""

    def __init__(self, hub: Hub, repository: Repository, folder: Path) -> None:
        self._hub, self._repository, self._folder = hub, repository, folder

    def checkpoint(self, quantization: str | None) -> HubModel:
        """The model of ``config.json``, with what the index or else the headers of the weight files hold."""
        if CONFIG not in self._repository.files:
            raise BadRequest(f"{self._repository.id} has no {CONFIG} and no GGUF files; one of them is needed")
        config = self._copied(CONFIG, MAX_CONFIG_BYTES)
        has_quant_config = QUANT_CONFIG in self._repository.files
        quant_config = self._copied(QUANT_CONFIG, MAX_CONFIG_BYTES) if has_quant_config else None
        spec, settled_by, path = self._settled()
        if quantization is not None and quantization.casefold() != spec.native_quantization.casefold():
            raise BadRequest(
                f"{self._repository.id} has no GGUF files, only {spec.native_quantization}: leave out"
                f" {shortened(':' + quantization)}"
            )
        source = self._repository.address(path)
        releases = tuple(replace(release, source=source, note=settled_by) for release in spec.releases)
        return HubModel(
            spec=self._named(replace(spec, releases=releases), source, settled_by),
            repository=self._repository,
            source=self._repository.address(CONFIG),
            config=config.read_bytes(),
            quant_config=quant_config.read_bytes() if quant_config is not None else None,
        )

    def gguf(self, chosen: GgufSet) -> HubModel:
        """The model that the headers of GGUF files describe, with the vision projector beside them."""
        folders = {PurePosixPath(chosen.paths[0]).parent, PurePosixPath()}
        projectors = (
            path
            for path in self._repository.files
            if PurePosixPath(path).parent in folders and is_projector_name(PurePosixPath(path).name)
        )
        first = self._weights((*chosen.paths, *projectors))[0]
        source = self._repository.address(chosen.paths[0])
        spec = load_model(first)
        releases = tuple(replace(release, quantization=chosen.quantization, source=source) for release in spec.releases)
        note = f"the headers of {len(chosen.paths)} GGUF files were read"
        return HubModel(self._named(replace(spec, releases=releases), source, note), self._repository, source)

    def _settled(self) -> tuple[ModelSpec, str, str]:
        """The model, what settled its size, and the path that says so.

        The index does where its total is what the configuration implies. Headers are read only where it is not.
        """
        files = self._repository.files
        if INDEX in files:
            index = self._copied(INDEX, MAX_INDEX_BYTES)
            spec = load_model(index)
            if spec.releases[0].published_bytes == sum(group.bytes for group in spec.tensors):
                return spec, f"{CONFIG} and total_size of {INDEX} agree to the byte", INDEX
            paths, main = tuple(sorted(set(read_index(index).weight_map.values()))), INDEX
        elif SINGLE_FILE in files:
            paths, main = (SINGLE_FILE,), SINGLE_FILE
        else:
            spec = load_model(self._folder / CONFIG)
            return spec, f"computed from {CONFIG}: there is no {INDEX} and no {SINGLE_FILE}", CONFIG
        if missing := [path for path in paths if path not in files]:
            where = "cache" if self._repository.snapshot else "repository"
            return spec, f"the {where} lacks {len(missing)} of the weight files, such as {quoted(missing[0])}", INDEX
        spec = load_model(self._weights(paths)[0].parent / main)
        return spec, f"the headers of {len(paths)} weight files were read", paths[0]

    def _named(self, spec: ModelSpec, source: str, note: str) -> ModelSpec:
        """``spec`` under the repository's name; what is built in keeps its id to itself."""
        publisher, _, name = self._repository.id.rpartition("/")
        taken = name.casefold() in model_ids()
        notes = (f"{source}: {note}", *filter(None, (self._repository.note, self._repository.pin)))
        return replace(
            spec,
            id=f"{publisher}-{name}".casefold() if taken else name.casefold(),
            name=self._repository.id,
            repository=self._repository.id,
            releases=tuple(
                replace(release, publisher=publisher, release=self._repository.id) for release in spec.releases
            ),
            sources=(source,),
            notes=(*spec.notes, *notes),
        )

    def _copied(self, path: str, max_bytes: int) -> Path:
        self._hub.expect(1)
        original = self._hub.small_file(self._repository, path, max_bytes)
        self._hub.step_done()
        return Path(shutil.copyfile(original, self._folder / path))

    def _weights(self, paths: tuple[str, ...]) -> tuple[Path, ...]:
        """Files for the readers of headers: those of the cache, or sparse copies."""
        if self._repository.snapshot is not None:
            return tuple(self._repository.snapshot / path for path in paths)
        from moeplan.hub_headers import fetch_headers

        return fetch_headers(self._hub, self._repository, paths, self._folder)
