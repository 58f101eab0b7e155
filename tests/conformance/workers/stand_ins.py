"""Stand-ins for packages that an engine's sources import and that its argument handling never calls."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import types
from collections.abc import Sequence


class Refused(Exception):
    """The argument parser called `error`."""


class Anything:
    """Whatever a module body does with a package that is not there: decorate, annotate, derive."""

    def __getattr__(self, name: str) -> Anything:
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything()

    def __call__(self, *arguments: object, **options: object) -> Anything:
        return Anything()

    def __mro_entries__(self, bases: tuple[object, ...]) -> tuple[type, ...]:
        return ()

    def __or__(self, other: object) -> Anything:
        return self

    __ror__ = __or__


class AnyModule(types.ModuleType):
    """A module that has every name."""

    def __getattr__(self, name: str) -> Anything:
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything()


class StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the packages named, after everything else failed to."""

    def __init__(self, *packages: str) -> None:
        self._packages = packages

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.partition(".")[0] not in self._packages:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return AnyModule(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        if module.__name__ == "triton.runtime":
            # SGLang asks the driver which device there is, and takes an exception for "none".
            vars(module)["driver"] = None
