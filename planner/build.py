"""Options into a request: every size, name and unit is parsed here and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from formulas.kv_cache import KV_DTYPES
from formulas.units import GIB
from planner.engines import NAMED_ENGINES
from planner.engines.base import divisors
from planner.errors import BadRequest
from planner.kept import kept_of
from planner.machine import Machine
from planner.options import Options
from planner.quantities import parse_count, parse_duration, parse_fraction, parse_tokens, shown
from planner.request import OBJECTIVES, Bounds, Demand, Narrow, PricedRelease, Request, Settings, Traffic
from planner.routing import ROUTINGS
from profiles.drafters import Drafter, find_drafter
from profiles.engines import UnknownVersion, version_tuple
from profiles.library import find_releases, quality_of
from profiles.mixtures import UnknownMixture
from profiles.model import ModelSpec, Release
from profiles.names import UnknownName
from profiles.workloads import DEFAULT_WORKLOAD, load_workload

if TYPE_CHECKING:
    from hwdetect.bench.measured import MeasuredSeries

KV_SYNONYMS: Final = {"auto": "bf16", "fp16": "f16", "fp8_e4m3": "fp8", "bfloat16": "bf16", "float16": "f16"}
MAX_RANKS: Final = 4096
ENCODER_MODES: Final = ("data", "weights")
LORA_RANKS: Final = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks that vLLM 0.33.0 ``vllm/config/lora.py`` admits as the largest."""


def build_request(
    options: Options,
    model: ModelSpec,
    machine: Machine,
    *,
    exact: bool,
    kernels: tuple[MeasuredSeries, ...] = (),
) -> Request:
    """The parsed request; ``kernels`` were measured on this very machine. Raises ``BadRequest`` with one line."""
    narrow = _narrow(options)
    settings = _settings(options)
    releases = _releases(options, model, narrow.engine, exact=exact)
    if exact and narrow.engine is None:
        narrow = replace(narrow, engine=_natural_engine(releases))
    _vllm_only(options, narrow.engine)
    drafter = _drafter(options, model, narrow.engine)
    if drafter is not None:
        settings = replace(settings, draft_tokens=settings.draft_tokens or drafter.tokens)
    demand, given = _demand(options, model, narrow.engine, exact=exact)
    if narrow.engine != "llama.cpp" and narrow.tp is not None and model.heads % narrow.tp:
        allowed = ", ".join(str(ways) for ways in divisors(model.heads))
        raise BadRequest(f"--tp: {narrow.tp} does not divide the {model.heads} attention heads; {allowed} are allowed")
    bounds = _bounds(options)
    _one_suite(bounds, model, releases)
    return Request(
        model=model,
        machine=machine,
        demand=demand,
        releases=releases,
        settings=settings,
        narrow=narrow,
        bounds=bounds,
        objective=_choice(options.objective, "--objective", OBJECTIVES, "balanced"),  # type: ignore[arg-type]
        top=parse_count(options.top, "--top", high=1000) if options.top is not None else 5,
        exact=exact,
        workload_given=given,
        kernels=kernels,
        drafter=drafter,
        traffic=_traffic(options),
    )


def _traffic(options: Options) -> Traffic | None:
    if not options.simulate:
        for value, flag in ((options.arrival_rate, "--arrival-rate"), (options.length_variation, "--length-variation")):
            if value is not None:
                raise BadRequest(f"{flag} needs --simulate")
        return None
    rate = _number(options.arrival_rate, "--arrival-rate", "requests per second above zero", 1e-6, 1e6)
    variation = _number(options.length_variation, "--length-variation", "a share from 0 to 3", 0.0, 3.0)
    return Traffic(rate, variation or 0.0)


def _number(text: str | None, flag: str, allowed: str, low: float, high: float) -> float | None:
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise BadRequest(f"{flag}: {shown(text)} is not {allowed}")
    return value


def _natural_engine(releases: tuple[PricedRelease, ...]) -> str:
    """The engine an estimate means without ``--engine``: what its files are made for."""
    return "llama.cpp" if any(release.release.container == "gguf" for release in releases) else "vllm"


