"""Start-up logs of vLLM 0.6 to 0.33.

Formats: the lines of 0.7 and 0.8 (``model weights take``), of 0.19 (``Actual usage is ... for weight``) and of 0.28 and
shortly before (``for consumed memory``) follow published start-up logs (github.com/llm-d-incubation/llm-d-planner
accuracy/results/v0.19.0/logs; kubernetes-sigs/gateway-api-inference-extension pull request 550; vllm-project/vllm
pull request 12569; NVIDIA srt-slurm). ``args: Namespace(...)`` of 0.6, and that 0.29 to 0.33 print as 0.28 does, is
from memory.

Where ``consumed memory`` is printed, the peak activation beside it holds the reserve for CUDA graphs as well (consumed
+ peak + KV = requested, in four published start-ups); it is taken out again, or activation stays unknown.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from formulas.units import GIB
from hwdetect.serving.observation import Observation
from hwdetect.serving.readings import NUMBER, Readings, argument

MARKS: Final = (
    "odel loading took",
    "odel weights took",
    "model weights take",
    "KV cache memory",
    "KV cache size",
    "aximum concurrency for",
    " blocks: ",
    "raph capturing finished",
    "graph memory",
    "graph pool memory",
    "Memory profiling takes",
    "total_gpu_memory (",
    "Free memory on device",
    "memory snapshot",
    "non-default args",
    "args: Namespace(",
    " LLM engine (v",
    "vLLM API server version",
    "\u2588  version ",
    "max model len",
    "max_num_batched_tokens",
    "max_num_seqs",
    "No available memory for the cache blocks",
    "To serve at least one request",
    "out of memory",
)
"""What a line needs for anything here to be in it."""

_RANK: Final = re.compile(r"\(([A-Za-z]\w{0,60}(?: rank=\d{1,6})?)(?: pid=(\d{1,10}))?[^()]{0,80}\)")
_GENERIC: Final = ("VllmWorkerProcess", "VllmWorker", "RayWorkerWrapper", "pid")
_GIB: Final = rf"{NUMBER} ?Gi?B"

_WEIGHTS: Final = re.compile(rf"(?:odel loading took|odel weights took) {_GIB}")
_PROFILE_OLD: Final = re.compile(
    rf"model weights take {_GIB}; non_torch_memory takes {_GIB}; PyTorch activation peak memory takes {_GIB}; "
    rf"the rest of the memory reserved for KV Cache is {_GIB}"
)
_PROFILE_PEAK: Final = re.compile(rf"torch peak memory increase: {_GIB}")
_PROFILE_NON_TORCH: Final = re.compile(rf"non-torch forward increase memory: {_GIB}")
_TOTAL: Final = re.compile(
    rf"(?:total_gpu_memory \({_GIB}\)|Free memory on device \([0-9.]{{1,12}}/{_GIB}\)|total_memory={_GIB})"
)
_KV: Final = re.compile(rf"Available KV cache memory: {_GIB}")
_KV_IN_USE: Final = re.compile(rf"Current kv cache memory in use is {_GIB}")
_KV_TOKENS: Final = re.compile(r"GPU KV cache size: ([0-9,]{1,20}) tokens")
_BLOCKS: Final = re.compile(r"# (?:GPU|CUDA|cuda) blocks: ([0-9]{1,12})")
_CONCURRENCY: Final = re.compile(rf"aximum concurrency for ([0-9,]{{1,20}}) tokens per request: {NUMBER}x")
_GRAPHS: Final = re.compile(rf"raph capturing finished in [0-9.]{{1,12}} secs?, took {_GIB}")
_GRAPHS_RESERVED: Final = re.compile(rf"Estimated CUDA graph memory: {_GIB} total")
_GRAPH_POOL: Final = re.compile(rf"CUDA graph pool memory: {_GIB} \(actual\), {_GIB} \(estimated\)")
_USAGE: Final = re.compile(
    rf"Actual usage is {_GIB} for weights?, {_GIB} for peak activation, {_GIB} for non-torch memory, "
    rf"and {_GIB} for CUDAGraph memory"
)
_CONSUMED: Final = re.compile(
    rf"Actual usage is {_GIB} for consumed memory \(weights \+ non-torch\), {_GIB} for peak activation, "
    rf"and {_GIB} for CUDAGraph memory"
)
_VERSION: Final = re.compile(
    r"(?: LLM engine \(v|vLLM API server version |\u2588  version )([0-9]{1,4}(?:\.[0-9]{1,6}){1,3}\S{0,60})"
)
_CHUNKED: Final = re.compile(r"max_num_batched_tokens(?:=| to )([0-9]{1,9})")
_SEQUENCES: Final = re.compile(r"Defaulting max_num_seqs to ([0-9]{1,9})")
_MODEL_LENGTH: Final = re.compile(r"Using max model len ([0-9]{1,12})")
_FAILURE: Final = re.compile(
    r"(No available memory for the cache blocks|To serve at least one request with[^.]{0,200}"
    r"|CUDA out of memory|HIP out of memory|OutOfMemoryError)"
)

_ARGUMENTS: Final = {
    "tensor_parallel_size": "tp",
    "pipeline_parallel_size": "pp",
    "data_parallel_size": "dp",
    "decode_context_parallel_size": "dcp",
    "max_model_len": "max_model_len",
    "max_seq_len": "max_model_len",
    "max_num_batched_tokens": "max_num_batched_tokens",
    "max_num_seqs": "max_num_seqs",
}
_COUNT: Final = re.compile(r"[0-9]{1,12}")
_AMOUNT: Final = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6})?")
_KV_DTYPE_AS_WEIGHTS: Final = ("auto", "bfloat16", "float16", "half")
_UNPRICED: Final = (
    "speculative_config",
    "speculative_model",
    "kv_cache_memory_bytes",
    "kv_cache_memory",
    "num_gpu_blocks_override",
    "enable_eplb",
    "compilation_config",
    "kv_transfer_config",
    "hf_overrides",
)


class VllmReader:
    """Collects what the lines of one log say; the last start-up in it counts."""

    engine: Final = "vllm"

    def __init__(self) -> None:
        self._readings = Readings()
        self._settings: dict[str, str | bool] = {}
        self._unpriced: dict[str, None] = {}
        self._model: str | None = None
        self._version: str | None = None
        self._failure: str | None = None
        self._blocks: dict[str, int] = {}
        self._block_tokens: int | None = None
        self._consumed: dict[str, tuple[str, str, str]] = {}
        self._uses_experts_in_parallel = False
        self._is_vllm = False
        self._handlers: tuple[tuple[re.Pattern[str], Callable[[str, re.Match[str]], None]], ...] = (
            (_WEIGHTS, self._size("weights")),
            (_PROFILE_OLD, self._profile_old),
            (_PROFILE_PEAK, self._size("activation")),
            (_PROFILE_NON_TORCH, self._size("non_torch")),
            (_TOTAL, self._size("visible")),
            (_KV, self._size("kv_cache")),
            (_KV_IN_USE, self._kv_in_use),
            (_KV_TOKENS, self._tokens),
            (_BLOCKS, self._count_blocks),
            (_CONCURRENCY, self._concurrency),
            (_GRAPHS, self._size("graphs")),
            (_GRAPHS_RESERVED, self._size("graphs_reserved")),
            (_GRAPH_POOL, self._graph_pool),
            (_USAGE, self._usage),
            (_CONSUMED, self._note_consumed),
        )

    def feed(self, line: str) -> None:
        """One line of the log, any line."""
        self._arguments(line)
        failure = _FAILURE.search(line)
        if failure is not None and self._is_vllm:
            self._failure = failure[1]
        for pattern, handle in self._handlers:
            found = pattern.search(line)
            if found is not None:
                handle(_place(line, found.start()), found)

    def observation(self) -> Observation | None:
        """What was found; None where it is no start-up of vLLM."""
        self._finish()
        if not (self._readings or (self._is_vllm and self._failure)):
            return None
        settings = dict(self._settings)
        if self._uses_experts_in_parallel:
            settings["ep"] = str(int(str(settings.get("tp", 1))) * int(str(settings.get("dp", 1))))
        return Observation(
            engine="vllm",
            version=self._version,
            model=self._model,
            settings=settings,
            unpriced=tuple(self._unpriced),
            measurements=self._readings.measurements(),
            failure=self._failure,
        )

    def _arguments(self, line: str) -> None:
        """The configuration, from the lines that print it."""
        version = _VERSION.search(line)
        if version is not None:
            self._version, self._is_vllm = version[1][:60].rstrip("),"), True
        listed = "non-default args" in line or "args: Namespace(" in line
        engine = " LLM engine (v" in line
        if (listed and self._readings) or (engine and "kv_tokens" in self._readings):
            self._restart()
        if not (listed or engine):
            self._defaults(line)
            return
        self._is_vllm = True
        self._model = argument(line, "model") or argument(line, "model_tag") or self._model
        for name, setting in _ARGUMENTS.items():
            value = argument(line, name)
            if value is not None and _COUNT.fullmatch(value):
                self._settings[setting] = value
        utilization = argument(line, "gpu_memory_utilization")
        if utilization is not None:
            self._settings["gpu_memory_utilization"] = utilization[:11]
        dtype = argument(line, "kv_cache_dtype")
        if dtype is not None and dtype not in _KV_DTYPE_AS_WEIGHTS:
            self._settings["kv_dtype"] = dtype
        block = argument(line, "block_size")
        if block is not None and _COUNT.fullmatch(block):
            self._block_tokens = int(block)
        if argument(line, "enforce_eager") == "True":
            self._settings["enforce_eager"] = True
        if argument(line, "language_model_only") == "True" or _without_images(line):
            self._settings["text_only"] = True
        self._placements(line)
        self._uses_experts_in_parallel |= argument(line, "enable_expert_parallel") == "True"
        if listed:
            names = (name for name in _UNPRICED if _is_given(line, name))
            self._unpriced.update(dict.fromkeys(names))

    def _placements(self, line: str) -> None:
        """LoRA slots, offloaded weights and how the vision tower is divided."""
        if argument(line, "enable_lora") == "True":
            for name, default in (("max_loras", "1"), ("max_lora_rank", "16")):
                value = argument(line, name)
                self._settings[name] = value if value is not None and _COUNT.fullmatch(value) else default
        offload = argument(line, "cpu_offload_gb")
        if offload is not None and _AMOUNT.fullmatch(offload) and float(offload):
            self._settings["cpu_offload_gb"] = offload
        mode = argument(line, "mm_encoder_tp_mode")
        if mode in ("data", "weights") and "text_only" not in self._settings:
            self._settings["mm_encoder_tp_mode"] = mode

    def _defaults(self, line: str) -> None:
        for pattern, setting in (
            (_CHUNKED, "max_num_batched_tokens"),
            (_SEQUENCES, "max_num_seqs"),
            (_MODEL_LENGTH, "max_model_len"),
        ):
            found = pattern.search(line)
            if found is not None:
                self._settings[setting] = found[1]

    def _restart(self) -> None:
        self._readings.forget()
        self._settings.clear()
        self._unpriced.clear()
        self._blocks.clear()
        self._consumed.clear()
        self._failure = self._model = self._block_tokens = None
        self._uses_experts_in_parallel = False

    def _size(self, term: str) -> Callable[[str, re.Match[str]], None]:
        def handle(place: str, found: re.Match[str]) -> None:
            number = next(group for group in found.groups() if group is not None)
            self._readings.size(term, place, number, GIB)  # type: ignore[arg-type]

        return handle

    def _profile_old(self, place: str, found: re.Match[str]) -> None:
        for term, number in zip(("weights", "non_torch", "activation", "kv_cache"), found.groups(), strict=True):
            self._readings.size(term, place, number, GIB)  # type: ignore[arg-type]

    def _usage(self, place: str, found: re.Match[str]) -> None:
        for term, number in zip(("weights", "activation", "non_torch", "graphs"), found.groups(), strict=True):
            self._readings.size(term, place, number, GIB)  # type: ignore[arg-type]

    def _graph_pool(self, place: str, found: re.Match[str]) -> None:
        self._readings.size("graphs", place, found[1], GIB)
        self._readings.size("graphs_reserved", place, found[2], GIB)

    def _note_consumed(self, place: str, found: re.Match[str]) -> None:
        self._consumed[place] = (found[1], found[2], found[3])

    def _kv_in_use(self, place: str, found: re.Match[str]) -> None:
        if "kv_cache" not in self._readings:
            self._readings.size("kv_cache", place, found[1], GIB)

    def _tokens(self, place: str, found: re.Match[str]) -> None:
        self._readings.count("kv_tokens", place, found[1])

    def _count_blocks(self, place: str, found: re.Match[str]) -> None:
        self._blocks[place] = int(found[1])

    def _concurrency(self, place: str, found: re.Match[str]) -> None:
        """Tokens where only blocks are printed: their size is given, or the nearest that explains the concurrency."""
        blocks = self._blocks.get(place)
        if "kv_tokens" in self._readings or not blocks:
            return
        tokens = int(found[1].replace(",", "")) * float(found[2])
        each = self._block_tokens or round(tokens / blocks)
        if each > 0 and abs(each * blocks - tokens) <= 0.05 * tokens:
            self._readings.count("kv_tokens", place, str(each * blocks), each)

    def _finish(self) -> None:
        """Split what newer versions print as one: non-torch from weights, the graphs' reserve from the peak."""
        for place, (consumed, peak, graphs) in self._consumed.items():
            weights = self._readings.value("weights", place)
            reserve = self._readings.value("graphs_reserved", place)
            if weights is not None:
                size = round(float(consumed) * GIB) - weights
                self._readings.set_bytes("non_torch", place, size, GIB // 50)
            if reserve is None and float(graphs) == 0:
                reserve = 0
            if reserve is not None:
                self._readings.set_bytes("activation", place, round(float(peak) * GIB) - reserve, GIB // 50)
            if "graphs" not in self._readings:
                self._readings.size("graphs", place, graphs, GIB)
        self._consumed.clear()


def _place(line: str, end: int) -> str:
    """The rank that printed the line: the last worker named before ``end``, with its process where names are alike."""
    name = ""
    for found in _RANK.finditer(line, max(0, end - 400), end):
        generic = found[1] in _GENERIC
        if found[2] or "rank=" in found[1] or found[1].startswith(("Worker", "EngineCore", "VllmWorker")):
            name = f"{found[1]} {found[2]}" if generic and found[2] else found[1]
    return name


def _without_images(line: str) -> bool:
    limits = re.search(r"limit_mm_per_prompt['\"]?\s?[:=]\s?\{([^{}]{0,300})\}", line)
    counts = re.findall(r"['\"]?image['\"]?\s?:\s?([0-9]+)", limits[1]) if limits else []
    return counts == ["0"]


def _is_given(line: str, name: str) -> bool:
    value = argument(line, name)
    if value is None:
        return re.search(rf"(?<![\w-])['\"]?{name}['\"]?\s?[:=]\s?[{{\[(\w]*[{{\[]", line) is not None
    return value not in ("False", "0", "0.0", "0.00", "{}")
