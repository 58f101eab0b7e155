"""``--format systemd``: a unit for every node, and the file with the variables that are the operator's to set."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from moeplan.launch.deployment import Deployment, Node, file_name, label_of, remarks
from moeplan.launch.shell_text import REQUIRED, flag_groups, unknown_in
from moeplan.text_safe import printable
from planner.errors import BadRequest

SETTINGS_FOLDER: Final = "/etc/moeplan"
STARTS_ALLOWED: Final = 3
_GROUPS: Final = {"amd": ("SupplementaryGroups=render video",)}


def systemd_files(deployment: Deployment) -> dict[str, str]:
    """``NAME.service`` (``NAME-rank-N.service``) and ``NAME.env``. Raises ``BadRequest`` for GPUs without Linux."""
    if deployment.serving.gpu_vendor == "apple":
        raise BadRequest("systemd is Linux's, these GPUs are Apple's; write --format shell")
    units = {
        file_name(deployment, node, deployment.name, ".service"): "\n".join(_unit(deployment, node)) + "\n"
        for node in deployment.nodes
    }
    return {**units, f"{deployment.name}.env": "\n".join(_settings(deployment)) + "\n"}


def settings_path(deployment: Deployment) -> str:
    """Where the units look for the operator's variables."""
    return f"{SETTINGS_FOLDER}/{deployment.name}.env"


def engine_folder(deployment: Deployment) -> str:
    """Where the settings expect the engine's own environment."""
    return f"/opt/{label_of(deployment.candidate.engine.name)}"


def _unit(deployment: Deployment, node: Node) -> Iterator[str]:
    serving, name = deployment.serving, deployment.name
    yield f"# {deployment.title}: {deployment.place(node)}."
    yield f"# Written by {printable(deployment.generated_by)}."
    for remark in remarks(deployment):
        yield f"# Warning: {printable(remark)}."
    yield ""
    yield "[Unit]"
    yield f"Description={_escaped(deployment.title)}"
    yield "Wants=network-online.target"
    yield "After=network-online.target nvidia-persistenced.service"
    yield f"StartLimitIntervalSec={STARTS_ALLOWED * serving.startup_s}"
    yield f"StartLimitBurst={STARTS_ALLOWED}"
    yield ""
    yield "[Service]"
    yield "Type=exec"
    yield "DynamicUser=yes"
    yield from _GROUPS.get(serving.gpu_vendor or "", ())
    yield f"CacheDirectory={name}"
    yield f"WorkingDirectory=/var/cache/{name}"
    yield f"Environment=HOME=/var/cache/{name} HF_HOME=/var/cache/{name}/huggingface"
    for variable, value in sorted(deployment.env.items()):
        yield f"Environment={_quoted(f'{variable}={value}')}"
    yield f"EnvironmentFile={settings_path(deployment)}"
    for variable in deployment.unknowns:
        check = f'[ -n "$${variable}" ] || {{ echo "{variable}: {REQUIRED[variable]}" >&2; exit 1; }}'
        yield f"ExecStartPre=/bin/sh -c '{check}'"
    yield from _command(deployment, node)
    if node.rank == 0:
        # The unit is active when the server answers; a server that ended is not waited for.
        url = f"http://{deployment.client_host}:{deployment.port}{serving.health}".replace("%", "%%")
        wait = f'until curl --fail --silent --output /dev/null "{url}"; do kill -0 $MAINPID || exit 1; sleep 5; done'
        yield f"ExecStartPost=/bin/sh -c '{wait.replace('$', '$$')}'"
        yield f"TimeoutStartSec={serving.startup_s}"
    yield "TimeoutStopSec=60"
    yield "KillMode=mixed"
    yield "Restart=on-failure"
    yield "RestartSec=30"
    yield "LimitMEMLOCK=infinity"
    yield "LimitNOFILE=1048576"
    yield from _hardening()
    yield ""
    yield "[Install]"
    yield "WantedBy=multi-user.target"


def _command(deployment: Deployment, node: Node) -> Iterator[str]:
    serving = deployment.serving
    argv = deployment.argv(node, deployment.host)
    lines = [" ".join(_word(text) for text in group) for group in flag_groups(argv)]
    # env finds the program on the PATH of the settings; systemd would look in its own folders only.
    lead = "/usr/bin/env "
    if serving.api_key_flag:
        variable = serving.api_key_variable
        script = f'exec "$@" ${{{variable}:+{serving.api_key_flag} "${variable}"}}'.replace("$", "$$")
        lead = f"/bin/sh -c '{script}' sh "
    yield f"ExecStart={lead}{lines[0]}" + (" \\" if len(lines) > 1 else "")
    for number, line in enumerate(lines[1:], 2):
        yield f"  {line}" + (" \\" if number < len(lines) else "")


def _hardening() -> Iterator[str]:
    """What a GPU server does without. Code made at run time and the GPUs' devices it needs."""
    yield "NoNewPrivileges=yes"
    yield "ProtectSystem=strict"
    yield "ProtectHome=read-only"
    yield "PrivateTmp=yes"
    yield "ProtectControlGroups=yes"
    yield "ProtectKernelTunables=yes"
    yield "ProtectKernelModules=yes"
    yield "ProtectClock=yes"
    yield "RestrictSUIDSGID=yes"
    yield "LockPersonality=yes"
    yield "CapabilityBoundingSet="
    yield "UMask=0077"


def _settings(deployment: Deployment) -> Iterator[str]:
    serving, engine = deployment.serving, deployment.candidate.engine
    yield f"# Install as {settings_path(deployment)}, mode 0600, owner root. systemd reads it, no shell does."
    yield f"# Where {printable(engine.name)} {printable(engine.version)} is installed comes first:"
    yield f"PATH={engine_folder(deployment)}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    for variable in deployment.unknowns:
        yield f"# Required: {REQUIRED[variable]}."
        yield f"{variable}="
    yield "# Optional: clients then have to send this key."
    yield f"#{serving.api_key_variable}="
    if serving.download is not None:
        yield "# Optional: a token of the Hub, for a repository that wants one and for faster downloads."
        yield "#HF_TOKEN="
    if deployment.several:
        yield "# Optional: the network over which the nodes talk, where a node has several."
        yield "#NCCL_SOCKET_IFNAME="
        yield "#GLOO_SOCKET_IFNAME="


def _word(text: str) -> str:
    """An argument as one word of an Exec line, where a dollar stands for itself only when it is doubled."""
    unknown = unknown_in(text)
    return f"${{{unknown.variable}}}{unknown.rest}" if unknown else _quoted(text).replace("$", "$$")


def _quoted(text: str) -> str:
    """The text as one word of a unit file, in quotes unless it is plain."""
    if text and text.isascii() and all(character.isalnum() or character in "-_./:=,@+" for character in text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


def _escaped(text: str) -> str:
    """Free text of a unit file, where only ``%`` has a meaning."""
    return text.replace("%", "%%")
