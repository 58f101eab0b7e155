"""Checked access to a ``config.json``: every number is an int inside its bounds, or there is one clear error."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from reprlib import Repr
from typing import Final

MAX_WIDTH: Final = 1 << 24
"""Largest accepted width: hidden sizes, FFN sizes, vocabularies, context lengths."""
MAX_LAYERS: Final = 10_000
MAX_EXPERTS: Final = 100_000
MAX_HEADS: Final = 1 << 16


class BadConfig(ValueError):
    """A value of the configuration is missing, of the wrong type or outside its bounds."""


class UnknownFamily(ValueError):
    """No reader gives this architecture's exact tensor list; the message names it and says why."""


class UnknownQuantization(UnknownFamily):
    """The tensors' storage formats cannot be derived exactly from this quantization configuration."""


_REPR: Final = Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 60
_REPR.maxlevel = 2


def shown(value: object) -> str:
    """A value for an error line: one printable line of readable length, whatever it is."""
    try:
        text = _REPR.repr(value)
    except (ValueError, RecursionError):  # an int of thousands of digits has no decimal form
        return f"a very large {type(value).__name__}"
    return text if len(text) <= 100 and text.isprintable() else f"{ascii(text[:100])[1:-1]}..."


class Fields:
    """A JSON object whose values are read by name and checked.

    ``path`` is the dotted name of the object, for error lines.
    """

    __slots__ = ("_values", "path")

    def __init__(self, values: object, path: str = "") -> None:
        if not isinstance(values, Mapping):
            raise BadConfig(f"{path or 'config.json'} must be an object, not {shown(values)}")
        self._values: Mapping[str, object] = values
        self.path = path

    def name(self, key: str) -> str:
        """The dotted name of a key."""
        return f"{self.path}.{key}" if self.path else key

    def has(self, key: str) -> bool:
        """Whether the key has a value other than null."""
        return self._values.get(key) is not None

    def raw(self, key: str) -> object:
        """The unchecked value, None when it is absent."""
        return self._values.get(key)

    def __iter__(self) -> Iterator[str]:
        """Every key."""
        return iter(self._values)

    def section(self, key: str) -> Fields:
        """The object under ``key``. Raises ``BadConfig`` when it is absent or not an object."""
        return Fields(self._required(key), self.name(key))

    def integer(self, key: str, default: int | None = None, *, low: int = 1, high: int = MAX_WIDTH) -> int:
        """An int with ``low <= value <= high``; ``default`` when absent or null, else ``BadConfig``."""
        value = self._values.get(key)
        if value is None and default is not None:
            return default
        return self._bounded(self._required(key), self.name(key), low, high)

    def flag(self, key: str, default: bool) -> bool:
        """A boolean."""
        value = self._values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise BadConfig(f"{self.name(key)} must be true or false, not {shown(value)}")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        """A string; ``default`` when absent or null."""
        value = self._values.get(key)
        if value is None and default is not None:
            return default
        value = self._required(key)
        if not isinstance(value, str):
            raise BadConfig(f"{self.name(key)} must be a string, not {shown(value)}")
        return value

    def choice(self, key: str, allowed: Sequence[str], default: str | None = None) -> str:
        """A string out of ``allowed``."""
        value = self.text(key, default)
        if value not in allowed:
            raise BadConfig(f"{self.name(key)} is {shown(value)}, allowed: {', '.join(allowed)}")
        return value

    def integers(self, key: str, *, low: int = 0, high: int = MAX_WIDTH, length: int | None = None) -> tuple[int, ...]:
        """A list of bounded ints, of exactly ``length`` entries when that is given."""
        return tuple(
            self._bounded(value, f"{self.name(key)}[{index}]", low, high)
            for index, value in enumerate(self._list(key, length))
        )

    def texts(self, key: str, allowed: Sequence[str] | None = None, length: int | None = None) -> tuple[str, ...]:
        """A list of strings, each out of ``allowed`` when that is given."""
        values = []
        for index, value in enumerate(self._list(key, length)):
            if not isinstance(value, str) or (allowed is not None and value not in allowed):
                wanted = "a string" if allowed is None else f"one of {', '.join(allowed)}"
                raise BadConfig(f"{self.name(key)}[{index}] must be {wanted}, not {shown(value)}")
            values.append(value)
        return tuple(values)

    def _required(self, key: str) -> object:
        value = self._values.get(key)
        if value is None:
            raise BadConfig(f"{self.name(key)} is missing")
        return value

    def _list(self, key: str, length: int | None) -> Sequence[object]:
        value = self._required(key)
        if not isinstance(value, list | tuple):
            raise BadConfig(f"{self.name(key)} must be a list, not {shown(value)}")
        if length is not None and len(value) != length:
            raise BadConfig(f"{self.name(key)} must have {length} entries, not {len(value)}")
        if len(value) > MAX_LAYERS * 10:
            raise BadConfig(f"{self.name(key)} must have at most {MAX_LAYERS * 10} entries, not {len(value)}")
        return value

    def _bounded(self, value: object, name: str, low: int, high: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise BadConfig(f"{name} must be an integer from {low} to {high}, not {shown(value)}")
        if not low <= value <= high:
            raise BadConfig(f"{name} must be from {low} to {high}, not {shown(value)}")
        return value


def divisible(fields: Fields, key: str, value: int, by: int, what: str) -> int:
    """``value / by``, or ``BadConfig`` when it does not divide."""
    if value % by:
        raise BadConfig(f"{fields.name(key)} {value} must be divisible by {what} {by}")
    return value // by
