"""The vision projector beside a GGUF model: found, counted as vision, never taken for a model."""

from __future__ import annotations

from pathlib import Path

import pytest

from profiles.headers import BadModelFile
from profiles.library import load_model
from profiles.mixtures import release_tensors
from profiles.model import Vision, bytes_by_class
from tests.profiles.weights.architectures import HIDDEN, MODELS, Gguf
from tests.support.gguf_writer import Tensor, write_gguf

BLOCKS, WIDTH, WIDE = 3, 128, 512


def projector(kind: str = "f16", leads_to: int = HIDDEN) -> Gguf:
    """A small vision tower with the names that llama.cpp gives it."""
    tensors = [
        Tensor("v.patch_embd.weight", (14, 14, 3, WIDTH), kind),
        Tensor("v.position_embd.weight", (WIDTH, 64), "f32"),
        Tensor("mm.1.weight", (WIDTH, leads_to), kind),
        Tensor("mm.1.bias", (leads_to,), "f32"),
    ]
    for block in range(BLOCKS):
        name = f"v.blk.{block}."
        tensors += [
            Tensor(f"{name}attn_qkv.weight", (WIDTH, 3 * WIDTH), kind),
            Tensor(f"{name}attn_out.weight", (WIDTH, WIDTH), kind),
            Tensor(f"{name}attn_out.bias", (WIDTH,), "f32"),
            Tensor(f"{name}ffn_up.weight", (WIDTH, WIDE), kind),
            Tensor(f"{name}ffn_down.weight", (WIDE, WIDTH), kind),
            Tensor(f"{name}ln1.weight", (WIDTH,), "f32"),
        ]
    vision = {
        "block_count": BLOCKS,
        "embedding_length": WIDTH,
        "feed_forward_length": WIDE,
        "attention.head_count": 4,
        "patch_size": 14,
        "projection_dim": leads_to,
        "projector.scale_factor": 2,
    }
    metadata: dict[str, int | str] = {f"clip.vision.{key}": value for key, value in vision.items()}
    return Gguf({"general.architecture": "clip", **metadata}, tuple(tensors))


def size(spec: Gguf) -> int:
    return sum(tensor.size_bytes for tensor in spec.listed)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_gguf(tmp_path / "Tiny-F32.gguf", MODELS["deepseek2"], data="sparse")[0]


def beside(model: Path, name: str, spec: Gguf) -> None:
    write_gguf(model.with_name(name), spec, data="sparse")


def test_it_is_found_and_counted_as_vision(model: Path) -> None:
    alone = load_model(model)
    beside(model, "mmproj-F16.gguf", projector())
    spec = load_model(model)
    assert (alone.vision, alone.releases[0].includes_vision, alone.releases[0].note) == (None, False, "")
    assert spec.vision == Vision(BLOCKS, WIDTH, 4, WIDE, 14, 2)
    classes = bytes_by_class(spec.tensors)
    assert classes.pop("vision") == size(projector())
    assert classes == bytes_by_class(alone.tensors)
    (release,) = spec.releases
    assert release.includes_vision
    assert release.note == (
        f"with the vision projector 'mmproj-F16.gguf', {size(projector()):,} bytes, which llama.cpp loads only with"
        " --mmproj"
    )
    assert release.published_bytes == release_tensors(spec, release).bytes == sum(group.bytes for group in spec.tensors)


def test_its_tensors_have_parts(model: Path) -> None:
    beside(model, "Tiny-mmproj-f16.gguf", projector())
    groups = {group.name: group for group in load_model(model).tensors if group.tensor_class == "vision"}
    roles = {name: group.role for name, group in groups.items()}
    assert roles["v.blk.{block}.attn_qkv.weight"] == "vision_column"
    assert roles["v.blk.{block}.ffn_down.weight"] == "vision_row"
    assert roles["v.blk.{block}.attn_out.bias"] == roles["v.patch_embd.weight"] == "vision_other"
    assert roles["mm.1.weight"] == "projector"
    assert groups["v.blk.{block}.attn_qkv.weight"].per_layer == BLOCKS


def test_of_several_the_one_in_f16_is_counted(model: Path) -> None:
    for kind in ("f16", "bf16", "f32"):
        beside(model, f"mmproj-{kind.upper()}.gguf", projector(kind))
    spec = load_model(model)
    assert bytes_by_class(spec.tensors)["vision"] == size(projector("f16"))
    assert "the one in F16 is counted" in spec.notes[-1]


def test_of_several_equal_ones_none_is_counted(model: Path) -> None:
    for number in (1, 2):
        beside(model, f"mmproj-{number}.gguf", projector())
    spec = load_model(model)
    assert "vision" not in bytes_by_class(spec.tensors)
    assert spec.notes[-1].startswith("no vision projector is counted: 'mmproj-1.gguf', 'mmproj-2.gguf' all fit")


def test_that_of_another_model_is_not_counted(model: Path) -> None:
    beside(model, "mmproj-F16.gguf", projector(leads_to=2 * HIDDEN))
    assert "vision" not in bytes_by_class(load_model(model).tensors)


def test_a_broken_one_is_refused_and_not_passed_over(model: Path) -> None:
    broken = model.with_name("mmproj-F16.gguf")
    broken.write_bytes(b"GGUF")
    with pytest.raises(BadModelFile, match=r"mmproj-F16\.gguf: ends after 4 bytes"):
        load_model(model)
    beside(model, "mmproj-F16.gguf", MODELS["llama"])
    with pytest.raises(BadModelFile, match="named like a vision projector and is none"):
        load_model(model)


def test_alone_it_is_no_model_and_in_a_folder_it_is_not_the_model(model: Path) -> None:
    beside(model, "mmproj-F16.gguf", projector())
    with pytest.raises(BadModelFile, match=r"mmproj-F16\.gguf: a vision projector, not a model"):
        load_model(model.with_name("mmproj-F16.gguf"))
    assert load_model(model.parent).name == "Tiny-F32"


def test_without_all_of_its_geometry_its_bytes_count(model: Path) -> None:
    beside(model, "mmproj-F16.gguf", projector().without("clip.vision.patch_size"))
    spec = load_model(model)
    assert spec.vision is None
    assert bytes_by_class(spec.tensors)["vision"] == size(projector())


def test_absurd_geometry_is_refused(model: Path) -> None:
    beside(model, "mmproj-F16.gguf", projector().with_metadata(clip__vision__block_count=0))
    with pytest.raises(BadModelFile, match=r"mmproj-F16\.gguf: clip\.vision\.block_count must be from 1 to"):
        load_model(model)
