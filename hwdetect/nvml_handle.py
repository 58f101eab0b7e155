"""One NVML device handle: every call on its own, and every failure a reason.

Any call may fail alone: not supported by the card, not in this driver, unknown. The caller gets a fact without
value and never 0.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeVar

from hwdetect.facts import Fact, printable

# NVML_VALUE_NOT_AVAILABLE in its 32 and 64 bit forms.
_NOT_AVAILABLE = (0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF)

F = TypeVar("F", bound=Fact[Any])
Answer = Any
"""What the binding hands back: a number, text, a list or a ctypes structure. It has no types of its own."""


class NotGiven(Exception):
    """A call succeeded and yet gave no value."""


class Handle:
    """One NVML device handle, and whether the GPU was lost while it was asked."""

    def __init__(self, nvml: ModuleType, raw: Answer) -> None:
        self.nvml = nvml
        self.raw = raw
        self.lost = False

    def ask(self, function: str, *arguments: Answer) -> Answer:
        """The call's own value. Raises NotGiven with the reason, whatever goes wrong."""
        try:
            value = getattr(self.nvml, function)(self.raw, *arguments)
        except self.nvml.NVMLError as error:
            self.lost = self.lost or error.value == self.nvml.NVML_ERROR_GPU_IS_LOST
            raise NotGiven(printable(str(error))) from error
        except Exception as error:  # an old binding lacks the function; a name may not be UTF-8
            raise NotGiven(printable(f"{type(error).__name__}: {error}")) from error
        if value in _NOT_AVAILABLE:
            raise NotGiven("reported as not available")
        return value

    def fact(self, kind: type[F], function: str, pick: Callable[[Answer], Any] | None = None) -> F:
        """One call as a fact; `pick` takes the value out of what it returns and may raise NotGiven."""
        try:
            value = self.ask(function)
            return kind.reported(value if pick is None else pick(value), function)
        except NotGiven as error:
            return kind.missing(function, str(error))
        except ValueError:
            return kind.missing(function, "reported an impossible value")


def choice(names: dict[int, str]) -> Callable[[int], str]:
    """Numbers of an enumeration as their names."""
    return lambda number: names.get(number, f"unknown ({number})")


def watts(milliwatts: int) -> float:
    """Milliwatts as watts. Raises NotGiven for 0."""
    return not_zero(milliwatts) / 1000


def not_zero(number: int) -> int:
    """The number itself. Raises NotGiven for 0, which NVML answers where it knows nothing."""
    if number == 0:
        raise NotGiven("reported as 0")
    return number
