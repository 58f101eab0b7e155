"""How the candidate is started: the commands, and what to know before they are run."""

from __future__ import annotations

from moeplan.launch.deployment import Deployment, Node, Wish, deployment_of, remarks
from moeplan.launch.shell_text import REQUIRED, assignments, command_lines
from moeplan.report.markup import Html, bullets, el, joined, pairs, verbatim
from moeplan.text_numbers import plural
from planner.errors import BadRequest
from planner.plan import Candidate, Plan


def launch_body(plan: Plan, candidate: Candidate) -> Html:
    """The commands of every node, listening on this machine alone."""
    try:
        deployment = deployment_of(plan, candidate, Wish())
    except BadRequest as error:
        return el("p", f"There is no command: {error}.")
    engine, serving = candidate.engine, deployment.serving
    download = serving.download
    facts = pairs(
        (
            (
                "engine",
                f"{engine.name} {engine.version}: {' '.join(serving.packages) or serving.repository}",
            ),
            ("container image", deployment.image),
            (
                "weights",
                f"{download.repository} {' '.join(download.include)}".strip()
                if download is not None
                else serving.local_path,
            ),
            ("listens on", f"{deployment.host}, port {deployment.port}: this machine alone"),
            ("is ready when", f"http://{deployment.client_host}:{deployment.port}{serving.health} answers 200"),
        )
    )
    warned = remarks(deployment)
    several = (
        el("p", "HEAD_ADDRESS is the address at which the other nodes reach node 0.") if deployment.several else None
    )
    hint = el(
        "p",
        "These are the plan's own arguments. ",
        el("code", f"moeplan launch PLAN --rank {candidate.rank}"),
        " writes them as a script, for Docker Compose, Kubernetes, Slurm or systemd, with a README.",
    )
    return joined(
        [
            facts,
            joined([el("h3", "Before you start it"), bullets(warned)]) if warned else None,
            several,
            *[_command(deployment, node) for node in deployment.nodes],
            hint,
        ]
    )


def _command(deployment: Deployment, node: Node) -> Html:
    title = (
        f"Start {deployment.place(node)}"
        if deployment.several
        else f"Start, {plural(len(node.gpus), 'GPU')}"
        if node.gpus
        else "Start"
    )
    lines = [f': "${{{name}:?{REQUIRED[name]}}}"' for name in deployment.unknowns]
    lines += [f"export {assignment}" for assignment in assignments(deployment.env)]
    lines += command_lines(deployment.argv(node, deployment.host))
    code = el("code", verbatim("\n".join(lines)))
    return joined(
        [el("h3", title), el("div", el("pre", code, tabindex=0, role="group", aria_label=title), class_="command")]
    )
