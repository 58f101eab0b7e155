"""YAML as the container tools read it; text that came from a plan always in double quotes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import yaml


class Quoted(str):
    """Text written in double quotes, so that no reader takes ``on``, ``1e3`` or ``0.9`` for something else."""

    __slots__ = ()


class _Dumper(yaml.SafeDumper):
    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        """Items of a list are indented below their key."""
        del indentless
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: object) -> bool:
        """Every value is written out: anchors help no reader."""
        del data
        return True


def _represented(dumper: yaml.SafeDumper, value: Quoted) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", str(value), style='"')


_Dumper.add_representer(Quoted, _represented)


def yaml_text(comments: Iterable[str], documents: Iterable[dict[str, Any]]) -> str:
    """The documents, keys in their order, below the comments."""
    head = "".join(f"# {comment}\n" for comment in comments)
    texts = [
        yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10_000, default_flow_style=False)
        for document in documents
    ]
    return head + "---\n".join(texts)
