"""How an engine is served: ports, health, keys, container images; the tables ``[serving]`` and ``[[image]]``.

They stand in the engine's fact file, ``profiles/engines/<engine>.toml``.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from profiles.engines import engine_table, version_tuple


class Serving(NamedTuple):
    """What an operator needs to know of an engine beside its flags.

    The server answers on ``port`` and says on ``health`` whether it is ready. Nodes meet on ``head_port``. The API key
    is read from ``api_key_variable``; where the engine takes it as a flag only, ``api_key_flag`` is that flag.
    ``revision_flag`` pins the commit of a repository on the Hub.
    ``ready_variable`` names the seconds that the engine grants its own start. ``needs_folder``: the weights must lie in
    a folder, a repository's name is not enough. ``image_program`` is what starts the engine in its container image.
    ``packages`` are what pip installs, with ``{version}`` for the engine's; none for a program of another kind.
    """

    port: int
    health: str
    head_port: int | None
    api_key_variable: str
    api_key_flag: str | None
    revision_flag: str | None
    ready_variable: str | None
    shm_bytes: int | None
    needs_folder: bool
    image_program: tuple[str, ...] | None
    packages: tuple[str, ...]
    repository: str
    source: str


class EngineImage(NamedTuple):
    """A container image of exactly one version, and where that tag is documented."""

    reference: str
    source: str


@cache
def load_serving(engine: str) -> Serving:
    """The ``[serving]`` table of an engine. Raises ``KeyError`` for an incomplete one."""
    table = engine_table(engine)["serving"]
    program = table.get("image_program")
    return Serving(
        port=table["port"],
        health=table["health"],
        head_port=table.get("head_port"),
        api_key_variable=table["api_key_variable"],
        api_key_flag=table.get("api_key_flag"),
        revision_flag=table.get("revision_flag"),
        ready_variable=table.get("ready_variable"),
        shm_bytes=table.get("shm_bytes"),
        needs_folder=table.get("needs_folder", False),
        image_program=None if program is None else tuple(program),
        packages=tuple(table.get("packages", ())),
        repository=engine_table(engine)["repository"],
        source=table["source"],
    )


def engine_image(engine: str, version: str, vendor: str | None) -> EngineImage | None:
    """The image of that version for GPUs of ``vendor`` (None: no GPU); None where no tag is known.

    >>> engine_image("vllm", "0.18", "nvidia").reference
    'vllm/vllm-openai:v0.18.0'
    >>> engine_image("vllm", "0.18", None) is None
    True
    """
    number = version_tuple(version)
    for row in reversed(engine_table(engine).get("image", [])):
        since, until = row.get("since", "0"), row.get("until")
        known = number >= version_tuple(since) and (until is None or number < version_tuple(until))
        if known and row["vendor"] == (vendor or "none"):
            full = ".".join(str(part) for part in (*number, 0, 0)[: max(len(number), 3)])
            return EngineImage(row["image"].replace("{version}", full), row["source"])
    return None
