"""The calculator behind ``moeplan memory``: weights by release and class, KV cache by layout and dtype."""

from __future__ import annotations

from typing import Final

from formulas.kv_cache import UnsupportedKvDtype, gqa_bytes, mla_bytes
from planner.build import kv_dtype, price_releases
from planner.engines import ENGINE_NAMES, load_engine_model
from planner.errors import BadRequest
from planner.kv import sequence_bytes
from planner.memory_report import ClaimVerdict, KvCacheRow, MemoryReport, ParameterCounts, WeightsRow
from planner.options import Options
from planner.quantities import parse_count, parse_tokens, shown
from planner.request import PricedRelease
from profiles.library import find_releases
from profiles.model import ModelSpec, active_parameters
from profiles.names import UnknownName

COMPARED_GQA_HEADS: Final = 8
COMPARED_HEAD_DIM: Final = 128
MLA_DTYPES: Final = ("bf16", "fp8", "q8_0", "q4_0")
HEAD_DTYPES: Final = ("bf16", "fp8", "q8_0", "q4_0")
ENGINE_DTYPES: Final = {
    "vllm": ("bf16", "fp8", "fp8_ds_mla"),
    "sglang": ("bf16", "fp8", "fp8_ds_mla"),
    "llama.cpp": ("f16", "q8_0", "q4_0"),
    "ktransformers": ("bf16", "fp8"),
}


def memory_report(options: Options, model: ModelSpec, generated_by: str, *, claims: bool) -> MemoryReport:
    """The report for a model. Raises ``BadRequest`` with one line."""
    context = parse_tokens(options.context, "--context") if options.context is not None else model.max_context
    if context > model.max_context:
        raise BadRequest(
            f"--context: {context:,} tokens are more than the {model.max_context:,} that {model.id} was made for"
        )
    sequences = parse_count(options.sequences, "--sequences", high=10_000_000) if options.sequences is not None else 1
    releases = _releases(options, model)
    checked: tuple[ClaimVerdict, ...] = ()
    if claims:
        from planner.claims import check_claims

        checked = check_claims(model)
    return MemoryReport(
        schema="moeplan.memory/1",
        generated_by=generated_by,
        model=model.id,
        name=model.name,
        family=model.family,
        max_context=model.max_context,
        parameters=ParameterCounts(
            total=model.parameters,
            active=active_parameters(model, with_embedding=True),
            active_without_embedding=active_parameters(model, with_embedding=False),
        ),
        weights=tuple([weights_row(model, release) for release in releases]),
        kv_cache=tuple(_kv_rows(options, model, context, sequences)),
        claims=checked,
        notes=model.notes,
    )


def _releases(options: Options, model: ModelSpec) -> tuple[PricedRelease, ...]:
    chosen = model.releases
    if options.quant is not None:
        try:
            chosen = find_releases(model, options.quant)
        except UnknownName as error:
            raise BadRequest(f"--quant: {error}") from None
    priced = price_releases(model, chosen)
    if not priced:
        raise BadRequest(f"--quant: {shown(options.quant or '')} is in a container that is not read")
    if options.engine is not None:
        name = options.engine.strip().lower()
        if name not in ENGINE_NAMES:
            raise BadRequest(f"--engine: {shown(options.engine)} is not allowed; {', '.join(ENGINE_NAMES)} are")
        engine = load_engine_model(name)
        priced = tuple([release for release in priced if not engine.accepts(release)])
    return priced


def weights_row(model: ModelSpec, release: PricedRelease) -> WeightsRow:
    """One release: bytes by class, and what one token's decode step reads of it."""
    tensors = release.tensors
    by_class: dict[str, int] = {}
    active = 0.0
    share = model.moe.top_k / model.moe.experts if model.moe is not None else 1.0
    for group in tensors.groups:
        size = group.bytes
        by_class[group.tensor_class] = by_class.get(group.tensor_class, 0) + size
        if group.tensor_class == "routed_experts":
            active += size * share
        elif group.tensor_class not in ("vision", "mtp", "embedding"):
            active += size
        elif group.role == "embedding" and group.tensor_class == "embedding":
            # One row is looked up; tied embeddings are read whole as the head.
            active += size if model.tied_embeddings else size / group.shape[0]
    if tensors.scale != 1.0:
        by_class = _scaled(by_class, tensors.bytes)
        active *= tensors.scale
    return WeightsRow(
        quantization=release.release.quantization,
        publisher=release.release.publisher,
        release=release.release.release,
        status=release.release.status,
        bytes=tensors.bytes,
        bytes_by_class=by_class,
        active_bytes_per_token=round(active),
        evidence=tensors.evidence,
        includes_vision=any(group.tensor_class == "vision" for group in tensors.groups),
        note=release.release.note,
    )


