"""The engines, one file each, found by name."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Final, cast

from planner.engines.base import Engine
from planner.errors import BadRequest

_MODULES: Final = {
    "vllm": "planner.engines.vllm",
    "sglang": "planner.engines.sglang",
    "llama.cpp": "planner.engines.llamacpp",
    "ktransformers": "planner.engines.ktransformers",
}
_ANSWERED: Final = {"tensorrt-llm": "planner.engines.tensorrt_llm"}
ENGINE_NAMES: Final = tuple(_MODULES)
NAMED_ENGINES: Final = (*_MODULES, *_ANSWERED)
"""What ``--engine`` takes: the engines that are searched, and those of which only is said why they are not."""


@cache
def load_engine_model(name: str) -> Engine:
    """The engine of that name. Raises ``BadRequest`` naming the engines there are."""
    module = _MODULES.get(name) or _ANSWERED.get(name)
    if module is None:
        raise BadRequest(f"unknown engine {name[:40]!r}; known are {', '.join(ENGINE_NAMES)}")
    return cast(Engine, import_module(module).ENGINE)
