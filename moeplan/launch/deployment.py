"""A candidate as something to start: the commands of its nodes, checked, with everything the formats share."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from moeplan.launch.shell_text import MODEL_FOLDER, assignments, unknown_in
from moeplan.text_safe import printable, shortened
from planner.errors import BadRequest

if TYPE_CHECKING:
    from planner.plan import Candidate, Launch, Plan, Serving

LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")
EVERY_ADDRESS: Final = ("0.0.0.0", "::")
GPU_CHOICE: Final = ("CUDA_DEVICE_ORDER", "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")
"""Variables by which an engine sees some GPUs of a node, where nothing else chooses them."""
TRUST: Final = "--trust-remote-code runs Python"
_ADDRESS: Final = re.compile(r"[A-Za-z0-9:][A-Za-z0-9.:%-]{0,252}")
_IMAGE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]{0,499}")
_REVISION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,99}")
_FLAG: Final = re.compile(r"--?[a-z][a-z0-9-]*")
_FILE: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_PATH: Final = re.compile(r"/[A-Za-z0-9_./-]*")
_LONGEST_LABEL: Final = 40


class Wish(NamedTuple):
    """What whoever starts it chooses: address, port, image, revision of the weights; None leaves it to the plan."""

    host: str | None = None
    port: int | None = None
    image: str | None = None
    revision: str | None = None


class Node(NamedTuple):
    """One machine: its rank, the engine's arguments, and the driver's numbers of the GPUs it uses."""

    rank: int
    argv: tuple[str, ...]
    gpus: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Deployment:
    """Everything that a format writes down. ``name`` is a DNS label; ``env`` holds for every node."""

    plan: Plan
    candidate: Candidate
    serving: Serving
    nodes: tuple[Node, ...]
    env: dict[str, str]
    name: str
    host: str
    port: int
    image: str | None
    revision: str | None
    generated_by: str

    @property
    def title(self) -> str:
        """Model, release and engine in one line."""
        engine, release = self.candidate.engine, self.candidate.quantization
        text = f"{self.plan.model.name}, {release.name} by {release.publisher}, on {engine.name} {engine.version}"
        return printable(text)

    @property
    def gpus(self) -> int:
        """GPUs on all nodes."""
        return sum(len(node.gpus) for node in self.nodes)

    @property
    def hardware(self) -> str:
        """Nodes and GPUs in a few words."""
        each = len(self.nodes[0].gpus)
        nodes = f"{len(self.nodes)} x " if self.several else ""
        return f"{nodes}{each} GPU{'s' if each > 1 else ''}" if each else "one machine, no GPU with memory of its own"

    def place(self, node: Node) -> str:
        """Which node of how many, and its GPUs."""
        gpus = f"{len(node.gpus)} GPUs" if len(node.gpus) > 1 else "1 GPU" if node.gpus else "no GPU of its own"
        return f"node {node.rank} of {len(self.nodes)}, {gpus}"

    @property
    def several(self) -> bool:
        """Whether more than one node takes part."""
        return len(self.nodes) > 1

    @property
    def env_beside_gpus(self) -> dict[str, str]:
        """The variables without those that choose GPUs, for where something else hands them out.

        It numbers them from 0; an order that is not the driver's is kept among these numbers.
        """
        kept = {name: value for name, value in self.env.items() if name not in GPU_CHOICE}
        chosen = self.env.get("CUDA_VISIBLE_DEVICES", "").split(",")
        order = [sorted(chosen, key=int).index(index) for index in chosen] if all(map(str.isdigit, chosen)) else []
        if order != sorted(order):
            kept |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(map(str, order))}
        return kept

    @property
    def unknowns(self) -> tuple[str, ...]:
        """Variables that somebody has to set, sorted."""
        found = {unknown.variable for node in self.nodes for text in node.argv if (unknown := unknown_in(text))}
        return tuple(sorted(found))

    @property
    def client_host(self) -> str:
        """Where a client on the serving machine reaches it, as it stands in a URL."""
        host = "127.0.0.1" if self.host in EVERY_ADDRESS else self.host
        return f"[{host}]" if ":" in host else host

    def argv(self, node: Node, host: str) -> tuple[str, ...]:
        """The node's command, listening on ``host``."""
        argv = with_value(with_value(node.argv, "--host", host), "--port", str(self.port))
        flag = self.serving.revision_flag
        return (*argv, flag, self.revision) if self.revision and flag else argv


def deployment_of(plan: Plan, candidate: Candidate, wish: Wish) -> Deployment:
    """The candidate, ready to be written.

    Raises ``BadRequest`` for an address, a port, an image, a variable or an argument that no file should hold, for
    weights that do not exist, and for a plan that does not say how to serve it.
    """
    launch, release = candidate.launch, candidate.quantization
    if release.status == "hypothetical":
        raise BadRequest(f"nobody is known to publish {shortened(release.name)}: there is nothing to start")
    serving = launch.serving
    if serving is None:
        raise BadRequest("the plan does not say how to serve it; write it again with `moeplan plan --output`")
    _check_launch(launch, serving)
    host = wish.host if wish.host is not None else "127.0.0.1"
    port = wish.port if wish.port is not None else serving.port
    image = wish.image if wish.image is not None else serving.image.reference if serving.image else None
    _check_wish(host, port, image, wish.revision, serving)
    return Deployment(
        plan=plan,
        candidate=candidate,
        serving=serving,
        nodes=_nodes_of(candidate, serving),
        env=dict(launch.env),
        name=label_of(serving.served_name),
        host=host,
        port=port,
        image=image,
        revision=wish.revision,
        generated_by=plan.generated_by,
    )


