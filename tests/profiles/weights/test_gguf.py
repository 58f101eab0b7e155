"""A GGUF file as a model: bytes, classes, geometry and its one release."""

from __future__ import annotations

from collections import Counter
from math import prod
from pathlib import Path

import pytest

from profiles.headers import BadModelFile, read_gguf
from profiles.library import find_releases, load_model
from profiles.mixtures import release_tensors
from profiles.model import ModelSpec, active_parameters, bytes_by_class
from profiles.names import UnknownName
from profiles.weights.gguf_geometry import ARCHITECTURES
from tests.profiles.weights.architectures import (
    EXPERT_FFN,
    EXPERTS,
    HIDDEN,
    LAYERS,
    MODELS,
    Gguf,
    build,
    ends,
    ffn,
    heads,
    repeated,
    t,
)
from tests.support.gguf_models import Mixture, kimi_k25_spec, routed_experts, uniform
from tests.support.gguf_writer import Tensor, Writable, write_gguf
from tests.support.llama_cpp import load_breakdown

KIMI_PARAMETERS = 1_026_408_232_448
QUANTIZED = ("token_embd", "output.", "ffn_", "attn_q", "attn_k", "attn_v", "attn_output")


def load(folder: Path, spec: Writable, name: str = "model", splits: int = 1) -> ModelSpec:
    return load_model(write_gguf(folder / f"{name}.gguf", spec, data="sparse", splits=splits)[0])


def mixed(spec: Gguf, kinds: dict[str, str]) -> Gguf:
    """Matrices in the type that the end of their name says."""
    tensors = []
    for tensor in spec.listed:
        kind = next((kind for end, kind in kinds.items() if tensor.name.endswith(end)), tensor.kind)
        tensors.append(tensor._replace(kind=kind))
    return Gguf(spec.metadata, tuple(tensors))


@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize(
    ("mixture", "name", "model_bytes"),
    [
        (uniform("q8_0"), "Q8_0", 1_091_046_901_760),
        (uniform("f16"), "F16", 2_053_148_825_600),
        (routed_experts("q4_0", "q8_0"), "Q4_0", 583_703_889_920),
    ],
)
def test_kimi_k25_at_full_size(tmp_path: Path, mixture: Mixture, name: str, model_bytes: int, splits: int) -> None:
    """Sizes as llama.cpp itself gives for these files. Any shard stands for the set."""
    paths = write_gguf(tmp_path / "Kimi-K2.5.gguf", kimi_k25_spec(mixture), data="sparse", splits=splits)
    model = load_model(paths[-1])
    (release,) = model.releases
    assert (model.parameters, release.published_bytes) == (KIMI_PARAMETERS, model_bytes)
    assert sum(group.bytes for group in model.tensors) == model_bytes
    assert (release.publisher, release.quantization, release.release) == ("local", name, str(paths[0]))
    assert (release_tensors(model, release).bytes, release_tensors(model, release).evidence) == (model_bytes, "exact")
    assert (model.id, model.family, model.layers, model.vocab, model.max_context) == (
        "kimi-k2.5", "deepseek2", 61, 163_840, 262_144,
    )  # fmt: skip


@pytest.mark.parametrize(
    "mixture",
    [
        uniform("iq4_xs"),
        routed_experts("iq1_s", "q8_0"),
        routed_experts("tq1_0", "q5_k"),
        routed_experts("mxfp4", "q6_k"),
    ],
    ids=["IQ4_XS", "IQ1_S", "TQ1_0", "MXFP4"],
)
def test_kimi_k25_in_other_mixtures_is_what_llama_cpp_allocates(tmp_path: Path, mixture: Mixture) -> None:
    pytest.importorskip("xllamacpp", exc_type=ModuleNotFoundError)
    (path,) = write_gguf(tmp_path / "model.gguf", kimi_k25_spec(mixture), data="sparse")
    theirs = load_breakdown(path, n_ctx=8192, n_batch=512)
    model = load_model(path)
    assert (model.parameters, model.releases[0].published_bytes) == (theirs.parameters, theirs.model_bytes)
    (cache,) = model.kv_groups
    assert 61 * 8192 * 2 * (cache.kv_lora_rank + cache.rope_dim) == theirs.kv_cache_bytes == 575_668_224


