"""Claims about a model, checked against its facts: what is claimed is data (``profiles/claims``)."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import Any

from formulas.kv_cache import gqa_bytes, mla_bytes
from formulas.units import GIB
from planner.build import build_request, price_releases
from planner.hardware import describe, machine_of, parse_gpu
from planner.memory_report import ClaimVerdict
from planner.options import Options
from planner.search import search
from profiles.claims import claims_of
from profiles.gpus import load_gpu
from profiles.library import find_releases
from profiles.model import KvGroup, ModelSpec, active_parameters
from profiles.prices import api_prices

TOLERANCE = 0.05
"""A number within 5 % of the computed one counts as right: claims are rounded."""
Answer = tuple[str, str, str, str]
"""Computed, verdict, off by, reason."""


def check_claims(model: ModelSpec) -> tuple[ClaimVerdict, ...]:
    """Every known claim about ``model``, or nothing when none are collected."""
    source, rows = claims_of(model.id)
    checked = []
    for row in rows:
        computed, verdict, off_by, reason = CHECKS[row["check"]](model, row)
        checked.append(
            ClaimVerdict(
                claim=row["claim"], claimed=row["claimed"], computed=computed, verdict=verdict,  # type: ignore[arg-type]
                off_by=off_by, reason=reason, source=row.get("fact_source", source),
            )
        )  # fmt: skip
    return tuple(checked)


def _off(claimed: float, computed: float) -> str:
    return "" if abs(claimed / computed - 1) <= TOLERANCE else f"{claimed / computed:.2f} times the computed value"


def _size_on_gpus(model: ModelSpec, row: dict[str, Any]) -> Answer:
    release = price_releases(model, find_releases(model, row["quantization"])[:1])[0]
    size = release.tensors.bytes
    memory = int(row.get("ram_bytes", 0))
    nominal = 0
    room = []
    for text in row["gpus"]:
        count, key = parse_gpu(text)
        memory += count * load_gpu(key).capacity_bytes
        nominal += count * load_gpu(key).nominal_gb * 10**9
        room.append(f"{count}x {key}")
    where = " + ".join(room) + (f" + {row['ram_bytes'] / GIB:.0f} GiB RAM" if row.get("ram_bytes") else "")
    claimed = row.get("claimed_bytes")
    size_right = claimed is None or abs(claimed / size - 1) <= TOLERANCE
    spare = memory - size
    computed = f"{size / 1e9:,.1f} GB against {memory / 1e9:,.0f} GB of {where}"
    size_text = (
        "the size is right"
        if claimed and size_right
        else f"the size is off by {claimed / size - 1:+.1%}"
        if claimed
        else ""
    )
    if spare < 0:
        ratio = size / memory
        reason = (
            f"{size_text + ', but ' if size_text else ''}the weights alone need {ratio:.1f} times the memory "
            f"({size / nominal:.1f} times the nominal {nominal / 1e9:.0f} GB)"
        )
        return computed, "wrong", f"{-spare / 1e9:,.0f} GB short", reason
    margin = f"{spare / 1e9:,.0f} GB ({spare / memory:.0%}) are left for KV cache and buffers"
    verdict = "right" if size_right else "wrong"
    barely = (
        "; barely: the engines' defaults do not start there"
        if spare / memory < 0.2 and not row.get("ram_bytes")
        else ""
    )
    return (
        computed,
        verdict,
        "" if size_right else _off(claimed or size, size),
        "; ".join(filter(None, (size_text, margin))) + barely,
    )


def _decode_rate(model: ModelSpec, row: dict[str, Any]) -> Answer:
    ram = f"{row['ram_bytes']}B" if row.get("ram_bytes") else None
    options = Options(
        model.id, gpu=tuple(row["gpus"]), ram=ram, quant=row["quantization"], context="8192", concurrency="1",
        input_tokens="1024", output_tokens="1024",
    )  # fmt: skip
    request = build_request(options, model, machine_of(describe(options), "flags"), exact=False)
    found = search(request).found
    if not found:
        return (
            "does not start",
            "wrong",
            "",
            "no engine starts this release on this hardware with 8,192 tokens of context",
        )
    best = max(found, key=lambda item: item.speed.decode_per_request[1])
    low, _, high = best.speed.decode_per_request
    computed = f"{low:.1f}-{high:.1f} tok/s (modelled, {best.engine.name}, {best.priced.verdict})"
    claimed_low, claimed_high = row["claimed_low"], row["claimed_high"]
    if claimed_high < low:
        return (
            computed,
            "wrong",
            f"at least {low / claimed_high:.1f} times too low",
            f"bound by {best.speed.bound_by}; early reports were lower than later ones",
        )
    if claimed_low > high:
        return (
            computed,
            "wrong",
            f"at least {claimed_low / high:.1f} times too high",
            f"bound by {best.speed.bound_by}",
        )
    return computed, "right", "", "the claimed range overlaps the modelled one; one stream, short context"


def _mla_group(model: ModelSpec) -> KvGroup:
    return next(group for group in model.kv_groups if group.layout == "mla")


def _mla_ratio(model: ModelSpec, row: dict[str, Any]) -> Answer:
    group = _mla_group(model)
    latent = mla_bytes(group.kv_lora_rank, group.rope_dim, "bf16")
    mha = gqa_bytes(model.heads, 128, 128, "bf16") / latent
    own = gqa_bytes(model.heads, model.q_head_dim, model.v_head_dim, "bf16") / latent
    gqa = gqa_bytes(8, 128, 128, "bf16") / latent
    computed = f"{mha:.1f}-{own:.1f}x against MHA, {gqa:.2f}x against GQA-8"
    return (
        computed,
        "wrong",
        f"{mha / row['claimed_value']:.1f}-{own / row['claimed_value']:.1f} times too low against MHA",
        "matches neither comparison",
    )


def _kv_formula(model: ModelSpec, row: dict[str, Any]) -> Answer:
    del row
    group = _mla_group(model)
    layers = len(group.layers)
    right = layers * mla_bytes(group.kv_lora_rank, group.rope_dim, "bf16")
    claimed = 2 * layers * group.kv_lora_rank * 2
    return (
        f"layers x (latent + rope) x bytes = {right:,} bytes per token in bf16", "wrong", f"{claimed / right - 1:+.1%}",
        "one latent serves as key and value, so there is no factor 2; the rope key and the sequence length are missing",
    )  # fmt: skip


def _mha_formula(model: ModelSpec, row: dict[str, Any]) -> Answer:
    del row
    tokens = model.max_context
    return (
        f"grows with every token: {tokens:,} times more at {tokens:,} tokens", "wrong", "",
        "the sequence length is missing, and B cannot stand for both batch and bytes",
    )  # fmt: skip


def _heads_matter(model: ModelSpec, row: dict[str, Any]) -> Answer:
    del row
    group = _mla_group(model)
    size = mla_bytes(group.kv_lora_rank, group.rope_dim, "bf16")
    return (
        f"{size} bytes per token and layer with any number of heads",
        "wrong",
        "",
        "an MLA cache holds one latent for all heads",
    )


def _active_share(model: ModelSpec, row: dict[str, Any]) -> Answer:
    text = sum(group.parameters for group in model.tensors if group.tensor_class not in ("vision", "mtp"))
    share = active_parameters(model, with_embedding=True) / text
    right = abs(row["claimed_value"] / share - 1) <= TOLERANCE
    computed = f"{share:.2%} of the text parameters, counting the embedding"
    return (
        computed,
        "right" if right else "wrong",
        _off(row["claimed_value"], share),
        f"{active_parameters(model, with_embedding=True):,} active",
    )


def _vision_parameters(model: ModelSpec, row: dict[str, Any]) -> Answer:
    tower = sum(
        group.parameters for group in model.tensors if group.tensor_class == "vision" and group.role != "projector"
    )
    right = abs(row["claimed_value"] / tower - 1) <= TOLERANCE
    return (
        f"{tower:,}",
        "right" if right else "wrong",
        _off(row["claimed_value"], tower),
        "vision tower without the projector",
    )


def _stated(model: ModelSpec, row: dict[str, Any]) -> Answer:
    del model
    return row["computed"], row["verdict"], row.get("off_by", ""), row["reason"]


def _api_price(model: ModelSpec, row: dict[str, Any]) -> Answer:
    offers = [price for price in api_prices() if price.model == row["model"]]
    if not offers:
        return (
            "no price is known",
            "not_checkable",
            "",
            f"no dated offer of {model.id} is among the price facts",
        )
    same = [price for price in offers if price.input == row["input_usd"] and price.output == row["output_usd"]]
    inputs, outputs = [price.input for price in offers], [price.output for price in offers]
    spread = f"${min(inputs):.2f}-{max(inputs):.2f} / ${min(outputs):.2f}-{max(outputs):.2f}"
    if not same:
        return spread, "wrong", "", f"none of {len(offers)} known offers has this price"
    newest = max(price.date for price in same)
    return (
        spread,
        "right",
        "",
        f"{len(same)} of {len(offers)} known offers, newest of {newest}; {same[0].note}".rstrip("; "),
    )


CHECKS: dict[str, Callable[[ModelSpec, dict[str, Any]], Answer]] = {
    "size_on_gpus": _size_on_gpus,
    "decode_rate": _decode_rate,
    "mla_ratio": _mla_ratio,
    "kv_formula": _kv_formula,
    "mha_formula": _mha_formula,
    "heads_matter": _heads_matter,
    "active_share": _active_share,
    "vision_parameters": _vision_parameters,
    "stated": _stated,
    "api_price": _api_price,
}


def gpus_for_weights(size: int, gpu_bytes: int) -> int:
    """The fewest GPUs that hold ``size`` bytes.

    >>> gpus_for_weights(2_053_758_798_816, 85_520_809_984)
    25
    """
    return ceil(size / gpu_bytes)
