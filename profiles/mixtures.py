"""What a release stores: a model's tensors in the formats of one set of files, published or hypothetical."""

from __future__ import annotations

from typing import NamedTuple, get_args

from formulas.storage import UnknownFormat
from profiles.llama_quantize import DEFAULT_TYPE, gguf_groups, in_format, quantize
from profiles.model import Evidence, ModelSpec, Release, Role, TensorClass, TensorGroup
from profiles.quantization import uniform

_KEPT_ROLES: tuple[Role, ...] = (
    *("norm", "router", "router_bias"),
    *("attention_bias", "attention_sink", "expert_bias", "hyper_connection", "token_table"),
)
_UNVERIFIED_ROLES: tuple[Role, ...] = (
    *("linear_in", "linear_conv", "linear_state", "linear_out"),
    *("compressor", "hyper_connection", "token_table"),
)
_CLASSES: tuple[str, ...] = get_args(TensorClass)


class UnknownMixture(ValueError):
    """A mixture, or a quantization's name, that no rule reads."""


class ReleaseTensors(NamedTuple):
    """The tensors of a release.

    ``groups`` carry their formats unscaled; ``scale`` is the factor from their sum to ``bytes``: 1.0,
    unless the tensor types are not known and the list was stretched to the published size. ``evidence``
    is ``exact`` where the list follows from the model's own configuration or meets the published size to
    the byte, ``modelled`` where the rules of llama.cpp, or the classes that a publisher named, were
    applied to it, and ``assumed`` for a scaled list or an architecture whose conversion nobody checked.
    """

    groups: tuple[TensorGroup, ...]
    scale: float
    bytes: int
    evidence: Evidence


class BaseType(NamedTuple):
    """The file type of ``llama-quantize`` nearest to a quantization's name.

    ``needs_ik_llama`` marks types that only the ik_llama.cpp fork loads; ``file_type`` is then the nearest of
    llama.cpp's by bits per weight.
    """

    file_type: str
    needs_ik_llama: bool


# Bits per weight: IQ1_KT 1.75, IQ2_KT 2.125, IQ2_KS 2.1875, IQ2_K 2.375, IQ2_KL 2.6875, IQ3_KT 3.125,
# IQ3_KS 3.1875, IQ3_K 3.4375, IQ4_KSS and IQ4_KT 4.0, IQ4_KS 4.25, IQ4_K 4.5, IQ5_KS 5.25, IQ5_K 5.5,
# Q6_0 6.5, IQ6_K 6.625. Source: github.com/ikawrakow/ik_llama.cpp.
_IK_LLAMA = {
    "IQ1_KT": "IQ1_M",
    "IQ2_KT": "IQ2_XXS",
    "IQ2_KS": "IQ2_XXS",
    "IQ2_K": "IQ2_XS",
    "IQ2_KL": "Q2_K_S",
    "IQ3_KT": "IQ3_XXS",
    "IQ3_KS": "IQ3_XXS",
    "IQ3_K": "IQ3_S",
    "IQ4_KSS": "IQ4_XS",
    "IQ4_KT": "IQ4_XS",
    "IQ4_KS": "IQ4_XS",
    "IQ4_K": "IQ4_NL",
    "IQ5_KS": "Q5_K_S",
    "IQ5_K": "Q5_K_S",
    "Q6_0": "Q6_K",
    "IQ6_K": "Q6_K",
}
_NAMED_FOR = {
    "Q2_K_L": "Q2_K",
    "Q2_K_XL": "Q2_K",
    "Q3_K": "Q3_K_M",
    "Q3_K_XL": "Q3_K_M",
    "Q4_K": "Q4_K_M",
    "Q4_K_L": "Q4_K_M",
    "Q4_K_XL": "Q4_K_M",
    "Q4_X": "Q4_0",
    "Q5_K": "Q5_K_M",
    "Q5_K_L": "Q5_K_M",
    "Q5_K_XL": "Q5_K_M",
    "Q6_K_L": "Q6_K",
    "Q6_K_XL": "Q6_K",
    "Q8_K": "Q8_0",
    "Q8_K_XL": "Q8_0",
    "MXFP4": "MXFP4_MOE",
}
_PREFIXES = ("UD-", "SMOL-", "MIX-", "I1-")
_REPACKED = ("_R4", "_R8", "_R16")