def _choice(text: str | None, flag: str, allowed: Iterable[str], default: str) -> str:
    if text is None:
        return default
    names = tuple(allowed)
    if text.strip().lower() not in names:
        raise BadRequest(f"{flag}: {shown(text)} is not allowed; {', '.join(names)} are")
    return text.strip().lower()


def _narrow(options: Options) -> Narrow:
    def rank(text: str | None, flag: str) -> int | None:
        return parse_count(text, flag, high=MAX_RANKS) if text is not None else None

    engine = _choice(options.engine, "--engine", NAMED_ENGINES, "") or None
    if options.engine_version is not None:
        if engine is None:
            raise BadRequest("--engine-version needs --engine")
        try:
            version_tuple(options.engine_version)
        except UnknownVersion as error:
            raise BadRequest(f"--engine-version: {error}") from None
    return Narrow(
        engine=engine,
        engine_version=options.engine_version,
        kv_dtype=kv_dtype(options.kv_dtype, "--kv-dtype"),
        tp=rank(options.tp, "--tp"),
        pp=rank(options.pp, "--pp"),
        dp=rank(options.dp, "--dp"),
        ep=rank(options.ep, "--ep"),
        dcp=rank(options.dcp, "--dcp"),
    )


def kv_dtype(text: str | None, flag: str) -> str | None:
    """A KV dtype by any of its spellings. Raises ``BadRequest``."""
    if text is None:
        return None
    name = text.strip().lower()
    name = KV_SYNONYMS.get(name, name)
    if name not in KV_DTYPES:
        raise BadRequest(f"{flag}: {shown(text)} is not a KV dtype; {', '.join(KV_DTYPES)} are allowed")
    return name


def _settings(options: Options) -> Settings:
    def count(text: str | None, flag: str) -> int | None:
        return parse_tokens(text, flag) if text is not None else None

    flash = None
    if options.flash_attention is not None:
        flash = _choice(options.flash_attention, "--flash-attention", ("on", "off"), "on") == "on"
    utilization = options.gpu_memory_utilization
    slots = parse_count(options.max_loras, "--max-loras", high=1024) if options.max_loras is not None else 0
    if options.max_lora_rank is not None and not slots:
        raise BadRequest("--max-lora-rank needs --max-loras")
    if options.text_only and options.mm_encoder_tp_mode is not None:
        raise BadRequest("--text-only leaves out the vision tower that --mm-encoder-tp-mode is about")
    return Settings(
        utilization=parse_fraction(utilization, "--gpu-memory-utilization") if utilization is not None else None,
        max_num_batched_tokens=count(options.max_num_batched_tokens, "--max-num-batched-tokens"),
        max_num_seqs=count(options.max_num_seqs, "--max-num-seqs"),
        text_only=options.text_only,
        batch=count(options.batch, "--batch"),
        ubatch=count(options.ubatch, "--ubatch"),
        cache_type_k=kv_dtype(options.cache_type_k, "--cache-type-k"),
        cache_type_v=kv_dtype(options.cache_type_v, "--cache-type-v"),
        sequences=count(options.sequences, "--sequences"),
        kv_unified=True if options.kv_unified else None,
        flash_attention=flash,
        n_cpu_moe=parse_count(options.n_cpu_moe, "--n-cpu-moe", low=0, high=100_000)
        if options.n_cpu_moe is not None
        else None,
        enforce_eager=options.enforce_eager,
        vision_sharded=options.mm_encoder_tp_mode is not None
        and _choice(options.mm_encoder_tp_mode, "--mm-encoder-tp-mode", ENCODER_MODES, "data") == "weights",
        max_loras=slots,
        max_lora_rank=_lora_rank(options) if slots else 0,
        cpu_offload_bytes=round(_gibibytes(options.cpu_offload_gb, "--cpu-offload-gb") * GIB)
        if options.cpu_offload_gb is not None
        else 0,
        draft_tokens=parse_count(options.speculative_tokens, "--speculative-tokens", high=64)
        if options.speculative_tokens is not None
        else 0,
        accept_length=_number(options.accept_length, "--accept-length", "a number of tokens from 1 to 64", 1.0, 64.0),
    )


