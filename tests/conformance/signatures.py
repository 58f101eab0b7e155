"""Whether the calls in a file fit the functions that another package's source defines; nothing of it is imported."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

_FUNCTIONS: Final = (ast.FunctionDef, ast.AsyncFunctionDef)
_DEPTH: Final = 8
"""Of re-exports that are followed."""


class Call(NamedTuple):
    """A call of ``name`` (``Class.method`` of an instance) of a module; ``open`` where arguments are unpacked."""

    module: str
    name: str
    positional: int
    keywords: tuple[str, ...]
    open: bool
    line: int


def calls_of(path: Path, packages: frozenset[str], known: Mapping[str, tuple[str, str]]) -> list[Call]:
    """The calls of functions and methods of ``packages`` in a file.

    ``known`` says of names that no import statement gives which module they are, or which name of it.
    """
    found: list[Call] = []
    for scope in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(scope, _FUNCTIONS):
            found += _calls_in(scope, packages, known)
    # Functions lie within functions; each call counts once.
    return sorted(set(found), key=lambda call: (call.line, call.name))


def _calls_in(scope: ast.AST, packages: frozenset[str], known: Mapping[str, tuple[str, str]]) -> Iterator[Call]:
    names = dict(known)
    for node in ast.walk(scope):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] in packages:
            for alias in node.names:
                names[alias.asname or alias.name] = (node.module, alias.name)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] in packages:
                    names[alias.asname or alias.name] = (alias.name, "")
    for node in ast.walk(scope):
        # What a class of theirs makes is an instance, whose methods are looked up there.
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Name):
            made = names.get(node.value.func.id)
            if made is not None and made[1][:1].isupper():
                names |= {target.id: made for target in node.targets if isinstance(target, ast.Name)}
    for node in ast.walk(scope):
        if not isinstance(node, ast.Call):
            continue
        target = _target(node.func, names)
        if target is None:
            continue
        plain = [one for one in node.args if not isinstance(one, ast.Starred)]
        keywords = [one.arg for one in node.keywords if one.arg is not None]
        unpacked = len(plain) < len(node.args) or len(keywords) < len(node.keywords)
        yield Call(target[0], target[1], len(plain), tuple(keywords), unpacked, node.lineno)


def _target(function: ast.expr, names: Mapping[str, tuple[str, str]]) -> tuple[str, str] | None:
    if isinstance(function, ast.Name):
        found = names.get(function.id)
        return found if found is not None and found[1] else None
    if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
        found = names.get(function.value.id)
        if found is None:
            return None
        if found[1][:1].isupper():
            return found[0], f"{found[1]}.{function.attr}"
        return ".".join(filter(None, found)), function.attr
    return None


@dataclass
class Sources:
    """Packages as they lie in folders, read as text."""

    folders: tuple[Path, ...]
    _trees: dict[Path, ast.Module] = field(default_factory=dict)

    def misfit(self, call: Call) -> str | None:
        """Why a call does not fit what it calls; None where it does."""
        method = call.name.partition(".")[2]
        try:
            signature = self.signature(call.module, call.name)
        except LookupError as error:
            return str(error.args[0])
        arguments = [None] * (call.positional + bool(method or call.name[:1].isupper()))
        keywords = dict.fromkeys(call.keywords)
        try:
            (signature.bind_partial if call.open else signature.bind)(*arguments, **keywords)
        except TypeError as error:
            return f"{call.module}.{call.name}: {error}"
        return None

    def signature(self, module: str, name: str) -> inspect.Signature:
        """Of a function, a method, or the constructor of a class. Raises ``LookupError``."""
        outer, _, method = name.partition(".")
        place, found = self._definition(module, outer, _DEPTH)
        node: ast.AST | None = found
        if isinstance(found, ast.ClassDef):
            wanted = method or "__init__"
            node = _last(found.body, wanted)
            if node is None:
                raise LookupError(f"{place}.{outer} has no {wanted}")
        if not isinstance(node, _FUNCTIONS):
            raise LookupError(f"{place}.{name} is no function")
        return _signature(node.args)

    def _definition(self, module: str, name: str, depth: int) -> tuple[str, ast.AST]:
        """Where a name is defined, through imports and aliases. A submodule is a name, too."""
        path = self._path(module)
        if path is None:
            raise LookupError(f"there is no module {module}")
        node = _last(self._tree(path).body, name)
        if isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
            return module, node
        if depth and isinstance(node, ast.Assign) and isinstance(node.value, ast.Name):
            return self._definition(module, node.value.id, depth - 1)
        if depth and isinstance(node, ast.ImportFrom):
            real = next(alias.name for alias in node.names if (alias.asname or alias.name) == name)
            return self._definition(_source(node, module, path), real, depth - 1)
        for star in self._tree(path).body if depth and node is None else []:
            if isinstance(star, ast.ImportFrom) and star.names[0].name == "*":
                with suppress(LookupError):
                    return self._definition(_source(star, module, path), name, depth - 1)
        raise LookupError(f"{module} has no {name}")

    def _path(self, module: str) -> Path | None:
        for folder in self.folders:
            base = folder.joinpath(*module.split("."))
            for path in (base.with_suffix(".py"), base / "__init__.py"):
                if path.is_file():
                    return path
        return None

    def _tree(self, path: Path) -> ast.Module:
        if path not in self._trees:
            self._trees[path] = ast.parse(path.read_text(encoding="utf-8"))
        return self._trees[path]


def _source(node: ast.ImportFrom, module: str, path: Path) -> str:
    """The module that an import names, as seen from ``module`` in ``path``."""
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    base = package[: len(package) - (node.level - 1)] if node.level else []
    return ".".join([*base, *([node.module] if node.module else [])])


def _last(body: list[ast.stmt], name: str) -> ast.AST | None:
    """The last thing at the top of a module or class, also in its branches, that binds a name."""
    found: ast.AST | None = None
    for node in body:
        if isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
            if node.name == name:
                found = node
        elif isinstance(node, ast.Assign):
            if any(isinstance(target, ast.Name) and target.id == name for target in node.targets):
                found = node
        elif isinstance(node, ast.ImportFrom):
            if any((alias.asname or alias.name) == name for alias in node.names):
                found = node
        elif isinstance(node, (ast.If, ast.Try)):
            # The first branch is that of a machine which has what is asked for.
            found = _last(node.body, name) or found or _last(node.orelse, name)
    return found


def _signature(arguments: ast.arguments) -> inspect.Signature:
    kinds = inspect.Parameter
    plain = [*arguments.posonlyargs, *arguments.args]
    first_default = len(plain) - len(arguments.defaults)
    parameters = []
    for at, one in enumerate(plain):
        kind = kinds.POSITIONAL_ONLY if at < len(arguments.posonlyargs) else kinds.POSITIONAL_OR_KEYWORD
        parameters.append(kinds(one.arg, kind, default=None if at >= first_default else kinds.empty))
    if arguments.vararg:
        parameters.append(kinds(arguments.vararg.arg, kinds.VAR_POSITIONAL))
    for one, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        parameters.append(kinds(one.arg, kinds.KEYWORD_ONLY, default=kinds.empty if default is None else None))
    if arguments.kwarg:
        parameters.append(kinds(arguments.kwarg.arg, kinds.VAR_KEYWORD))
    return inspect.Signature(parameters)
