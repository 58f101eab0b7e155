"""Prefill and decode on nodes of their own: modelled from the same steps, without a measurement to hold it against.

A node that only prefills takes prompts one after another, one that only decodes runs its steps without them. The nodes
are split so that neither side waits for the other; the KV cache of every prompt crosses the network once.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from planner.engines.base import Priced
from planner.kv import bytes_per_token
from planner.request import PricedRelease, Request
from planner.serving import admitted_requests, prompt_budget, speculation
from planner.step import decode_step
from planner.step_gpu import network_rate

NOTE: Final = "prefill on {prefill} and decode on {decode} nodes: modelled without measurement"


class Split(NamedTuple):
    """A split of the nodes. Rates are output tokens per second: of all requests, and of one; ``ttft_s`` is seconds."""

    prefill_nodes: int
    decode_nodes: int
    total: float
    per_user: float
    ttft_s: float
    concurrency: float

    @property
    def note(self) -> str:
        """What it is, and how it is known."""
        return NOTE.format(prefill=self.prefill_nodes, decode=self.decode_nodes)


def best_split(
    request: Request, release: PricedRelease, priced: Priced, nodes: int, concurrency: float
) -> Split | None:
    """The split of ``nodes`` with the most tokens per second at ``concurrency`` requests on each decoding node.

    None where ``priced`` is not a configuration of one node, or there are not two nodes.
    """
    config = priced.config
    if nodes < 2 or config.nodes_used != 1 or config.group is None or config.world != config.group.per_node:
        return None
    output = max(request.demand.output_tokens, 1)
    admitted = admitted_requests(request, priced, concurrency)
    if admitted < 0.98 * concurrency:
        return None
    width, accepted = speculation(request)
    context = request.demand.input_tokens + output / 2
    step = decode_step(request, release, priced, max(admitted / config.dp, 1.0), context, width).total / accepted[1]
    prompt = prompt_budget(request, release, priced).total
    moved = request.demand.input_tokens * bytes_per_token(request.model, config.kv_dtype, 1, 0, request.model.layers)
    prompts_per_s = config.dp / max(prompt, moved / network_rate(request))
    answers_per_s = admitted / (output * step)
    best: Split | None = None
    for prefill in range(1, nodes):
        decode = nodes - prefill
        requests = min(prefill * prompts_per_s, decode * answers_per_s)
        # Where prompts come too slowly, fewer requests decode at a time; the step is then no slower than this.
        found = Split(
            prefill, decode, requests * output, 1 / step, prompt + moved / network_rate(request) + step,
            requests * output * step,
        )  # fmt: skip
        if best is None or found.total > best.total:
            best = found
    return best
