"""Start-up logs of llama.cpp and ik_llama.cpp: buffer sizes by device, as the library prints them.

Verified: llama.cpp 0.6.0-dev, whose server the tests start (a recent ``llama-server`` prints these lines only from
``-lv 4`` on). From published logs: the older spelling ``llama_new_context_with_model`` and ik_llama.cpp's buffers
without the word model (ikawrakow/ik_llama.cpp issues 437 and 485), and lines of CUDA devices.
"""

from __future__ import annotations

import re
from typing import Final

from formulas.units import GIB, MIB
from hwdetect.serving.observation import Observation
from hwdetect.serving.readings import NUMBER, Readings

MARKS: Final = (
    "buffer size =",
    "llama_model_loader: loaded meta data",
    "file size",
    "model size",
    "file type",
    "ftype",
    "no_alloc",
    "llama_context:",
    "llama_new_context_with_model:",
    "llama_init_from_model:",
    "llama_kv_cache",
    "KV self size",
    "Flash Attention",
    "buffer type overrid",
    "out of memory",
    "failed to allocate",
    "build:",
    "build_info",
)
"""What a line needs for anything here to be in it."""

_LOAD: Final = "llama_model_loader: loaded meta data with "
_FILE_SIZE: Final = re.compile(
    rf"(?:print_info: file size|llm_load_print_meta: model size)\s+= {NUMBER} (MiB|GiB|TiB) \("
)
_FILE_TYPE: Final = re.compile(
    r"(?:print_info: file type|llm_load_print_meta: model ftype)\s+= (?:\(guessed\) )?(.{1,60}?)\s*$"
)
_NO_ALLOC: Final = re.compile(r"print_info: no_alloc\s+= 1")
_BUFFER: Final = re.compile(
    rf"\b(\w{{1,60}}): +([A-Za-z][\w.:\[\]-]{{0,60}}) +(?:(model|KV|compute|output|RS) )?buffer size ?= +{NUMBER} MiB"
)
_KV_SIZE: Final = re.compile(rf"llama_kv_cache\w{{0,30}}: size = +{NUMBER} MiB \(")
_KV_SELF: Final = re.compile(rf"KV self size += +{NUMBER} MiB")
_CACHE_TYPES: Final = re.compile(r"K \((\w{2,10})\): .{0,30}V \((\w{2,10})\):")
_LATENT_TYPE: Final = re.compile(r"c\^KV \((\w{2,10})\)")
_CONTEXT: Final = re.compile(
    r"(?:llama_context|llama_new_context_with_model|llama_init_from_model): "
    r"(n_ctx|n_seq_max|n_batch|n_ubatch|flash_attn|kv_unified) += (\w{1,12})"
)
_FLASH: Final = re.compile(r"Flash Attention (?:was auto, set to )?(enabled|disabled)")
_OVERRIDE: Final = re.compile(r"ensor blk\.([0-9]{1,5})\.ffn_\w{1,20}_exps\.weight .{0,40}overrid+en to (\w{1,20})")
_BUILD: Final = re.compile(r"(?:build: |build_info: b)([0-9]{2,7})\b")
_FAILURE: Final = re.compile(r"(cudaMalloc failed: out of memory|failed to allocate .{1,80}buffer|out of memory)")
_CLIP: Final = ("alloc_compute_meta", "clip_ctx", "warmup")
_SETTINGS: Final = {"n_ctx": "context", "n_seq_max": "sequences", "n_batch": "batch", "n_ubatch": "ubatch"}
_UNITS: Final = {"MiB": MIB, "GiB": GIB, "TiB": GIB << 10}
_FLASH_OFF: Final = ("0", "disabled", "false")
_FLASH_ON: Final = ("1", "enabled", "true")


