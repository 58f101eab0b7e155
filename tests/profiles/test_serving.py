"""How engines are served: complete facts, images of exactly one version."""

from __future__ import annotations

import re

import pytest

from planner.engines import ENGINE_NAMES
from profiles.engines import engine_names, load_engine
from profiles.serving import engine_image, load_serving


@pytest.mark.parametrize("engine", ENGINE_NAMES)
def test_every_engine_says_how_it_is_served(engine: str) -> None:
    serving = load_serving(engine)
    assert 1024 < serving.port < 65536
    assert serving.health.startswith("/")
    assert serving.api_key_variable.endswith("_API_KEY")
    assert serving.repository.startswith("https://github.com/")
    assert len(serving.source) > 20


@pytest.mark.parametrize("engine", engine_names())
@pytest.mark.parametrize("vendor", ["nvidia", "amd", None])
def test_images_are_pinned_and_have_a_source(engine: str, vendor: str | None) -> None:
    image = engine_image(engine, load_engine(engine).default_version, vendor)
    if image is not None:
        name, _, tag = image.reference.rpartition(":")
        assert name and re.search(r"\d", tag) and "{" not in image.reference
        assert "latest" not in tag
        assert "https://" in image.source


@pytest.mark.parametrize(
    ("engine", "version", "vendor", "reference"),
    [
        ("vllm", "0.33.0", "nvidia", "vllm/vllm-openai:v0.33.0"),
        ("vllm", "0.18", "nvidia", "vllm/vllm-openai:v0.18.0"),
        ("vllm", "0.33.0", "amd", "vllm/vllm-openai-rocm:v0.33.0"),
        ("vllm", "0.11.0", "amd", None),
        ("vllm", "0.33.0", "intel", None),
        ("sglang", "0.5.23", "nvidia", "lmsysorg/sglang:v0.5.23"),
        ("llama.cpp", "0.6.0", None, "ghcr.io/ggml-org/llama.cpp:server-b11549"),
        ("llama.cpp", "0.5.0", "nvidia", None),
        ("ktransformers", "0.7.2", "nvidia", None),
    ],
)
def test_an_image_is_that_of_the_version_and_the_vendor_or_none(
    engine: str, version: str, vendor: str | None, reference: str | None
) -> None:
    image = engine_image(engine, version, vendor)
    assert (image.reference if image else None) == reference
