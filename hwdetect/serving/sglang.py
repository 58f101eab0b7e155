"""Start-up logs of SGLang, and of the SGLang that runs KTransformers' CPU experts.

Formats: the lines of 0.4 to 0.5 follow published start-up logs (sgl-project/sglang issues 6001 and 9856 and pull
requests 4826 and 12978; Kimi K2.5 on 8x MI355X with 0.5.8; kvcache-ai/ktransformers issue 1804). Nothing here was
printed by an SGLang that we ran. Sizes that it labels GB are GiB.
"""

from __future__ import annotations

import re
from typing import Final

from formulas.units import GIB
from hwdetect.serving.observation import Engine, Observation
from hwdetect.serving.readings import NUMBER, Readings, argument

MARKS: Final = (
    "ServerArgs(",
    "Load weight end",
    "Init torch distributed end",
    "KV Cache is allocated",
    "graph end",
    "max_total_num_tokens=",
    "sglang version",
    "--mem-fraction-static",
    "Loaded weights leave no GPU memory",
    "out of memory",
)
"""What a line needs for anything here to be in it."""

_RANK: Final = re.compile(r"\[[0-9-]{8,10}[ T][0-9:.,]{5,16} ((?:[A-Z]{2,4}[0-9]{1,5} ?){1,6})\]")
_WEIGHTS: Final = re.compile(rf"Load weight end\..{{0,300}}? mem usage={NUMBER} GB")
_DISTRIBUTED: Final = re.compile(rf"Init torch distributed ends?\..{{0,80}}?mem usage={NUMBER} GB")
_KV: Final = re.compile(
    rf"KV Cache is allocated\.(?:[^#]{{0,80}}#tokens: ([0-9]{{1,15}}),)? "
    rf"(?:K size: {NUMBER} GB, V size: {NUMBER} GB|KV size: {NUMBER} GB)"
)
_GRAPHS: Final = re.compile(rf"Capture .{{0,40}}graph end\..{{0,60}}?mem usage={NUMBER} GB")
_TOKENS: Final = re.compile(r"max_total_num_tokens=([0-9]{1,15})")
_CONTEXT: Final = re.compile(r"context_len=([0-9]{1,12})")
_REQUESTS: Final = re.compile(r"max_running_requests=([0-9]{1,9})")
_FAILURE: Final = re.compile(
    r"(Not enough memory\. Please try to increase --mem-fraction-static|Loaded weights leave no GPU memory"
    r"|CUDA out of memory|HIP out of memory|OutOfMemoryError)"
)

_ARGUMENTS: Final = {
    "tp_size": "tp",
    "pp_size": "pp",
    "dp_size": "dp",
    "ep_size": "ep",
    "dcp_size": "dcp",
    "context_length": "max_model_len",
    "chunked_prefill_size": "max_num_batched_tokens",
    "max_running_requests": "max_num_seqs",
}
_COUNT: Final = re.compile(r"[0-9]{1,12}")
_KV_DTYPES: Final = {"fp8_e4m3": "fp8", "fp8_e5m2": "fp8"}
_UNPRICED: Final = (
    "speculative_algorithm",
    "enable_lora",
    "lora_paths",
    "cpu_offload_gb",
    "max_total_tokens",
    "quantization",
    "ep_num_redundant_experts",
    "enable_hierarchical_cache",
    "enable_double_sparsity",
)


class SglangReader:
    """Collects what the lines of one log say; the last start-up in it counts."""

    def __init__(self) -> None:
        self._readings = Readings()
        self._arguments = ""
        self._context: str | None = None
        self._version: str | None = None
        self._failure: str | None = None
        self._drafts: set[tuple[str, str]] = set()
        self._extra: set[str] = set()

    def feed(self, line: str) -> None:
        """One line of the log, any line."""
        if "ServerArgs(" in line:
            if self._readings:
                self._restart()
            self._arguments = self._arguments or line
            return
        rank = _RANK.search(line)
        place = rank[1].strip() if rank else ""
        self._sizes(line, place)
        tokens, context = _TOKENS.search(line), _CONTEXT.search(line)
        if tokens is not None and "chunked_prefill_size=" in line:
            self._readings.count("kv_tokens", place, tokens[1])
            self._context = context[1] if context else self._context
        version = re.search(r"sglang version:? ?v?([0-9]+(?:\.[0-9]+){1,3}\S{0,40})", line)
        failure = _FAILURE.search(line)
        self._version = version[1] if version else self._version
        self._failure = failure[1] if failure else self._failure

    def _sizes(self, line: str, place: str) -> None:
        """Sizes of a line. Of a second model on the rank, a drafter's, nothing is taken: it is not the model's."""
        for term, pattern in (("weights", _WEIGHTS), ("non_torch", _DISTRIBUTED)):
            found = pattern.search(line)
            if found is not None and self._is_first(term, place):
                self._readings.size(term, place, found[1], GIB)  # type: ignore[arg-type]
        found = _KV.search(line)
        if found is not None and self._is_first("kv_cache", place):
            for number in found.groups()[1:]:
                if number is not None:
                    self._readings.add_size("kv_cache", place, number, GIB)
            if found[1] is not None:
                self._readings.count("kv_tokens", place, found[1])
        found = _GRAPHS.search(line)
        if found is not None:
            self._readings.add_size("graphs", place, found[1], GIB)

    def _is_first(self, term: str, place: str) -> bool:
        if (term, place) in self._drafts:
            self._extra.add(place)
            return False
        self._drafts.add((term, place))
        return True

    def observation(self) -> Observation | None:
        """What was found; None where it is no start-up of SGLang."""
        if not (self._readings or (self._arguments and self._failure)):
            return None
        engine: Engine = "ktransformers" if self._given("kt_weight_path") else "sglang"
        notes = ["a second model was loaded, such as a drafter: it is not counted"] if self._extra else []
        return Observation(
            engine=engine,
            version=self._version,
            model=argument(self._arguments, "model_path"),
            settings=self._settings(),
            unpriced=tuple(name for name in _UNPRICED if self._given(name)),
            measurements=self._readings.measurements(),
            failure=self._failure,
            notes=tuple(notes),
        )

    def _settings(self) -> dict[str, str | bool]:
        settings: dict[str, str | bool] = {}
        for name, setting in _ARGUMENTS.items():
            value = argument(self._arguments, name)
            if value is not None and _COUNT.fullmatch(value):
                settings[setting] = value
        if self._context:
            settings.setdefault("max_model_len", self._context)
        fraction = argument(self._arguments, "mem_fraction_static")
        if fraction is not None and re.fullmatch(r"0?\.[0-9]{1,30}", fraction):
            settings["gpu_memory_utilization"] = f"{float(fraction):.6f}"
        dtype = argument(self._arguments, "kv_cache_dtype")
        if dtype not in (None, "auto", "bfloat16", "bf16"):
            settings["kv_dtype"] = _KV_DTYPES.get(str(dtype), str(dtype))
        if argument(self._arguments, "disable_cuda_graph") == "True":
            settings["enforce_eager"] = True
        return settings

    def _given(self, name: str) -> bool:
        value = argument(self._arguments, name)
        return value not in (None, "False", "0", "-1", "none")

    def _restart(self) -> None:
        self._readings.forget()
        self._drafts.clear()
        self._extra.clear()
        self._arguments = ""
        self._context = self._failure = None