def _check_launch(launch: Launch, serving: Serving) -> None:
    """Raises ``BadRequest`` for what a file cannot hold safely: a plan may come from anywhere."""
    commands = launch.per_node_argv or (launch.argv,)
    if not all(commands):
        raise BadRequest("the plan has no command for this candidate")
    assignments({**launch.env, serving.api_key_variable: ""})
    download = serving.download
    texts = [*(text for argv in commands for text in argv), *launch.env.values(), *serving.packages]
    texts += [*(serving.image_program or ()), serving.local_path or "", serving.served_name]
    texts += [download.repository, *download.include] if download is not None else []
    for text in texts:
        if any(ord(character) < 32 or 127 <= ord(character) < 160 for character in text):
            raise BadRequest(f"the plan's command holds a control character: {shortened(text)}")
    for flag in (serving.api_key_flag, serving.revision_flag):
        if flag is not None and not _FLAG.fullmatch(flag):
            raise BadRequest(f"the plan has {shortened(flag)} for a flag")
    if not _PATH.fullmatch(serving.health):
        raise BadRequest(f"the plan asks for health at {shortened(serving.health)}, which is not a path")
    for name in launch.files:
        if not _FILE.fullmatch(name):
            raise BadRequest(f"the plan names a file {shortened(name)}, which is not a plain file name")


def _check_wish(host: str, port: int, image: str | None, revision: str | None, serving: Serving) -> None:
    if not _ADDRESS.fullmatch(host):
        raise BadRequest(f"--host: {shortened(host)} is not an address; write 127.0.0.1, 0.0.0.0 or a host name")
    if not 1 <= port <= 65535:
        raise BadRequest(f"--port: {port} is not a port; 1 to 65535 are")
    if image is not None and not _IMAGE.fullmatch(image):
        raise BadRequest(f"--image: {shortened(image)} is not a container image; write registry/name:tag")
    if revision is None:
        return
    if serving.download is None or (serving.revision_flag is None and not serving.needs_folder):
        raise BadRequest("--revision: this engine or these weights know no revision")
    if not _REVISION.fullmatch(revision):
        raise BadRequest(f"--revision: {shortened(revision)} is not a commit, a tag or a branch")


def _nodes_of(candidate: Candidate, serving: Serving) -> tuple[Node, ...]:
    """The commands with the GPUs of their nodes. Raises ``BadRequest`` where the plan's two lists disagree."""
    launch, release = candidate.launch, candidate.quantization.release
    commands = launch.per_node_argv or (launch.argv,)
    devices = [device for device in candidate.memory.devices if device.kind in ("gpu", "unified")]
    places = sorted({device.node for device in devices}) or [0]
    if len(places) != len(commands):
        raise BadRequest(f"the plan has {len(commands)} commands for {len(places)} nodes")
    nodes = []
    for rank, (place, argv) in enumerate(zip(places, commands, strict=True)):
        # An engine that needs a folder is given it where the plan names the repository.
        texts = tuple(MODEL_FOLDER if serving.needs_folder and text == release else text for text in argv)
        gpus = tuple(device.index for device in devices if device.node == place and device.kind == "gpu")
        nodes.append(Node(rank, texts, gpus))
    return tuple(nodes)


def with_value(argv: Sequence[str], flag: str, value: str) -> tuple[str, ...]:
    """The arguments with another value behind ``flag``; unchanged where the flag is missing.

    >>> with_value(("serve", "--port", "8000"), "--port", "9000")
    ('serve', '--port', '9000')
    """
    return tuple(value if place and argv[place - 1] == flag else text for place, text in enumerate(argv))


def label_of(name: str) -> str:
    """A DNS label for a served name.

    >>> label_of("kimi-k2.5"), label_of("7B model")
    ('kimi-k2-5', 'model-7b-model')
    """
    text = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:_LONGEST_LABEL].strip("-")
    return text if text[:1].isalpha() else f"model-{text}".strip("-")


def file_name(deployment: Deployment, node: Node, stem: str, suffix: str) -> str:
    """``launch.sh`` where there is one node, ``launch-rank-1.sh`` where there are several."""
    return f"{stem}-rank-{node.rank}{suffix}" if deployment.several else f"{stem}{suffix}"


def remarks(deployment: Deployment) -> tuple[str, ...]:
    """What somebody should know before they start it."""
    found = []
    if any("--trust-remote-code" in node.argv for node in deployment.nodes) and not deployment.revision:
        pinned = deployment.serving.revision_flag or deployment.serving.needs_folder
        pin = ": pin a revision that you have read, with --revision" if pinned else ""
        found.append(f"{TRUST} of the model's repository{pin}")
    if deployment.host not in LOOPBACK:
        variable = deployment.serving.api_key_variable
        found.append(f"{deployment.host}: whoever reaches this address can use the server, unless {variable} is set")
    if deployment.candidate.verdict == "tight":
        found.append("this configuration is tight: it may run out of memory when it starts")
    return tuple(found)