def _scaled(by_class: dict[str, int], total: int) -> dict[str, int]:
    """Classes scaled so that they sum to ``total`` exactly; the largest takes the rounding."""
    whole = sum(by_class.values())
    scaled = {name: size * total // whole for name, size in by_class.items()}
    largest = max(scaled, key=lambda name: scaled[name])
    scaled[largest] += total - sum(scaled.values())
    return scaled


def _kv_rows(options: Options, model: ModelSpec, context: int, sequences: int) -> list[KvCacheRow]:
    """The model's own layout in every dtype, and for MLA what other layouts would have cost."""
    wanted = kv_dtype(options.kv_dtype, "--kv-dtype")
    uses_mla = model.uses_mla
    dtypes: tuple[str, ...] = MLA_DTYPES if uses_mla else HEAD_DTYPES
    if options.engine is not None:
        dtypes = ENGINE_DTYPES[options.engine.strip().lower()]
    if any(group.index_head_dim for group in model.kv_groups):
        dtypes = (*dtypes, "fp8_ds_mla") if "fp8_ds_mla" not in dtypes else dtypes
    elif "fp8_ds_mla" in dtypes:
        dtypes = tuple([dtype for dtype in dtypes if dtype != "fp8_ds_mla"])
    if wanted is not None:
        dtypes = (wanted,)
    rows = []
    for dtype in dtypes:
        try:
            rows.append(own_row(model, dtype, context, sequences))
        except UnsupportedKvDtype as error:
            if wanted is not None:
                raise BadRequest(f"--kv-dtype: {error}") from None
    if uses_mla and model.nope_dim:
        compared = wanted if wanted in ("bf16", "f16", "fp8") else "bf16"
        rows += comparison_rows(model, compared or "bf16", context, sequences)
    return rows


def own_row(model: ModelSpec, dtype: str, context: int, sequences: int) -> KvCacheRow:
    one = sequence_bytes(model, dtype, 1, 0, model.layers, context)
    layout = "+".join(dict.fromkeys(group.layout for group in model.kv_groups))
    indexed = " with sparse-attention indexer" if any(group.index_head_dim for group in model.kv_groups) else ""
    window = " with sliding windows" if any(group.window for group in model.kv_groups) else ""
    return KvCacheRow(
        layout=layout,
        dtype=dtype,
        bytes_per_token=one / context,
        bytes=one * sequences,
        tokens=context,
        sequences=sequences,
        note=f"the model's own layout{indexed}{window}",
    )


def comparison_rows(model: ModelSpec, dtype: str, context: int, sequences: int) -> list[KvCacheRow]:
    """What the same attention layers would cache as GQA and MHA."""
    layers = sum([len(group.layers) for group in model.kv_groups if group.layout == "mla"])
    group = next(group for group in model.kv_groups if group.layout == "mla")
    plain = COMPARED_HEAD_DIM
    forms = (
        ("gqa", gqa_bytes(COMPARED_GQA_HEADS, plain, plain, dtype), f"{COMPARED_GQA_HEADS} KV heads of {plain}"),
        ("mha", gqa_bytes(model.heads, plain, plain, dtype), f"{model.heads} heads of {plain}"),
        (
            "mla_expanded_mha",
            gqa_bytes(model.heads, model.q_head_dim, model.v_head_dim, dtype),
            f"this MLA expanded: {model.heads} heads of {model.q_head_dim} and {model.v_head_dim}",
        ),
    )  # fmt: skip
    latent = mla_bytes(group.kv_lora_rank, group.rope_dim, dtype)
    return [
        KvCacheRow(
            layout=name,
            dtype=dtype,
            bytes_per_token=float(size * layers),
            bytes=size * layers * context * sequences,
            tokens=context,
            sequences=sequences,
            note=f"for comparison, {note}: {size / latent:.1f} times the latent",
        )
        for name, size, note in forms
    ]