def test_kimi_k25_has_the_geometry_of_its_configuration(tmp_path: Path) -> None:
    """The one that the card gives, which is checked against the publisher's own totals."""
    model, card = load(tmp_path, kimi_k25_spec(uniform("f16"))), load_model("kimi-k2.5")
    geometry = (
        "hidden",
        "vocab",
        "layers",
        "max_context",
        "heads",
        "q_head_dim",
        "v_head_dim",
        "nope_dim",
        "dense_ffn",
    )
    for field in (*geometry, "moe", "kv_groups", "mtp_layers", "tied_embeddings"):
        assert getattr(model, field) == getattr(card, field), field
    assert active_parameters(model, with_embedding=True) == active_parameters(card, with_embedding=True)
    ours = bytes_by_class(model.tensors)
    theirs = bytes_by_class(release_tensors(card, find_releases(card, "hypothetical/F16")[0]).groups)
    assert ours == theirs


def test_a_file_is_requantized_as_its_configuration_would_be(tmp_path: Path) -> None:
    model, card = load(tmp_path, kimi_k25_spec(uniform("f16")), "f16"), load_model("kimi-k2.5")
    for name in ("Q4_K_M", "IQ1_S", "Q2_K"):
        (release,), (of_card,) = find_releases(model, name), find_releases(card, f"hypothetical/{name}")
        assert release.status == "hypothetical"
        assert release_tensors(model, release).bytes == release_tensors(card, of_card).bytes


def test_a_file_is_no_checkpoint_in_another_format(tmp_path: Path) -> None:
    model = load(tmp_path, MODELS["deepseek2"])
    assert find_releases(model, "bf16")[0].container == "gguf"
    for name in ("fp8", "int4"):
        with pytest.raises(UnknownName, match="local/F32"):
            find_releases(model, name)


