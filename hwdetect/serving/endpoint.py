"""What a running server says of itself: models, engine, version, and the size of its KV cache.

Names of metrics and fields are those that the engines publish (tests/conformance reads them in the engines themselves):
vLLM ``vllm:cache_config_info`` and ``/version`` (github.com/vllm-project/vllm, vllm/v1/metrics/loggers.py and
entrypoints/serve/instrumentator/basic.py), SGLang ``sglang:max_total_num_tokens`` (only with ``--enable-metrics``) and
``/server_info``, once ``/get_server_info`` (github.com/sgl-project/sglang, python/sglang/srt/observability and
entrypoints/http_server.py), llama.cpp ``/props`` (github.com/ggml-org/llama.cpp, tools/server/README.md).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from hwdetect.serving.client import Broken, Server, get_json, get_text

TIMEOUT_S: Final = 10.0
MAX_MODELS: Final = 100
_LABELS: Final = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')
_SAMPLE: Final = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(\{[^\n]*\})?\s+([0-9eE.+\-]+|NaN|[+-]Inf)")


class Endpoint(NamedTuple):
    """A server's own account of itself; None is what it does not say. ``kv_source`` names where the tokens stand.

    llama.cpp tells the length of a slot and their number, and not whether they share one cache: then ``kv_tokens`` is
    None and ``slots`` is not. ``kv_of_rank``: the tokens are those of one rank, of which a divided context has several.
    """

    models: tuple[str, ...]
    engine: str | None
    version: str | None
    max_model_len: int | None
    kv_tokens: int | None
    kv_source: str
    answered: tuple[str, ...]
    notes: tuple[str, ...]
    slots: int | None = None
    kv_of_rank: bool = False


def read_endpoint(server: Server) -> Endpoint:
    """Ask every address that an engine is known to answer on.

    Raises ``Unreachable`` where nothing listens, ``Broken`` where ``/v1/models`` is no list of models.
    """
    listed = get_json(server, "/v1/models", TIMEOUT_S)
    models, longest, owners = _models(listed)
    answered = ["/v1/models"]
    notes: list[str] = []

    def asked(path: str, *, text: bool = False) -> Any:  # noqa: ANN401
        try:
            value = (get_text if text else get_json)(server, path, TIMEOUT_S)
        except Broken as error:
            if error.status != 404:
                notes.append(f"{path}: {error}")
            return None
        answered.append(path)
        return value

    metrics = asked("/metrics", text=True) or ""
    samples = read_metrics(metrics)
    names = {name.partition(":")[0] for name, _, _ in samples}
    props = None if "vllm" in names or "sglang" in names else _mapping(asked("/props"))
    engine = _engine(names, owners, props)
    version: str | None = None
    kv: tuple[int | None, str] = (None, "")
    slots: int | None = None
    of_rank = False
    if engine == "vllm":
        version = _text(_mapping(asked("/version")).get("version"))
        tokens, of_rank = _vllm_tokens(samples)
        kv = tokens, "/metrics, vllm:cache_config_info"
    elif engine == "sglang":
        # The second is the older name, which 0.5.23 still answers.
        place = "/server_info"
        info = _mapping(asked(place))
        if not info:
            place = "/get_server_info"
            info = _mapping(asked(place))
        version = _text(info.get("version"))
        tokens = _gauge(samples, "sglang:max_total_num_tokens")
        kv = (tokens, "/metrics, sglang:max_total_num_tokens") if tokens else (_sglang_tokens(info), place)
    elif engine == "llama.cpp" and props is not None:
        version = _text(props.get("build_info"))
        longest = longest or _count(_mapping(props.get("default_generation_settings")).get("n_ctx"))
        slots = _count(props.get("total_slots"))
    return Endpoint(
        models, engine, version, longest, kv[0], kv[1] if kv[0] else "", tuple(answered), tuple(notes), slots, of_rank
    )


def read_metrics(text: str) -> list[tuple[str, dict[str, str], float]]:
    """Samples of the Prometheus text format: name, labels, value; what is none is left out."""
    found = []
    for line in text.splitlines():
        sample = _SAMPLE.match(line)
        if sample is None:
            continue
        try:
            value = float(sample[3])
        except ValueError:
            continue
        labels: dict[str, str] = dict(_LABELS.findall(sample[2] or ""))
        found.append((sample[1], labels, value))
    return found


def _models(listed: object) -> tuple[tuple[str, ...], int | None, set[str]]:
    rows = _mapping(listed).get("data")
    if not isinstance(rows, list):
        raise Broken("wrong JSON", "/v1/models: no list of models")
    named = [_mapping(row) for row in rows[:MAX_MODELS]]
    lengths = [_count(row.get("max_model_len")) for row in named]
    owners = {str(row.get("owned_by")) for row in named}
    names = tuple([str(row["id"])[:300] for row in named if isinstance(row.get("id"), str)])
    return names, max([length for length in lengths if length], default=None), owners


def _engine(names: set[str], owners: set[str], props: Mapping[str, Any] | None) -> str | None:
    for engine in ("vllm", "sglang"):
        if engine in names or engine in owners:
            return engine
    if "llamacpp" in names or "llamacpp" in owners or (props and "total_slots" in props):
        return "llama.cpp"
    return None


def _vllm_tokens(samples: list[tuple[str, dict[str, str], float]]) -> tuple[int | None, bool]:
    """Tokens of the engine with the fewest, since each data-parallel engine has its own; and whether of one rank.

    The engine's own count where it tells one (0.33 does, 0.19 does not), else blocks x tokens of a block.
    """
    whole, of_rank = [], []
    for name, labels, _ in samples:
        if name == "vllm:cache_config_info":
            blocks, size = _count(labels.get("num_gpu_blocks")), _count(labels.get("block_size"))
            own = _count(labels.get("kv_cache_size_tokens"))
            if own:
                whole.append(own)
            elif blocks and size:
                of_rank.append(blocks * size)
    return (min(whole), False) if whole else (min(of_rank, default=None), True)


def _gauge(samples: list[tuple[str, dict[str, str], float]], wanted: str) -> int | None:
    values = [int(value) for name, _, value in samples if name == wanted and 0 < value < 1e15]
    return min(values, default=None)


def _sglang_tokens(info: Mapping[str, Any]) -> int | None:
    states = info.get("internal_states")
    first = _mapping(states[0]) if isinstance(states, list) and states else {}
    return _count(info.get("max_total_num_tokens")) or _count(first.get("max_total_num_tokens"))


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str | None:
    return value[:100] if isinstance(value, str) and value else None


def _count(value: object) -> int | None:
    try:
        number = int(value) if isinstance(value, int | str) and not isinstance(value, bool) else 0
    except ValueError:
        return None
    return number if 0 < number < 1 << 50 else None
