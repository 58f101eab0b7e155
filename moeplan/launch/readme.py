"""``README.md`` of the output folder: what to run where, in order, how to check it, how to stop it."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from moeplan.launch.containers import WEIGHTS_MOUNT
from moeplan.launch.deployment import TRUST, Deployment, file_name, remarks
from moeplan.launch.kubernetes import API_KEY, HUB_TOKEN, LEADER_WORKER_SET, MANIFEST, service_name
from moeplan.launch.quick_start import PYTHON, SHELL, endpoints
from moeplan.launch.requests import curl_lines, python_lines
from moeplan.launch.shell_text import HEAD_ADDRESS, MODEL_FOLDER, REQUIRED
from moeplan.launch.slurm import JOB
from moeplan.launch.systemd import engine_folder, settings_path
from moeplan.text_safe import printable

if TYPE_CHECKING:
    from planner.plan import ChatMode

READABLE: Final = "The unit runs as a user of its own, who has to be able to read them."
_DOWNLOADS: Final = ("shell", "compose", "slurm")
"""Formats whose weights are fetched by hand; the others fetch them into their own volume or cache."""


def readme(deployment: Deployment, kind: str) -> str:
    """The page for the files of this format."""
    lines = [
        *_head(deployment),
        *_before(deployment, kind),
        *_START[kind](deployment),
        *_check(deployment, kind),
        *_ask(deployment, kind),
        *_keep(deployment),
    ]
    return "\n".join(lines) + "\n"


def _head(deployment: Deployment) -> Iterator[str]:
    candidate, parallel = deployment.candidate, deployment.candidate.parallel
    ranks = ((name, getattr(parallel, name)) for name in ("tp", "pp", "dp", "ep", "dcp"))
    layout = ", ".join(f"{name} {size}" for name, size in ranks if size > 1) or "one rank"
    yield f"# {deployment.title}"
    yield ""
    context = f"context {deployment.plan.workload.context:,} tokens"
    yield f"{deployment.hardware}, {layout}, {context}. The plan's verdict: {candidate.verdict}."
    yield f"Written by {printable(deployment.generated_by)} from candidate {candidate.rank}."
    pools = deployment.plan.fleet.pools if deployment.plan.fleet is not None else ()
    for pool in pools:
        if pool.candidate_rank == candidate.rank:
            yield ""
            where = printable(pool.description)
            yield f"This starts one of {pool.replicas} replicas on {where}. Start each on its own nodes."
    said = [note for note in candidate.warnings if not note.startswith(TRUST)]
    notes = dict.fromkeys((*remarks(deployment), *said))
    if notes:
        yield ""
        yield from (f"- {printable(note)}" for note in notes)


def _before(deployment: Deployment, kind: str) -> Iterator[str]:
    yield ""
    yield "## Before the first start"
    yield from _engine(deployment, kind)
    yield from _weights(deployment, kind)
    variable = deployment.serving.api_key_variable
    if kind != "kubernetes":
        yield ""
        place = f"in `{settings_path(deployment)}`" if kind == "systemd" else "in the environment of the start"
        yield f"To ask clients for a key, set `{variable}` {place}. No key is in the files here."
        if deployment.serving.api_key_flag:
            yield "This engine takes it as an argument, so that it shows in the process list of the machine."


def _engine(deployment: Deployment, kind: str) -> Iterator[str]:
    engine = deployment.candidate.engine
    yield ""
    if kind in ("compose", "kubernetes"):
        image = deployment.serving.image
        known = image is not None and image.reference == deployment.image
        yield f"The engine comes in `{printable(deployment.image or '')}`" + (
            f" (the tag: {printable(image.source)})." if image is not None and known else "."
        )
        yield "Another registry or build: write the files again with `--image`."
        return
    where = "every node" if deployment.several else "the machine"
    yield f"Install {printable(engine.name)} {printable(engine.version)} on {where}; the numbers hold for that version:"
    yield ""
    packages = deployment.serving.packages
    if not packages:
        program = printable(deployment.nodes[0].argv[0])
        yield f"Its source and its releases are at {printable(deployment.serving.repository)}. `{program}` has to be on"
        yield "the PATH of the start."
        if deployment.serving.image is not None:
            tag = printable(deployment.serving.image.reference.rpartition(":")[2])
            yield f"The build that was read for this plan is the one in the tag `{tag}` of its images."
        return
    folder = engine_folder(deployment) if kind == "systemd" else "engine"
    wanted = shlex.join(packages)
    sudo = "sudo " if kind == "systemd" else ""
    yield f"    {sudo}python3 -m venv {folder} && {sudo}{folder}/bin/pip install {wanted}"
    if kind != "systemd":
        yield f'    export PATH="$PWD/{folder}/bin:$PATH"'


def _weights(deployment: Deployment, kind: str) -> Iterator[str]:
    serving, release = deployment.serving, deployment.candidate.quantization
    yield ""
    size = f"{release.bytes / 1e9:,.0f} GB"
    if serving.local_path is not None:
        yield f"The weights ({size}) lie at `{printable(serving.local_path)}`, on every node, as files (not as links)."
        if kind == "systemd":
            yield READABLE
        if kind == "kubernetes":
            yield f"Copy them onto the volume claim `{deployment.name}`, which is mounted at `{WEIGHTS_MOUNT}`."
        return
    download = serving.download
    if download is None:
        return
    if kind not in _DOWNLOADS and not (serving.needs_folder and kind == "systemd"):
        yield f"The first start downloads the weights ({size})."
        return
    command = ["hf", "download", download.repository]
    command += [part for pattern in download.include for part in ("--include", pattern)]
    if deployment.revision:
        command += ["--revision", deployment.revision]
    yield f"Download the weights ({size}), " + ("on every node:" if deployment.several else "with a tool from PyPI:")
    yield ""
    yield "    pip install huggingface_hub"
    if serving.needs_folder:
        yield f'    {shlex.join(command)} --local-dir "${MODEL_FOLDER}"'
        yield ""
        yield f"`{MODEL_FOLDER}` is a folder of your choice, by an absolute path. The start needs it too."
        if kind == "systemd":
            yield READABLE
        return
    yield f"    {shlex.join(command)}"
    yield ""
    if download.include:
        yield "These are the files for text. Images take the `mmproj` file too, which the plan does not count."
    yield "They go to the Hub's cache, `HF_HOME` (`~/.cache/huggingface`), where the engine finds them. Without this"
    yield "step the first start downloads them."


def _needed(deployment: Deployment) -> Iterator[str]:
    for name in deployment.unknowns:
        yield f"    export {name}=  # {REQUIRED[name]}"


def _start_shell(deployment: Deployment) -> Iterator[str]:
    yield from _heading(deployment)
    yield from _needed(deployment)
    for node in deployment.nodes:
        place = f"  # on node {node.rank}" if deployment.several else ""
        yield f"    ./{file_name(deployment, node, 'launch', '.sh')}{place}"
    yield from _stop("Ctrl-C" + (" on every node" if deployment.several else "") + " stops it.")


def _start_compose(deployment: Deployment) -> Iterator[str]:
    yield from _heading(deployment)
    yield from _needed(deployment)
    names = [file_name(deployment, node, "compose", ".yaml") for node in deployment.nodes]
    for number, name in enumerate(names):
        place = f"  # on node {number}" if deployment.several else ""
        yield f"    docker compose -f {name} up -d{place}"
    yield f"    docker compose -f {names[0]} logs -f"
    if deployment.serving.download is not None and not deployment.serving.needs_folder:
        yield ""
        yield "The cache is that of whoever starts it; with `sudo`, set `HF_HOME` to the one that has the weights."
    if deployment.serving.gpu_vendor == "nvidia":
        yield ""
        yield "Docker needs the NVIDIA Container Toolkit."
    if deployment.serving.gpu_vendor == "amd":
        yield ""
        yield "Where the image has no groups `video` and `render`, `VIDEO_GROUP` and `RENDER_GROUP` are their numbers"
        yield "on the host (`getent group render`)."
    yield from _stop(f"`docker compose -f {names[0]} down` stops it" + (", on every node." if names[1:] else "."))


def _start_kubernetes(deployment: Deployment) -> Iterator[str]:
    name = deployment.name
    yield from _heading(deployment, by_hand=False)
    if deployment.several:
        group = LEADER_WORKER_SET.partition("/")[0]
        yield f"    kubectl get crd leaderworkersets.{group}  # fails where LeaderWorkerSet is not installed"
    yield f'    kubectl create secret generic {name} --from-literal={API_KEY}="$(openssl rand -hex 32)"'
    yield f"    kubectl apply -f {MANIFEST}"
    yield f"    kubectl logs -f -l app.kubernetes.io/name={name} --prefix"
    yield ""
    yield f"`--from-literal={HUB_TOKEN}=...` adds a token of the Hub to the Secret, for a repository that wants one."
    modes = "ReadWriteMany, since every node reads it" if deployment.several else "ReadWriteOnce"
    yield f"The volume claim asks the default storage class for {modes}."
    load = "leaderworkerset" if deployment.several else "deployment"
    yield from _stop(
        f"`kubectl delete {load} {name}` stops it. `kubectl delete -f {MANIFEST}` deletes the weights' volume too."
    )


def _start_slurm(deployment: Deployment) -> Iterator[str]:
    yield from _heading(deployment, by_hand=False)
    yield "From this folder, which all nodes must see; `--partition`, `--account` and `--time` are your site's:"
    yield ""
    yield from (line for line in _needed(deployment) if HEAD_ADDRESS not in line)
    yield f"    sbatch {JOB}"
    yield ""
    yield "The log says on which node the server listens. From elsewhere:"
    yield ""
    yield f"    ssh -N -L {deployment.port}:{deployment.client_host}:{deployment.port} THAT_NODE"
    yield from _stop(f"`scancel --name={deployment.name}` stops it.")


def _start_systemd(deployment: Deployment) -> Iterator[str]:
    settings = settings_path(deployment)
    yield from _heading(deployment)
    yield f"    sudo install -D -m 600 {deployment.name}.env {settings}  # then edit it"
    for node in deployment.nodes:
        unit = file_name(deployment, node, deployment.name, ".service")
        place = f"  # on node {node.rank}" if deployment.several else ""
        yield f"    sudo install -m 644 {unit} /etc/systemd/system/ && sudo systemctl daemon-reload{place}"
        # It would wait for the server, which waits for the other nodes.
        wait = " --no-block" if deployment.several else ""
        yield f"    sudo systemctl enable --now{wait} {unit}{place}"
    first = file_name(deployment, deployment.nodes[0], deployment.name, ".service")
    yield f"    journalctl -fu {first}"
    yield ""
    answers = "The unit of node 0 is active when the server answers."
    yield answers if deployment.several else "`systemctl start` returns when the server answers."
    if deployment.serving.download is not None and not deployment.serving.needs_folder:
        yield f"The weights go to `/var/cache/{deployment.name}`."
    yield from _stop(
        f"`sudo systemctl stop {first}` stops it" + (", and so on every node." if deployment.several else ".")
    )


_START: Final = {
    "shell": _start_shell,
    "compose": _start_compose,
    "kubernetes": _start_kubernetes,
    "slurm": _start_slurm,
    "systemd": _start_systemd,
}


def _heading(deployment: Deployment, *, by_hand: bool = True) -> Iterator[str]:
    yield ""
    yield "## Start"
    yield ""
    if deployment.several and by_hand:
        yield "Start the nodes within minutes of each other, node 0 first; each waits for the others. Node 0 must be"
        ports = f"port {deployment.serving.head_port} and others" if deployment.serving.head_port else "many ports"
        yield f"reachable from them ({ports}), and they from each other: no firewall between them. Where they have"
        yield "several networks, `NCCL_SOCKET_IFNAME` and `GLOO_SOCKET_IFNAME` name the interface to use."
        yield ""


def _stop(text: str) -> Iterable[str]:
    return ("", text)


def _check(deployment: Deployment, kind: str) -> Iterator[str]:
    serving = deployment.serving
    yield ""
    yield "## Check"
    yield ""
    where = " on node 0" if deployment.several and kind in ("shell", "compose", "systemd") else ""
    yield f"A start takes minutes, up to {serving.startup_s // 60} with a slow download. Then this answers 200{where}:"
    yield ""
    if kind == "kubernetes":
        yield f"    kubectl port-forward service/{service_name(deployment)} {deployment.port}:{deployment.port} &"
        secret = f"kubectl get secret {deployment.name} -o jsonpath='{{.data.{API_KEY}}}'"
        yield f'    export {serving.api_key_variable}="$({secret} | base64 -d)"'
    yield f"    curl --fail {base_url(deployment, kind)}{serving.health}"
    yield ""
    yield "What the engine reports of its memory, beside the plan: `moeplan observe LOG`."


def base_url(deployment: Deployment, kind: str) -> str:
    """Where a client reaches the server, without a path."""
    host = "127.0.0.1" if kind == "kubernetes" else deployment.client_host
    return f"http://{host}:{deployment.port}"


def _ask(deployment: Deployment, kind: str) -> Iterator[str]:
    modes: tuple[ChatMode | None, ...] = deployment.serving.chat or (None,)
    base = base_url(deployment, kind)
    yield ""
    yield "## Ask"
    yield ""
    yield from _ready(deployment, base)
    for mode in modes:
        yield ""
        if mode is not None:
            chosen = "the request chooses it" if mode.chat_template_kwargs else "the default"
            yield f"Mode {printable(mode.mode)} ({chosen}):"
            yield ""
        yield "```sh"
        yield from curl_lines(deployment, mode, base)
        yield "```"
    yield ""
    yield "From Python, with `pip install openai`:"
    yield ""
    yield "```python"
    yield from python_lines(deployment, modes[-1], base)
    yield "```"
    if deployment.serving.chat:
        yield ""
        yield "Thoughts come in `reasoning_content` (`reasoning` in newer engines) before `content`; `max_tokens` must"
        yield "be enough for both. Calls of tools come as `tool_calls`."


def _ready(deployment: Deployment, base: str) -> Iterator[str]:
    """The two programs that ask, here and where else the model is hosted."""
    here, *hosted = endpoints(deployment, base)
    what = [*here.modes, "stream", "tools", *(["image"] if here.images else [])]
    yield f"`./{SHELL} local WHAT` (curl) and `python3 {PYTHON} local WHAT` (`pip install openai`) ask in every way;"
    yield f"WHAT is {', '.join(what[:-1])} or {what[-1]}." + ("" if here.images else " This start serves no pictures.")
    if hosted:
        listed = ", ".join(f"`{one.name}` ({printable(one.about)}, `{one.key_variable}`)" for one in hosted)
        yield f"The same of a hosted API, with its key in the environment: {listed}."
        yield from (f"`{one.name}`: {printable(one.remark)}." for one in hosted if one.remark)


def _keep(deployment: Deployment) -> Iterator[str]:
    yield ""
    yield "## What makes the plan true"
    yield ""
    yield "The plan priced the context, sequences, batched tokens, memory share, layout and KV dtype in the command."
    yield "Another value, version or GPU is another plan: `moeplan estimate` prices it before you start it."
