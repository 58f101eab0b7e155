"""One value of a machine, and where it comes from.

Everything read from a machine is a `Fact`, so that a plan can say on what it rests. A value that could
not be had is a fact too: `value` is None and `reason` says why. `unlimited` is the one case in which
None is an answer: a limit that is not set.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Generic, Literal, Self, TypeVar, overload

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

Provenance = Literal["measured", "reported", "table", "assumed"]
"""measured: timed here; reported: by a driver or the kernel; table: a published figure; assumed: neither."""

MAX_TEXT_LENGTH = 4096
# Control characters are refused because these strings end on terminals and in one-line messages.
_CONTROL = r"\x00-\x1f\x7f-\x9f"
_CONTROL_CHARACTERS = re.compile(f"[{_CONTROL}]")

Text = Annotated[str, Field(max_length=MAX_TEXT_LENGTH, pattern=f"^[^{_CONTROL}]*$")]
# The upper bounds keep sums of such numbers finite; between them NaN and infinity are refused too.
Natural = Annotated[int, Field(ge=0, le=2**63 - 1)]
NonNegative = Annotated[float, Field(ge=0, le=1e30)]


def _is_none(value: object) -> bool:
    return value is None


def _is_false(value: object) -> bool:
    return value is False


Maybe = Annotated[T | None, Field(exclude_if=_is_none)]
"""Optional and left out of the JSON while it is None. A field still needs `= None`."""


class Model(BaseModel):
    """Frozen, strict, closed to unknown keys, and built on first use so that importing stays cheap."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        defer_build=True,
        populate_by_name=True,
    )


class Fact(Model, Generic[T_co]):
    """A value with its source.

    source: the call, file or option it comes from. raw: the text as read, where it says more than the value.
    at: when, where that is not the time of the inventory (a measurement of an earlier day).
    Exactly one of `value`, `reason` (why it is missing) and `unlimited` is set.
    """

    value: T_co | None
    source: Text
    provenance: Provenance
    raw: Maybe[Text] = None
    reason: Maybe[Text] = None
    at: Maybe[AwareDatetime] = None
    unlimited: Annotated[bool, Field(exclude_if=_is_false)] = False

    @model_validator(mode="after")
    def _one_answer(self) -> Self:
        if (self.value is not None) + (self.reason is not None) + self.unlimited != 1:
            raise ValueError("exactly one of value, reason and unlimited must be given")
        return self

    @classmethod
    def reported(cls, value: T_co, source: str, raw: str | None = None) -> Self:  # type: ignore[misc]
        """What a driver or the kernel says."""
        return cls(value=value, source=source, provenance="reported", raw=raw)

    @classmethod
    def missing(cls, source: str, reason: str, raw: str | None = None) -> Self:
        """What `source` was asked for and did not say, because of `reason`."""
        return cls(value=None, source=source, provenance="reported", raw=raw, reason=reason)

    @classmethod
    def no_limit(cls, source: str, raw: str | None = None) -> Self:
        """A limit that `source` says is not set."""
        return cls(value=None, source=source, provenance="reported", raw=raw, unlimited=True)


class IntFact(Fact[Natural]):
    """A count, or bytes."""


class FloatFact(Fact[NonNegative]):
    """Bytes per second, watts, or cores."""


class TextFact(Fact[Text]):
    """A name, a version, a state."""


class BoolFact(Fact[bool]):
    """A switch."""


class IntsFact(Fact[tuple[Natural, ...]]):
    """A set of numbers; the empty one is a value."""


class TextsFact(Fact[tuple[Text, ...]]):
    """A set of names; the empty one is a value."""


def known(fact: Fact[T] | None) -> T | None:
    """The value of a fact, or None when it is missing or was never asked for."""
    return None if fact is None else fact.value


# bool first, here and below: a bool is an int too.
@overload
def described(value: bool, source: str, provenance: Provenance = ...) -> BoolFact: ...  # type: ignore[overload-overlap]
@overload
def described(value: int, source: str, provenance: Provenance = ...) -> IntFact: ...
@overload
def described(value: float, source: str, provenance: Provenance = ...) -> FloatFact: ...
@overload
def described(value: str, source: str, provenance: Provenance = ...) -> TextFact: ...
@overload
def described(value: tuple[str, ...], source: str, provenance: Provenance = ...) -> TextsFact: ...
def described(
    value: bool | float | str | tuple[str, ...], source: str, provenance: Provenance = "assumed"
) -> Fact[Any]:
    """A fact of a machine that is described, not detected.

    `described(512 * 2**30, "--ram 512GiB")` is assumed, because nobody looked; a published figure is
    `described(4.8e12, "hardware/h200-sxm-141", "table")`. Raises ValueError on a negative number.
    """
    kinds: tuple[tuple[type, type[Fact[Any]]], ...] = (
        (bool, BoolFact),
        (int, IntFact),
        (float, FloatFact),
        (str, TextFact),
        (tuple, TextsFact),
    )
    kind = next(fact for python_type, fact in kinds if isinstance(value, python_type))
    return kind(value=value, source=source, provenance=provenance)


def printable(text: str) -> str:
    r"""`text` fit for a fact: control characters as `\xNN`, cut at `MAX_TEXT_LENGTH`.

    >>> printable("NVIDIA\x1b[2J H200")
    'NVIDIA\\x1b[2J H200'
    """
    clean = _CONTROL_CHARACTERS.sub(lambda match: f"\\x{ord(match.group()):02x}", text)
    return clean.encode("utf-8", "backslashreplace").decode("utf-8")[:MAX_TEXT_LENGTH]
