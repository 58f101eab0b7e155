"""Finding the key a name means: forgiving about spelling, strict about ambiguity."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_TRADEMARKS = re.compile(r"\((?:r|tm|c)\)|[®™©]")
_SEPARATORS = re.compile(r"[\s\-_/(),\u2010-\u2015]+")
_SHOWN_CHARACTERS = 60


class UnknownName(ValueError):
    """No key has this name; `candidates` are the nearest spellings, possibly none, and then `otherwise` says more."""

    def __init__(self, kind: str, text: str, candidates: Iterable[str] = (), otherwise: str = "") -> None:
        self.candidates = tuple(candidates)
        hint = f"; nearest: {', '.join(self.candidates)}" if self.candidates else otherwise
        super().__init__(f"unknown {kind} {_shown(text)}{hint}")


class AmbiguousName(ValueError):
    """Several keys could be meant, or the name says more than is known; `candidates` are the choice."""

    def __init__(self, kind: str, text: str, candidates: Iterable[str]) -> None:
        self.candidates = tuple(candidates)
        question = "did you mean" if len(self.candidates) == 1 else "choose one of:"
        super().__init__(f"{kind} {_shown(text)} is not clear; {question} {', '.join(self.candidates)}")


def near_names(text: str, known: Iterable[str], most: int, least: float) -> list[str]:
    """At most so many known names that are spelled alike, nearest first; ``least`` is the likeness, 1 for the same."""
    # Only for a mistake, and slow to load.
    from difflib import get_close_matches

    return get_close_matches(text, list(known), n=most, cutoff=least)


def _shown(text: str) -> str:
    quoted = repr(text)
    return quoted if len(quoted) <= _SHOWN_CHARACTERS else quoted[: _SHOWN_CHARACTERS - 4] + "...'"


@dataclass(frozen=True, slots=True)
class Speller:
    """How names of one kind are reduced to what distinguishes them.

    `brands` are words (lower case) that say nothing beside the product's number, and `noise` matches what an
    operating system or a data sheet adds to a name.
    """

    brands: tuple[str, ...]
    noise: re.Pattern[str]

    def words(self, text: str) -> list[str]:
        plain = self.noise.sub(" ", _TRADEMARKS.sub(" ", text.casefold()))
        return [word for word in _SEPARATORS.split(plain) if word]

    def bare(self, text: str) -> str:
        """`NVIDIA GeForce RTX-4090` -> `4090`: the words joined, without the brands in front."""
        joined = "".join(self.words(text))
        while brand := next((b for b in self.brands if joined.startswith(b) and joined != b), None):
            joined = joined.removeprefix(brand)
        return joined


@dataclass(frozen=True, slots=True)
class NameIndex:
    """The names of one kind of thing.

    `names` maps a bare name to the keys it may mean (one: it means that; several: it is refused). `families`
    maps the bare key without trailing size or form factor (`a100`, `a100sxm`) to the keys that share it.
    `models` are patterns over whole bare names, tried before anything that is not an exact name.
    """

    kind: str
    speller: Speller
    names: Mapping[str, tuple[str, ...]]
    families: Mapping[str, tuple[str, ...]]
    models: tuple[tuple[re.Pattern[str], tuple[str, ...]], ...] = ()

    @classmethod
    def build(
        cls,
        kind: str,
        speller: Speller,
        keys: Iterable[str],
        aliases: Iterable[Mapping[str, str | list[str]]],
        omissible: re.Pattern[str],
        models: tuple[tuple[re.Pattern[str], tuple[str, ...]], ...] = (),
    ) -> NameIndex:
        """`aliases` in falling precedence; a key's trailing words that match `omissible` may be left out."""
        names: dict[str, tuple[str, ...]] = {}
        families: dict[str, tuple[str, ...]] = {}
        for key in keys:
            names[speller.bare(key)] = (key,)
            words = key.split("-")
            while len(words) > 1 and omissible.fullmatch(words.pop()):
                family = speller.bare("-".join(words))
                families[family] = (*families.get(family, ()), key)
        for table in aliases:
            for name, meaning in table.items():
                names.setdefault(speller.bare(name), (meaning,) if isinstance(meaning, str) else tuple(meaning))
        return cls(kind, speller, names, families, models)

    def resolve(self, text: str) -> str:
        """The one key that `text` means; raises `UnknownName` or `AmbiguousName`."""
        bare = self.speller.bare(text)
        found = self.names.get(bare) or self._model(bare) or self.families.get(bare)
        if found is None:
            if overspecified := self._family_members(text):
                raise AmbiguousName(self.kind, text, overspecified)
            raise UnknownName(self.kind, text, self._nearest(bare))
        if len(found) > 1:
            raise AmbiguousName(self.kind, text, found)
        return found[0]

    def _model(self, bare: str) -> tuple[str, ...] | None:
        return next((keys for pattern, keys in self.models if pattern.fullmatch(bare)), None)

    def _family_members(self, text: str) -> tuple[str, ...]:
        """The keys of the longest family that `text` begins with, narrowed by the words after it."""
        words = self.speller.words(text)
        for end in range(len(words) - 1, 0, -1):
            members = self.families.get(self.speller.bare(" ".join(words[:end])))
            if members:
                rest = set(words[end:])
                return tuple(key for key in members if rest <= set(key.split("-"))) or members
        return ()

    def _nearest(self, bare: str) -> list[str]:
        spelled = near_names(bare[:_SHOWN_CHARACTERS], [*self.names, *self.families], 5, 0.5)
        keys = (key for name in spelled for key in (self.names.get(name) or self.families[name]))
        return list(dict.fromkeys(keys))[:3]