def _lora_rank(options: Options) -> int:
    rank = parse_count(options.max_lora_rank, "--max-lora-rank", high=512) if options.max_lora_rank is not None else 16
    if rank not in LORA_RANKS:
        allowed = ", ".join(str(one) for one in LORA_RANKS)
        raise BadRequest(f"--max-lora-rank: {rank} is not allowed; {allowed} are")
    return rank


def _gibibytes(text: str, flag: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e6:
        raise BadRequest(f"{flag}: {shown(text)} is not a number of GiB")
    return value


def _vllm_only(options: Options, engine: str | None) -> None:
    """Raises ``BadRequest`` for a vLLM setting where another engine is asked for: its memory there is not known."""
    if engine in (None, "vllm"):
        return
    for flag, value in (
        ("--mm-encoder-tp-mode", options.mm_encoder_tp_mode),
        ("--max-loras", options.max_loras),
        ("--max-lora-rank", options.max_lora_rank),
        ("--cpu-offload-gb", options.cpu_offload_gb),
    ):
        if value is not None:
            raise BadRequest(f"{flag} is a setting of vLLM, not of {engine}")


def _drafter(options: Options, model: ModelSpec, engine: str | None) -> Drafter | None:
    """The drafter of ``--speculative``. Raises ``BadRequest`` where the model has none of that method."""
    if options.speculative is None:
        for flag, value in (
            ("--speculative-tokens", options.speculative_tokens),
            ("--accept-length", options.accept_length),
        ):
            if value is not None:
                raise BadRequest(f"{flag} needs --speculative")
        return None
    if engine not in (None, "vllm", "sglang"):
        raise BadRequest(f"--speculative is planned for vLLM and SGLang, not for {engine}")
    has_mtp = any(group.tensor_class == "mtp" for group in model.tensors)
    try:
        return find_drafter(model.id, options.speculative.strip().lower(), has_mtp=has_mtp)
    except UnknownName as error:
        known = ", ".join(error.candidates) or "none"
        raise BadRequest(
            f"--speculative: {shown(options.speculative)} is no drafter known for {model.id}; known are {known}"
        ) from None


def _demand(options: Options, model: ModelSpec, engine: str | None, *, exact: bool) -> tuple[Demand, bool]:
    """The demand, and whether the KV cache has to hold the requests (not only one context) for it to fit."""
    name = DEFAULT_WORKLOAD if options.workload is None else options.workload
    try:
        base = load_workload(name.strip().lower())
    except UnknownName as error:
        raise BadRequest(f"--workload: {error}") from None
    context_text = options.context if options.max_model_len is None else options.max_model_len
    flag = "--context" if options.max_model_len is None else "--max-model-len"
    context = parse_tokens(context_text, flag) if context_text is not None else min(base.context, model.max_context)
    sequences = parse_tokens(options.sequences, "--sequences") if options.sequences is not None and exact else 1
    per_sequence = context // sequences if engine == "llama.cpp" else context
    if per_sequence > model.max_context:
        raise BadRequest(
            f"{flag}: {context:,} tokens are more than the {model.max_context:,} that {model.id} was made for"
        )
    asked = options.workload is not None or any(
        value is not None for value in (options.concurrency, options.input_tokens, options.output_tokens)
    )
    alone = exact and not asked
    concurrency = (
        parse_count(options.concurrency, "--concurrency", high=10_000_000)
        if options.concurrency is not None
        else 1
        if alone
        else base.concurrency
    )
    input_tokens = (
        parse_tokens(options.input_tokens, "--input-tokens") if options.input_tokens is not None else base.input_tokens
    )
    output_tokens = (
        parse_tokens(options.output_tokens, "--output-tokens")
        if options.output_tokens is not None
        else base.output_tokens
    )
    if input_tokens + output_tokens > context:
        if options.input_tokens is not None or options.output_tokens is not None:
            raise BadRequest(
                f"--input-tokens {input_tokens:,} and --output-tokens {output_tokens:,} exceed the context of "
                f"{context:,} tokens"
            )
        output_tokens = max(1, min(output_tokens, context // 4))
        input_tokens = max(1, context - output_tokens)
    return (
        Demand(
            name=base.name,
            context=context,
            concurrency=concurrency,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            images=parse_count(options.images, "--images", low=0, high=10_000)
            if options.images is not None
            else base.images,
            prefix_cache_hit_rate=base.prefix_cache_hit_rate or 0.0,
            routing=_choice(options.routing, "--routing", ROUTINGS, "uniform"),  # type: ignore[arg-type]
        ),
        not exact,
    )


def _bounds(options: Options) -> Bounds:
    def number(text: str | None, flag: str) -> float | None:
        if text is None:
            return None
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not 0 < value < 1e12:
            raise BadRequest(f"{flag}: {shown(text)} is not a number above zero")
        return value

    if options.max_kld is not None and options.quality_suite is None:
        raise BadRequest("--max-kld needs --quality-suite: values of different suites cannot be compared")
    return Bounds(
        ttft_s=parse_duration(options.ttft, "--ttft") if options.ttft is not None else None,
        tpot_s=parse_duration(options.tpot, "--tpot") if options.tpot is not None else None,
        min_throughput=number(options.min_throughput, "--min-throughput"),
        max_kld=number(options.max_kld, "--max-kld"),
        quality_suite=options.quality_suite,
    )


def _one_suite(bounds: Bounds, model: ModelSpec, releases: Iterable[PricedRelease]) -> None:
    """Values of different suites cannot be compared. Raises ``BadRequest`` where the text names several."""
    if bounds.quality_suite is None:
        return
    wanted = bounds.quality_suite.casefold()
    losses = [loss for one in releases for loss in quality_of(model.id, one.release)]
    suites = sorted(
        {loss.suite for loss in losses if "kl" in loss.metric.casefold() and wanted in loss.suite.casefold()}
    )
    if len(suites) > 1 and wanted not in [suite.casefold() for suite in suites]:
        raise BadRequest(f"--quality-suite: {shown(bounds.quality_suite)} names several; {', '.join(suites)} are known")


def _releases(options: Options, model: ModelSpec, engine: str | None, *, exact: bool) -> tuple[PricedRelease, ...]:
    """Releases to consider: those asked for, or every published one that an engine here loads."""
    if options.quant is not None:
        try:
            chosen = find_releases(model, options.quant)
        except UnknownName as error:
            raise BadRequest(f"--quant: {error}") from None
        if exact and len(chosen) > 1:
            chosen = tuple([release for release in chosen if _loads(engine, release)]) or chosen
            if len(chosen) > 1:
                names = ", ".join(f"{release.publisher}/{release.quantization}" for release in chosen)
                raise BadRequest(f"--quant: {shown(options.quant)} names several releases; write one of {names}")
    elif exact:
        chosen = _only_release(model, engine)
    else:
        chosen = tuple([release for release in model.releases if release.status == "published"])
    priced = price_releases(model, chosen)
    if not priced:
        containers = ", ".join(dict.fromkeys(release.container for release in chosen)) or "published"
        raise BadRequest(f"--quant: no engine here loads {containers} files of {model.id}")
    return priced


def _loads(engine: str | None, release: Release) -> bool:
    if engine is None:
        return True
    return (release.container == "gguf") == (engine == "llama.cpp")


def _only_release(model: ModelSpec, engine: str | None) -> tuple[Release, ...]:
    """The release an estimate means without ``--quant``: the checkpoint as its maker published it."""
    for release in model.releases:
        if release.quantization == model.native_quantization and _loads(engine, release):
            return (release,)
    known = ", ".join(
        f"{release.publisher}/{release.quantization}" for release in model.releases if _loads(engine, release)
    )
    raise BadRequest(f"--quant is needed for this engine; known are {known or 'none'}")


def price_releases(model: ModelSpec, releases: Iterable[Release]) -> tuple[PricedRelease, ...]:
    """Releases with their tensors. Raises ``BadRequest`` for a mixture that no rule reads."""
    priced = []
    for release in releases:
        if release.container == "mlx":
            continue
        try:
            kept = kept_of(model, release)
        except UnknownMixture as error:
            raise BadRequest(str(error)) from None
        priced.append(PricedRelease(release, kept.tensors, kept=kept.entries))
    return tuple(priced)