class _Load:
    """One load of a model file: a server may load several, for a fitting try, a drafter, or a restart."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.file_bytes = 0
        self.file_resolution = 0
        self.file_type: str | None = None
        self.tries_only = False
        self.readings = Readings()
        self.settings: dict[str, str | bool] = {}
        self.expert_layers: set[int] = set()
        self.layers_on_cpu: set[int] = set()


class LlamaCppReader:
    """Collects what the lines of one log say; of several loads, the last of the largest file counts."""

    def __init__(self) -> None:
        self._loads: list[_Load] = []
        self._build: str | None = None
        self._failure: str | None = None

    def feed(self, line: str) -> None:
        """One line of the log, any line."""
        if _LOAD in line:
            self._begin(line.partition(" tensors from ")[2].rpartition(" (version ")[0][:4096])
            return
        build = _BUILD.search(line)
        self._build = build[1] if build else self._build
        if not self._loads:
            if "buffer size =" not in line:
                return
            self._begin("")
        load = self._loads[-1]
        failure = _FAILURE.search(line)
        self._failure = failure[1] if failure else self._failure
        self._about_the_file(load, line)
        self._about_the_context(load, line)
        buffer = _BUFFER.search(line)
        if buffer is not None and buffer[1] not in _CLIP:
            _keep_buffer(load.readings, buffer)

    def observation(self) -> Observation | None:
        """What was found; None where it is no start-up of llama.cpp."""
        loads = [load for load in self._loads if not load.tries_only and load.readings] or [
            load for load in self._loads if load.readings or load.file_bytes
        ]
        if not loads:
            return None
        largest = max(load.file_bytes for load in loads)
        load = [load for load in loads if load.file_bytes == largest][-1]
        readings = load.readings
        if load.file_bytes:
            # Mapped buffers span what lies between their tensors, and repacked ones hold it twice.
            readings.forget("weights")
            readings.set_bytes("weights", "file", load.file_bytes, load.file_resolution)
        if load.tries_only:
            readings.forget("kv_cache", "weights_on_gpus")
        settings = dict(load.settings)
        notes = [f"build {self._build}"] if self._build else []
        if load.layers_on_cpu:
            # As many layers as lie on the CPU, counted from the first that has experts.
            first, count = min(load.expert_layers), len(load.layers_on_cpu)
            settings["n_cpu_moe"] = str(first + count)
            if max(load.layers_on_cpu) != first + count - 1:
                notes.append("the experts in RAM are not those of the first layers; as many layers are priced")
        if load.file_type:
            settings["quant"] = load.file_type
        if settings.get("context"):
            readings.count("kv_tokens", "", str(-(-int(str(settings["context"])) // 256) * 256))
        return Observation(
            engine="llama.cpp",
            model=load.path or None,
            settings=settings,
            measurements=readings.measurements(summed=True),
            failure=self._failure,
            notes=tuple(notes),
        )

    def _begin(self, path: str) -> None:
        self._loads.append(_Load(path))
        # A hostile log begins a thousand times.
        del self._loads[:-32]
        self._failure = None

    def _about_the_file(self, load: _Load, line: str) -> None:
        size = _FILE_SIZE.search(line)
        if size is not None:
            unit = _UNITS[size[2]]
            load.file_bytes, load.file_resolution = round(float(size[1]) * unit), unit // 100
        kind = _FILE_TYPE.search(line)
        if kind is not None:
            load.file_type = file_type(kind[1])
        load.tries_only |= _NO_ALLOC.search(line) is not None
        override = _OVERRIDE.search(line)
        if override is not None:
            load.expert_layers.add(int(override[1]))
            if is_host(override[2]):
                load.layers_on_cpu.add(int(override[1]))

    def _about_the_context(self, load: _Load, line: str) -> None:
        setting = _CONTEXT.search(line)
        if setting is not None:
            name, value = setting[1], setting[2]
            if name == "n_ctx":
                # A second context of the same model replaces the first.
                load.readings.forget("kv_cache", "compute_on_gpu", "compute_in_ram", "outputs")
            if name in _SETTINGS and value.isdecimal():
                load.settings[_SETTINGS[name]] = value
            elif name == "kv_unified":
                load.settings["kv_unified"] = value in ("true", "1")
            elif name == "flash_attn" and value in (*_FLASH_ON, *_FLASH_OFF):
                load.settings["flash_attention"] = "on" if value in _FLASH_ON else "off"
        flash = _FLASH.search(line)
        if flash is not None:
            load.settings["flash_attention"] = "on" if flash[1] == "enabled" else "off"
        size = _KV_SIZE.search(line) or _KV_SELF.search(line)
        types = _CACHE_TYPES.search(line)
        latent = _LATENT_TYPE.search(line)
        if size is not None and (types or latent):
            key, value = (types[1], types[2]) if types else (latent[1], latent[1]) if latent else ("", "")
            load.settings["cache_type_k"], load.settings["cache_type_v"] = key, value


def _keep_buffer(readings: Readings, buffer: re.Match[str]) -> None:
    """One buffer: model and KV are summed over devices, compute buffers are those of the last reservation."""
    place, kind, number = buffer[2], buffer[3] or "model", buffer[4]
    host = is_host(place)
    if kind == "model":
        readings.add_size("weights", place, number, MIB)
        if not host:
            readings.add_size("weights_on_gpus", place, number, MIB)
    elif kind in ("KV", "RS"):
        readings.add_size("kv_cache", place, number, MIB)
    elif kind == "output":
        readings.size("outputs", place, number, MIB)
    elif kind == "compute":
        readings.size("compute_in_ram" if host else "compute_on_gpu", place, number, MIB)


def is_host(buffer: str) -> bool:
    """Whether a buffer lies in main memory: ``CPU``, ``CPU_Mapped``, ``CUDA_Host`` and the like."""
    return buffer.startswith(("CPU", "AMX", "BLAS")) or buffer.endswith("_Host")


def file_type(text: str) -> str | None:
    """llama.cpp's name of a file type as a quantization; None for one that is no type, such as ``all F32 (guessed)``.

    >>> file_type("Q4_K - Medium"), file_type("IQ2_XXS - 2.0625 bpw"), file_type("Q2_K - Medium"), file_type("Q8_0")
    ('Q4_K_M', 'IQ2_XXS', 'Q2_K', 'Q8_0')
    """
    name, _, detail = text.partition(" - ")
    name = name.strip()
    if not re.fullmatch(r"(?:I?Q[0-9]_\w{1,5}|TQ[0-9]_0|B?F16|F32|MXFP4(?:_MOE| MoE)?)(?: mix)?", name):
        return None
    size = {"Small": "_S", "Medium": "_M", "Large": "_L"}.get(detail.strip(), "")
    return name if name == "Q2_K" and size == "_M" else name.removesuffix(" mix").replace(" MoE", "_MOE") + size
