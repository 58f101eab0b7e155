"""From a log to a comparison: reads the file, finds the model it is about, and prices that configuration."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import Field

from formulas.units import GIB
from hwdetect.serving.lines import NotText, clean_lines
from hwdetect.serving.observation import Observation
from hwdetect.serving.startup import read_startup
from moeplan.calibration import Startup, fingerprint, now, store
from moeplan.calibrations import AUTO, place_of
from moeplan.pipeline import GENERATED_BY, read_inventory, read_model
from moeplan.text_safe import printable, shortened
from planner.assemble import make_plan
from planner.build import build_request
from planner.compare import Comparison, compare
from planner.errors import BadRequest, Undetermined
from planner.hardware import machine_of
from planner.options import Options
from planner.plan import Record
from planner.search import search
from profiles.config_reader import UnknownFamily
from profiles.engines import UnknownVersion, version_tuple
from profiles.library import load_model, model_ids

if TYPE_CHECKING:
    from hwdetect.inventory import Inventory
    from profiles.model import ModelSpec

OBSERVATION_SCHEMA: Final = "moeplan.observation/1"
MAX_LOG_BYTES: Final = 64 << 20
"""Read of a log. An engine prints its start-up first; what follows is years of requests."""
CHUNK_BYTES: Final = 1 << 20
_HUB_CACHE: Final = re.compile(r"models--([\w.-]+?)--([\w.-]+)(?:/|$)")
_GPU_ENGINES: Final = ("vllm", "sglang", "ktransformers")

Value = str | bool | tuple[str, ...]


class LogRef(Record):
    """The log that was read. ``read_bytes`` is less than ``bytes`` where only its beginning was."""

    path: str
    sha256: str
    bytes: int
    read_bytes: int


class ObservationReport(Record):
    """The result of ``moeplan observe``, ``moeplan.observation/1``.

    ``measured`` has the log's figures under the names that ``profiles/measured/memory.json`` uses, so that a row of
    the accuracy table can be taken from it. ``calibration`` is the file they were stored in.
    """

    schema_: Literal["moeplan.observation/1"] = Field(OBSERVATION_SCHEMA, alias="schema")
    generated_by: str
    log: LogRef
    observation: Observation
    settings: dict[str, str | bool | list[str]]
    comparison: Comparison
    measured: dict[str, float]
    calibration: str | None = None
    notes: tuple[str, ...] = ()

    def to_json(self, *, indent: int | None = 2) -> str:
        """The report as JSON."""
        return self.model_dump_json(indent=indent, by_alias=True)


@dataclass(slots=True)
class _Log:
    """A log as it is read: its size, and a running digest."""

    path: Path
    size_bytes: int = 0
    read_bytes: int = 0
    digest: Any = field(default_factory=hashlib.sha256)

    def chunks(self, progress: Callable[[int, int], None] | None) -> Iterator[bytes]:
        """The first ``MAX_LOG_BYTES``. Raises ``BadRequest`` where the file cannot be read or is no plain file."""
        where = printable(str(self.path))
        try:
            # What is no plain file may never end, or wait for ever.
            plain = self.path.is_file() or not self.path.exists()
        except ValueError as error:
            raise BadRequest(f"{where}: {error}") from None
        if not plain:
            raise BadRequest(f"{where}: not a regular file")
        try:
            with self.path.open("rb") as file:
                self.size_bytes = self.path.stat().st_size
                while self.read_bytes < MAX_LOG_BYTES and (chunk := file.read(CHUNK_BYTES)):
                    self.read_bytes += len(chunk)
                    self.digest.update(chunk)
                    if progress is not None:
                        progress(self.read_bytes, min(self.size_bytes, MAX_LOG_BYTES))
                    yield chunk
        except OSError as error:
            raise BadRequest(f"{where}: {error.strerror or error}") from None

    def reference(self) -> LogRef:
        """What the report says of it."""
        return LogRef(
            path=str(self.path), sha256=self.digest.hexdigest(), bytes=self.size_bytes, read_bytes=self.read_bytes
        )


def observe(
    log: str,
    model: str | None = None,
    *,
    options: dict[str, Value] | None = None,
    calibration: str = AUTO,
    progress: Callable[[int, int], None] | None = None,
) -> ObservationReport:
    """Read a start-up log, price the configuration that it shows, compare, and store the result.

    ``model`` and ``options`` (the flags of ``estimate``, by the names of ``Options``) say what the log does not, and
    are preferred to what it does. Raises ``BadRequest`` for a file that is no log and for a model that neither names,
    ``Undetermined`` where the log shows no start-up of an engine that is known.
    """
    source = _Log(Path(log))
    try:
        observation = read_startup(clean_lines(source.chunks(progress)))
    except NotText as error:
        raise BadRequest(f"{printable(log)}: not a text log: {error}") from None
    if observation is None:
        raise Undetermined(
            f"{printable(log)}: no start-up of vLLM, SGLang or llama.cpp is in it (llama-server prints its buffers "
            "from -lv 4 on)"
        )
    notes = [*observation.notes]
    if source.read_bytes < source.size_bytes:
        notes.append(f"only the first {MAX_LOG_BYTES >> 20} MiB of the log were read")
    chosen = _configuration(model, observation, dict(options or {}), notes)
    inventory, plan = _priced(chosen, observation, notes)
    comparison = compare(plan, observation)
    notes += plan.hardware.notes
    notes += [f"{name} is set and moves memory that the prediction leaves out" for name in observation.unpriced]
    report = ObservationReport(
        schema=OBSERVATION_SCHEMA,
        generated_by=GENERATED_BY,
        log=source.reference(),
        observation=observation,
        settings=_settings(chosen),
        comparison=comparison,
        measured=measured_row(observation),
        notes=tuple(dict.fromkeys(notes)),
    )
    return _stored(report, inventory, calibration)


def _stored(report: ObservationReport, inventory: Inventory, choice: str) -> ObservationReport:
    compared = report.comparison
    machine = fingerprint(inventory)
    path = place_of(choice, machine)
    if path is None or compared.verdict == "nothing_to_compare":
        return report
    startup = Startup(
        observed_at=now(),
        log_sha256=report.log.sha256,
        engine=compared.engine,
        engine_version=compared.engine_version,
        model=compared.model,
        quantization=compared.quantization,
        settings=report.settings,
        verdict=compared.verdict,
        rows=compared.rows,
    )
    try:
        store(
            path, startup, machine=machine, description=compared.hardware, generated_by=GENERATED_BY,
            make_folder=choice == AUTO,
        )  # fmt: skip
    except BadRequest as error:
        if choice != AUTO:
            raise
        # The answer does not depend on where it is kept.
        return report.model_copy(update={"notes": (*report.notes, f"not stored: {error}")})
    return report.model_copy(update={"calibration": str(path)})


def _configuration(model: str | None, observation: Observation, given: dict[str, Value], notes: list[str]) -> Options:
    """The options of the observed configuration: the log's own, with those that were given put over them."""
    settings: dict[str, Any] = dict(observation.settings)
    if "context" in given:
        settings.pop("max_model_len", None)
    for name, value in given.items():
        if name in settings and str(settings[name]) != str(value):
            notes.append(f"--{name.replace('_', '-')} {value} is used; the log says {settings[name]}")
    settings.setdefault("engine", observation.engine)
    version = observation.version
    if version is not None and "engine_version" not in given:
        try:
            settings["engine_version"] = ".".join(str(part) for part in version_tuple(version))
        except UnknownVersion:
            notes.append(f"the log's version {printable(version)} is no version that can be read")
    elif version is None and "engine_version" not in given and observation.engine in _GPU_ENGINES:
        notes.append(
            "the log does not name the engine's version: the newest known one is assumed, see --engine-version"
        )
    settings |= given
    if observation.engine == "llama.cpp" and "quant" not in given and "quant" in settings:
        notes.append(f"--quant {settings['quant']} is the file type that the log names")
    text, release = _model(model, observation, notes)
    if release is not None and "quant" not in given:
        settings["quant"] = release
    if settings["engine"] != observation.engine:
        raise BadRequest(f"--engine {settings['engine']}: the log is of {observation.engine}")
    return Options(text, **settings)