def base_type(quantization: str) -> BaseType:
    """The file type that a GGUF quantization is named for, prefixes and repacking suffixes aside.

    Raises ``UnknownMixture``.

    >>> base_type("UD-Q2_K_XL").file_type, base_type("Q4_X").file_type
    ('Q2_K', 'Q4_0')
    >>> base_type("smol-IQ1_KT")
    BaseType(file_type='IQ1_M', needs_ik_llama=True)
    """
    name = quantization.strip().upper()
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    bare = name
    for suffix in _REPACKED:
        bare = bare.removesuffix(suffix)
    if bare in DEFAULT_TYPE or bare in _NAMED_FOR:
        return BaseType(_NAMED_FOR.get(bare, bare), bare != name)
    if bare in _IK_LLAMA:
        return BaseType(_IK_LLAMA[bare], True)
    raise UnknownMixture(f"no GGUF file type is known by the name {quantization!r}")


def release_tensors(model: ModelSpec, release: Release) -> ReleaseTensors:
    """The tensors of ``release`` of ``model``, under its mixture (see ``Release``).

    Beside ``experts`` and ``rest`` a mixture may name any tensor class. Norms, routers and biases keep
    their format, and so does a class that the mixture does not name when it has no ``rest``. Raises
    ``UnknownMixture``.
    """
    groups = _stored(model, release)
    computed = sum(group.bytes for group in groups)
    if not release.mixture_known:
        published = release.published_bytes or computed
        return ReleaseTensors(groups, published / computed, published, "assumed")
    return ReleaseTensors(groups, 1.0, computed, _evidence(release, groups, computed))


def _evidence(release: Release, groups: tuple[TensorGroup, ...], computed: int) -> Evidence:
    is_converted = release.container == "gguf" and release.mixture != "header"
    if is_converted and any(group.role in _UNVERIFIED_ROLES for group in groups):
        return "assumed"
    if release.size_evidence == "exact" and release.published_bytes is not None:
        return "exact" if release.published_bytes == computed else "modelled"
    return "exact" if release.mixture.partition(":")[0] in ("native", "header", "format") else "modelled"


def _stored(model: ModelSpec, release: Release) -> tuple[TensorGroup, ...]:
    kind, _, value = release.mixture.partition(":")
    try:
        if kind == "gguf" and value in DEFAULT_TYPE:
            return quantize(model, value)
        with_vision = tuple(g for g in model.tensors if release.includes_vision or g.tensor_class != "vision")
        if release.mixture in ("native", "header"):
            return with_vision
        if release.container == "gguf":
            return _by_class(gguf_groups(model), release.mixture)
        if kind == "format":
            kept = {group.name for group in with_vision}
            return tuple(group for group in uniform(model, value) if group.name in kept)
        return _by_class(with_vision, release.mixture)
    except UnknownFormat as error:
        raise UnknownMixture(f"mixture {release.mixture!r}: {error}") from error


def _by_class(groups: tuple[TensorGroup, ...], mixture: str) -> tuple[TensorGroup, ...]:
    formats: dict[str, str] = {}
    for part in mixture.split(","):
        name, separator, format_name = part.strip().partition(":")
        tensor_class = {"experts": "routed_experts"}.get(name, name)
        if not separator or (tensor_class not in _CLASSES and tensor_class != "rest"):
            raise UnknownMixture(f"mixture {mixture!r}: {part.strip()!r} names no tensor class and format")
        formats[tensor_class] = format_name
    rest = formats.get("rest")
    stored = []
    for group in groups:
        chosen = formats.get(group.tensor_class, rest)
        keeps = group.role in _KEPT_ROLES or len(group.shape) < 2 or chosen is None
        stored.append(group if keeps or chosen is None else in_format(group, chosen))
    return tuple(stored)