@pytest.mark.parametrize("name", MODELS)
def test_every_architecture_is_what_llama_cpp_allocates(tmp_path: Path, name: str) -> None:
    """Bytes of the tensors and of the KV cache of two sequences, against llama.cpp's own breakdown."""
    pytest.importorskip("xllamacpp", exc_type=ModuleNotFoundError)
    cells, sequences = 1024, 2
    (path,) = write_gguf(tmp_path / "model.gguf", MODELS[name], data="sparse")
    theirs = load_breakdown(path, n_ctx=cells, n_batch=64, n_ubatch=64, n_seq_max=sequences)
    model = load_model(path)
    kv_bytes = 0
    for group in model.kv_groups:
        width = group.kv_lora_rank + group.rope_dim + group.index_head_dim
        width += group.n_kv_heads * (group.head_dim + group.v_head_dim)
        kv_bytes += len(group.layers) * (2 * width * cells + sequences * group.state_bytes)
    assert kv_bytes == theirs.kv_cache_bytes
    assert sum(group.bytes for group in model.tensors) == sum(tensor.nbytes for tensor in read_gguf(path).tensors)
    loaded = sum(
        -(-group.bytes_each // 32) * 32 * group.instances for group in model.tensors if group.tensor_class != "mtp"
    )
    # Of the prediction layer it does not load, llama.cpp allocates the router's bias in this one architecture.
    kept = 4 * EXPERTS if name == "glm-dsa mtp" else 0
    assert loaded + kept == theirs.model_bytes


def test_every_architecture_that_is_read_was_tried() -> None:
    assert {name.partition(" ")[0] for name in MODELS} == set(ARCHITECTURES)


@pytest.mark.parametrize("name", MODELS)
def test_every_tensor_has_a_part(tmp_path: Path, name: str) -> None:
    model = load(tmp_path, MODELS[name])
    assert not [note for note in model.notes if "no known part" in note]
    assert model.parameters == sum(prod(tensor.shape) for tensor in MODELS[name].listed)
    assert all(layer < model.layers for g in model.tensors if g.tensor_class != "mtp" for layer in g.layers)


def test_classes_of_a_mixture_of_experts(tmp_path: Path) -> None:
    """By hand, from the shapes in ``architectures``."""
    elements = {kind: size // 4 for kind, size in bytes_by_class(load(tmp_path, MODELS["deepseek2"]).tensors).items()}
    assert elements["routed_experts"] == 3 * 3 * EXPERTS * HIDDEN * EXPERT_FFN
    assert elements["shared_experts"] == 3 * 3 * HIDDEN * EXPERT_FFN
    assert elements["dense_ffn"] == 3 * HIDDEN * 512
    assert elements["router"] == 3 * (EXPERTS * HIDDEN + EXPERTS)
    assert elements["embedding"] == elements["lm_head"] == 320 * HIDDEN
    assert elements["norms"] == HIDDEN + 4 * (HIDDEN + HIDDEN + 128 + 128)


def test_a_layer_may_have_any_mixture_of_types(tmp_path: Path) -> None:
    kinds = {
        "blk.0.ffn_down.weight": "q6_k",
        "blk.2.ffn_down.weight": "q6_k",
        "ffn_down.weight": "q4_k",
        "ffn_up.weight": "iq2_xxs",
        "attn_v.weight": "q8_0",
        "token_embd.weight": "bf16",
    }
    spec = mixed(MODELS["llama"], kinds)
    model = load(tmp_path, spec)
    down = {group.format: group.layers for group in model.tensors if group.role == "dense_down"}
    assert down == {"Q6_K": (0, 2), "Q4_K": (1, 3)}
    stored: Counter[str] = Counter()
    for group in model.tensors:
        stored[group.format.lower()] += group.bytes
    written: Counter[str] = Counter()
    for tensor in spec.listed:
        written[tensor.kind] += tensor.size_bytes
    assert stored == written


def test_tied_embeddings(tmp_path: Path) -> None:
    assert load(tmp_path, MODELS["llama tied"], "tied").tied_embeddings
    assert not load(tmp_path, MODELS["llama"], "own").tied_embeddings


def test_an_old_conversion_caches_every_head(tmp_path: Path) -> None:
    model = load(tmp_path, MODELS["deepseek2 old"])
    (cache,) = model.kv_groups
    assert (cache.layout, cache.n_kv_heads, cache.head_dim, cache.v_head_dim) == ("mha", 4, 96, 64)
    assert any("old conversion" in note for note in model.notes)


def test_prediction_layers_come_after_the_decoder(tmp_path: Path) -> None:
    model = load(tmp_path, MODELS["glm4moe mtp"])
    assert (model.layers, model.mtp_layers) == (LAYERS, 1)
    mtp = [group for group in model.tensors if group.tensor_class == "mtp"]
    assert {group.layers for group in mtp} == {(LAYERS,)}
    assert "mtp_projection" in {group.role for group in mtp}
    assert model.moe is not None
    assert model.moe.layers == (1, 2, 3)


def test_windows_are_those_of_the_architecture(tmp_path: Path) -> None:
    def windows(name: str, spec: Gguf) -> dict[int, int | None]:
        return {layer: g.window for g in load(tmp_path, spec, name).kv_groups for layer in g.layers}

    alternating = MODELS["gpt-oss"]
    assert windows("a", alternating) == {0: 128, 1: None, 2: 128, 3: None}
    pattern = "gpt-oss__attention__sliding_window_pattern"
    assert windows("b", alternating.with_metadata(**{pattern: [1, 1, 0, 1]})) == {0: 128, 1: 128, 2: None, 3: 128}
    assert windows("c", alternating.with_metadata(**{pattern: 1})) == dict.fromkeys(range(4))
    assert windows("d", MODELS["llama4"]) == {0: 8192, 1: 8192, 2: 8192, 3: None}
    assert windows("e", MODELS["llama4"].with_metadata(llama4__attention__sliding_window=0)) == dict.fromkeys(range(4))


def test_heads_may_differ_by_layer(tmp_path: Path) -> None:
    layers = [2, 4, 2, 4]
    tensors = [*ends(), *(x for i, kv in enumerate(layers) for x in (*heads(i, kv_heads=kv), *ffn(i)))]
    model = load(tmp_path, build("llama", tensors, {"attention.head_count_kv": layers}))
    assert {g.n_kv_heads: (g.layout, g.layers) for g in model.kv_groups} == {2: ("gqa", (0, 2)), 4: ("mha", (1, 3))}


@pytest.mark.parametrize(
    ("file_type", "name"), [(15, "Q4_K_M"), (24, "IQ1_S"), (1024 + 7, "Q8_0"), (9999, "Q6_K"), (None, "Q6_K")]
)
def test_the_name_is_the_file_type_or_the_type_of_most_bytes(tmp_path: Path, file_type: int | None, name: str) -> None:
    spec = mixed(MODELS["llama"], dict.fromkeys(("ffn_down.weight", "ffn_up.weight", "ffn_gate.weight"), "q6_k"))
    spec = mixed(spec, dict.fromkeys(("_q.weight", "_k.weight", "_v.weight", "output.weight", "embd.weight"), "q4_k"))
    model = load(tmp_path, spec if file_type is None else spec.with_metadata(general__file_type=file_type))
    assert model.native_quantization == model.releases[0].quantization == name


def test_tensors_of_no_known_part_are_counted_and_told(tmp_path: Path) -> None:
    strange = [t("blk.1.attn_strange.weight", 64, 8), t("blk.2.attn_strange.weight", 64, 8), t("oddity", 32)]
    model = load(tmp_path, build("llama", [*repeated(lambda i: [*heads(i), *ffn(i)]), *strange]))
    plain = load(tmp_path, MODELS["llama"], "plain")
    added = 4 * (2 * 64 * 8 + 32)
    assert bytes_by_class(model.tensors)["norms"] == bytes_by_class(plain.tensors)["norms"] + added
    assert (
        f"3 tensors of {added:,} bytes have no known part in this architecture (first 'blk.1.attn_st" in model.notes[0]
    )


def test_fused_tensors_are_one(tmp_path: Path) -> None:
    def layer(number: int) -> list[Tensor]:
        block = f"blk.{number}."
        apart = [each for each in heads(number) if not each.name.endswith(("_q.weight", "_k.weight", "_v.weight"))]
        return [
            *apart,
            t(f"{block}attn_qkv.weight", HIDDEN, (4 + 2 * 2) * 64),
            t(f"{block}ffn_gate_inp.weight", HIDDEN, EXPERTS),
            t(f"{block}ffn_gate_up_exps.weight", HIDDEN, 2 * EXPERT_FFN, EXPERTS),
            t(f"{block}ffn_down_exps.weight", EXPERT_FFN, HIDDEN, EXPERTS),
        ]

    values = {"expert_count": EXPERTS, "expert_used_count": 2}
    model = load(tmp_path, build("qwen3moe", repeated(layer), values))
    assert bytes_by_class(model.tensors)["routed_experts"] == 4 * LAYERS * 3 * EXPERTS * HIDDEN * EXPERT_FFN
    assert model.moe is not None
    assert model.moe.expert_ffn == EXPERT_FFN


def test_a_folder_with_one_model_is_that_model(tmp_path: Path) -> None:
    write_gguf(tmp_path / "Tiny-F32.gguf", MODELS["llama"], data="sparse", splits=3)
    assert load_model(tmp_path).name == "Tiny-F32"
    write_gguf(tmp_path / "Other-F32.gguf", MODELS["llama"], data="sparse")
    with pytest.raises(BadModelFile, match=r"holds 2 GGUF models: 'Other-F32\.gguf', 'Tiny-F32-00001-of-00003\.gguf'"):
        load_model(tmp_path)