def _model(given: str | None, observation: Observation, notes: list[str]) -> tuple[str, str | None]:
    """A name or path that can be loaded, and the repository of the release where the log names one."""
    named = observation.model or ""
    release = _release_named(given, named)
    if given is not None:
        return given, release[1] if release is not None else None
    if release is not None:
        return release
    for name in _spellings(named):
        try:
            spec = load_model(name)
        except UnknownFamily:
            raise
        except (ValueError, OSError, LookupError):
            continue
        if name != named:
            notes.append(f"the log's model {shortened(named)} is read as {spec.id}")
        return name, None
    what = (
        f"the log's model {shortened(named)} is not one that is known" if named else "the log does not name its model"
    )
    raise BadRequest(f"{what}: give MODEL after the log, a built-in id or a config.json")


def _spellings(named: str) -> list[str]:
    """Names that a model may have behind a path: of the hub's cache, and the last folder."""
    cached = _HUB_CACHE.search(named)
    last = named.rstrip("/").rpartition("/")[2]
    return [name for name in (named, f"{cached[1]}/{cached[2]}" if cached else "", last) if name]


def _release_named(given: str | None, named: str) -> tuple[str, str | None] | None:
    """The built-in model that a repository holds a release of, and the repository where it holds only one."""
    for name in _spellings(named):
        for model_id in model_ids() if given is None else (given,):
            if "/" not in name or model_id not in model_ids():
                continue
            releases = [one for one in load_model(model_id).releases if one.release.casefold() == name.casefold()]
            if releases:
                return model_id, releases[0].release if len(releases) == 1 else None
    return None


