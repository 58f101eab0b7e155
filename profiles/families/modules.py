"""Which modules a quantization configuration leaves out: matching of module names against its lists.

Every exporter writes such a list and each means something else by an entry:

- compressed-tensors: a whole module name, or ``re:`` and a regular expression that matches from the start;
- modelopt: a whole name, a part of one, or shell wildcards;
- transformers (fp8): a name or a module above it, the end of a name, or a path with ``*``;
- AutoAWQ: any part of a name;
- GPTQModel: a regular expression that matches from the start.

The patterns come from a file that nobody vouches for, so they are capped in number and length, and a regular
expression that could backtrack without bound is refused.

Sources: compressed-tensors ``match.py``; vLLM 0.33.0 ``quantization/modelopt.py`` and
``utils/quant_utils.py``; transformers 5.23 ``quantizers_utils.py``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from profiles.families.fields import BadConfig, shown

MAX_PATTERNS: Final = 20_000
MAX_REGEXES: Final = 1_000
MAX_PATTERN_LENGTH: Final = 200
MAX_REPEATS: Final = 4
"""Repeats in one regular expression; each beyond the second may multiply a match's time by a name's length."""
MAX_ALTERNATIVES: Final = 4_096
"""Ways through the groups of one regular expression."""
MAX_WORK: Final = 2_000_000
"""Bound on names x patterns, a pattern weighted by its worst case relative to one with two repeats."""

_WEIGHT: Final = (1, 1, 1, 20, 300)
# Repeated groups, look-around and flags, back references, repeated repeats, long counts, and what ``re`` warns may one
# day mean set operations.
_REFUSED_SYNTAX: Final = re.compile(r"\)[*+{]|\(\?(?!:)|\\[1-9]|[*+}?]\s*[*+{]|\{\d{3}|\[\[|--|&&|~~|\|\|")
_REPEAT: Final = re.compile(r"(?<!\\)[*+]\??|(?<![\\(])\?|\{\d*,\d*\}")
_SAME_IN_EVERY_LAYER: Final = re.compile(r"(?:\.\*|\\\.|[A-Za-z_|()^$])*")


class ModuleFilter:
    """A set of module names, given by patterns. ``work_per_name`` weighs the cost of one ``matches``."""

    __slots__ = ("_containing", "_ends", "_exact", "_regexes", "_starts", "layer_free", "work_per_name")

    def __init__(
        self,
        *,
        exact: Iterable[str] = (),
        starts: Iterable[str] = (),
        ends: Iterable[str] = (),
        containing: Iterable[str] = (),
        regexes: Sequence[str] = (),
    ) -> None:
        self._exact = frozenset(exact)
        self._starts = tuple(starts)
        self._ends = tuple(ends)
        self._containing = tuple(containing)
        self._regexes = tuple([re.compile(source).match for source in regexes])
        plain = (*self._exact, *self._starts, *self._ends, *self._containing)
        self.layer_free = not any(map(_has_digit, plain)) and all(map(_SAME_IN_EVERY_LAYER.fullmatch, regexes))
        """Whether no pattern can tell one layer from another, so that one layer speaks for all."""
        self.work_per_name = 1 + len(plain) // 100 + sum(map(_weight, regexes))

    def matches(self, name: str) -> bool:
        """Whether the module belongs to the set."""
        if name in self._exact or name.startswith(self._starts) or name.endswith(self._ends):
            return True
        return any(part in name for part in self._containing) or any(match(name) for match in self._regexes)


class ListedModules:
    """A set of modules given by whole names: those listed, and all that lie below them."""

    __slots__ = ("_names",)

    layer_free = False
    work_per_name = 1

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(names)

    def matches(self, name: str) -> bool:
        """Whether the module or one above it is listed."""
        while name:
            if name in self._names:
                return True
            name = name.rpartition(".")[0]
        return False


Modules = ModuleFilter | ListedModules
"""A set of modules. ``layer_free`` says that layers do not differ, ``work_per_name`` what one ``matches`` costs."""


def compressed_tensors(patterns: Sequence[str], where: str) -> ModuleFilter:
    """``ignore`` or ``targets`` of compressed-tensors. ``where`` names the list in an error."""
    _check(patterns, where)
    sources = [pattern[3:] for pattern in patterns if pattern.startswith("re:")]
    plain = [pattern for pattern in patterns if not pattern.startswith("re:")]
    return ModuleFilter(exact=plain, regexes=_regexes(sources, where))


def modelopt(patterns: Sequence[str], where: str) -> ModuleFilter:
    """``exclude_modules`` of modelopt, ``ignore`` in its newer files."""
    _check(patterns, where)
    if bad := next((pattern for pattern in patterns if "[" in pattern), None):
        raise BadConfig(f"{where} has the pattern {shown(bad)}: the wildcards allowed are * and ?")
    plain = [pattern for pattern in patterns if not _is_wild(pattern)]
    starts = [pattern[:-1] for pattern in patterns if pattern.endswith("*") and not _is_wild(pattern[:-1])]
    others = [_wildcard(pattern) + "$" for pattern in patterns if _is_wild(pattern[:-1]) or pattern.endswith("?")]
    return ModuleFilter(exact=plain, containing=plain, starts=starts, regexes=_regexes(others, where))


def transformers(patterns: Sequence[str], where: str) -> ModuleFilter:
    """``modules_to_not_convert`` as transformers reads it."""
    _check(patterns, where)
    plain = [pattern for pattern in patterns if "*" not in pattern]
    wild = [rf"{_wildcard(pattern)}(?:\.|$)" for pattern in patterns if "*" in pattern]
    return ModuleFilter(
        exact=plain, starts=[f"{pattern}." for pattern in plain], ends=plain, regexes=_regexes(wild, where)
    )


def autoawq(patterns: Sequence[str], where: str) -> ModuleFilter:
    """``modules_to_not_convert`` as AutoAWQ reads it."""
    _check(patterns, where)
    return ModuleFilter(containing=patterns)


def gptqmodel(patterns: Sequence[str], where: str) -> ModuleFilter:
    """The keys of ``dynamic`` as GPTQModel reads them, without their sign: regular expressions from the start."""
    _check(patterns, where)
    return ModuleFilter(regexes=_regexes(patterns, where))


def _has_digit(text: str) -> bool:
    return any(character in "0123456789" for character in text)


def _is_wild(pattern: str) -> bool:
    return "*" in pattern or "?" in pattern


def _wildcard(pattern: str) -> str:
    """Shell wildcards as a regular expression."""
    return re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")


def _check(patterns: Sequence[str], where: str) -> None:
    if len(patterns) > MAX_PATTERNS:
        raise BadConfig(f"{where} must have at most {MAX_PATTERNS} entries, not {len(patterns)}")
    for pattern in patterns:
        if not 0 < len(pattern) <= MAX_PATTERN_LENGTH:
            raise BadConfig(f"{where} must have entries of 1 to {MAX_PATTERN_LENGTH} characters, not {shown(pattern)}")


def _repeats(source: str) -> int:
    """Repeats, but not one at the very end, which cannot backtrack when only the start must match."""
    return len(_REPEAT.findall(_without_open_end(source)))


def _without_open_end(source: str) -> str:
    return source if source.endswith("\\.*") else source.removesuffix(".*")


def _alternatives(source: str) -> int:
    """Ways through the groups: the product of their alternatives."""
    ways, open_groups = 1, [1]
    for character in source:
        if character == "(":
            open_groups.append(1)
        elif character == "|":
            open_groups[-1] += 1
        elif character == ")" and len(open_groups) > 1:
            ways *= open_groups.pop()
    return ways * open_groups[0]


def _weight(source: str) -> int:
    return _WEIGHT[_repeats(source)] * _alternatives(source)


def _regexes(sources: Sequence[str], where: str) -> list[str]:
    """The expressions, each without a ``.*`` at its end. Raises ``BadConfig`` for those that are refused."""
    if len(sources) > MAX_REGEXES:
        raise BadConfig(f"{where} must have at most {MAX_REGEXES} patterns, not {len(sources)}")
    for source in sources:
        if _REFUSED_SYNTAX.search(source) or _repeats(source) > MAX_REPEATS or _alternatives(source) > MAX_ALTERNATIVES:
            raise BadConfig(f"{where} has the pattern {shown(source)}: allowed are {MAX_REPEATS} repeats, none nested")
        try:
            re.compile(source)
        except (re.error, OverflowError, RecursionError) as error:
            raise BadConfig(f"{where} has the pattern {shown(source)}: {error}") from error
    return [_without_open_end(source) for source in sources]


NO_MODULES: Final = ModuleFilter()
