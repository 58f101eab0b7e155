"""moeplan: a deployment planner and hardware capacity calculator for very large mixture-of-experts models.

The public API::

    from moeplan import plan, estimate, memory, detect, check, load_model

    best = plan("kimi-k2.5", gpu=["8xH200"], concurrency=16).candidates[0]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["__version__", "check", "detect", "estimate", "load_model", "memory", "plan"]

if TYPE_CHECKING:
    from moeplan.api import check, detect, estimate, load_model, memory, plan


def __getattr__(name: str) -> object:
    # The API pulls in pydantic and the facts; `moeplan --help` must not pay for them.
    if name in __all__:
        from moeplan import api

        found: object = getattr(api, name)
        return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