def _priced(chosen: Options, observation: Observation, notes: list[str]) -> tuple[Inventory, Any]:
    spec: ModelSpec = read_model(chosen.model)
    inventory, source = read_inventory(chosen)
    gpus = any(node.gpus for node in inventory.nodes)
    if not gpus and observation.engine in _GPU_ENGINES:
        where = "this machine has" if source == "detected" else "the machine described has"
        raise BadRequest(f"{where} no GPU: describe the machine of the log, such as --gpu {_ranks(chosen)}xH200")
    if gpus and observation.engine == "llama.cpp" and not _uses_gpu(observation):
        nodes = tuple(node.model_copy(update={"gpus": ()}) for node in inventory.nodes)
        inventory = inventory.model_copy(update={"nodes": nodes})
        notes.append("the log shows no buffer on a GPU: the prediction is for the CPU alone")
    if "n_cpu_moe" not in observation.settings and observation.engine == "llama.cpp" and _uses_gpu(observation):
        notes.append("the log does not say which experts are in RAM: give --n-cpu-moe where some are")
    request = build_request(chosen, spec, machine_of(inventory, source), exact=True)
    outcome = search(request, None)
    return inventory, make_plan(request, outcome, {}, GENERATED_BY)


def _uses_gpu(observation: Observation) -> bool:
    return bool({"weights_on_gpus", "compute_on_gpu"} & set(observation.values()))


def _ranks(chosen: Options) -> int:
    counts = [int(text) for text in (chosen.tp, chosen.pp, chosen.dp) if text is not None and text.isdecimal()]
    product = 1
    for count in counts:
        product *= count
    return max(1, min(product, 8))


def _settings(chosen: Options) -> dict[str, str | bool | list[str]]:
    """The options that were given, without the model and files of this machine."""
    settings: dict[str, str | bool | list[str]] = {}
    for name in chosen.__slots__:
        value = getattr(chosen, name)
        if name not in ("model", "inventory", "calibration") and value not in (None, False, ()):
            settings[name] = list(value) if isinstance(value, tuple) else value
    return settings


_MEASURED_NAMES: Final = {
    "visible": "total_gib",
    "weights": "weights_gib",
    "activation": "torch_peak_increase_gib",
    "non_torch": "non_torch_forward_gib",
    "graphs": "cuda_graph_actual_gib",
    "graphs_reserved": "cuda_graph_estimated_gib",
    "kv_cache": "available_kv_cache_gib",
}


def measured_row(observation: Observation) -> dict[str, float]:
    """The log's figures under the names of ``profiles/measured/memory.json``; sizes in GiB, two decimals."""
    row: dict[str, float] = {}
    for measurement in observation.measurements:
        if measurement.term == "kv_tokens":
            row["gpu_kv_cache_tokens"] = measurement.value
        elif name := _MEASURED_NAMES.get(measurement.term):
            row[name] = round(measurement.value / GIB, 2)
    return row
