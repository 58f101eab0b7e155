"""GGUF models of the hub: chosen by quantization, read from the headers of their files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from moeplan.hub_gguf import GgufSet, choose, gguf_sets
from planner.errors import BadRequest
from tests.moeplan.hub.conftest import Moeplan
from tests.moeplan.hub.models import kimi_gguf
from tests.moeplan.hub.server import File, HubServer
from tests.support.gguf_models import routed_experts, uniform


def test_gguf_of_several_files_from_their_headers(hub: HubServer, moeplan: Moeplan, tmp_path: Path) -> None:
    path = "UD-Q2_K_XL/Kimi-K2.5-UD-Q2_K_XL.gguf"
    repo = kimi_gguf(tmp_path, path, routed_experts("q2_k", "q8_0"), splits=5, vocabulary=True)
    small = kimi_gguf(tmp_path, "Kimi-K2.5-Q8_0.gguf", uniform("q8_0"))
    repo.files |= small.files
    hub.repos["acme/Kimi-GGUF"] = repo
    done = moeplan("memory", "acme/Kimi-GGUF:q2_k_xl", "--json")
    assert done.returncode == 0, done.stderr
    (row,) = (row for row in json.loads(done.stdout)["weights"] if row["publisher"] == "acme")
    assert (row["quantization"], row["release"], row["evidence"]) == ("UD-Q2_K_XL", "acme/Kimi-GGUF", "exact")
    files = sum(file.size_bytes for name, file in repo.files.items() if name not in small.files)
    assert 0 < files - row["bytes"] < 8 << 20, "all but the headers"
    assert hub.weights_read() == [f"Kimi-K2.5-UD-Q2_K_XL-0000{number}-of-00005.gguf" for number in range(1, 6)]
    assert hub.sent_bytes < 12 << 20


def test_gguf_is_planned_for_llama_cpp(hub: HubServer, moeplan: Moeplan, tmp_path: Path) -> None:
    hub.repos["acme/Kimi-GGUF"] = kimi_gguf(tmp_path, "Kimi-Q4_0.gguf", uniform("q4_0"))
    done = moeplan("plan", "acme/Kimi-GGUF:Q4_0", "--gpu", "8xH200", "--engine", "llama.cpp", "--json")
    assert done.returncode == 0, done.stderr
    best = json.loads(done.stdout)["candidates"][0]
    assert best["quantization"]["publisher"] == "acme"


def test_projector_beside_counts_too(hub: HubServer, moeplan: Moeplan, tmp_path: Path) -> None:
    repo = hub.repos["acme/Kimi-GGUF"] = kimi_gguf(tmp_path, "Q4_0/Kimi-Q4_0.gguf", uniform("q4_0"))
    repo.files["mmproj-F16.gguf"] = File(b"no projector at all")
    done = moeplan("memory", "acme/Kimi-GGUF:Q4_0")
    assert done.returncode == 2
    assert done.stderr.startswith("moeplan: acme/Kimi-GGUF/mmproj-F16.gguf: begins with 'no p'")


@pytest.mark.parametrize(
    ("path", "quantization"),
    [
        ("Kimi-K2.5-Q4_K_M.gguf", "Q4_K_M"),
        ("Kimi-K2.5-UD-Q2_K_XL-00001-of-00008.gguf", "UD-Q2_K_XL"),
        ("UD-TQ1_0/Kimi-K2.5-UD-TQ1_0-00001-of-00005.gguf", "UD-TQ1_0"),
        ("moonshotai_Kimi-K2.5-IQ3_XXS/moonshotai_Kimi-K2.5-IQ3_XXS-00001-of-00010.gguf", "IQ3_XXS"),
        ("llama-2-7b.q4_k_s.gguf", "Q4_K_S"),
        ("BF16/model.gguf", "BF16"),
        ("gpt-oss-120b-mxfp4-00001-of-00003.gguf", "MXFP4"),
        ("model.gguf", "model"),
    ],
)
def test_quantization_is_in_the_name(path: str, quantization: str) -> None:
    (only,) = gguf_sets([path, "README.md", "mmproj-F16.gguf", "imatrix.gguf"])
    assert (only.quantization, only.paths) == (quantization, (path,))


SETS = gguf_sets(
    ["a/K-Q4_K_M-00002-of-00002.gguf", "a/K-Q4_K_M-00001-of-00002.gguf", "K-UD-Q4_K_M.gguf", "K-Q8_0.gguf"]
)


@pytest.mark.parametrize(
    ("text", "name"), [("Q4_K_M", "a/K-Q4_K_M"), ("q8_0", "K-Q8_0"), ("ud-q4_k_m", "K-UD-Q4_K_M"), ("K-Q8_0", "K-Q8_0")]
)
def test_choice(text: str, name: str) -> None:
    assert choose("acme/K", SETS, text).name == name


def test_shards_are_in_order() -> None:
    assert choose("acme/K", SETS, "Q4_K_M").paths == tuple(
        f"a/K-Q4_K_M-0000{number}-of-00002.gguf" for number in (1, 2)
    )


def test_dynamic_quantization_is_found_without_its_prefix() -> None:
    assert choose("acme/K", gguf_sets(["K-UD-Q2_K_XL.gguf"]), "Q2_K_XL").quantization == "UD-Q2_K_XL"


@pytest.mark.parametrize(
    ("sets", "text", "line"),
    [
        (SETS, None, "acme/K holds GGUF files; choose one: acme/K:Q8_0, UD-Q4_K_M, Q4_K_M"),
        (SETS, "Q5_K_M", "acme/K has no 'Q5_K_M'; there are acme/K:Q8_0, UD-Q4_K_M, Q4_K_M"),
        (
            gguf_sets(["A-Q8_0.gguf", "B-Q8_0.gguf", "A-Q4_0.gguf"]),
            "q8_0",
            "acme/K holds several 'q8_0': acme/K:A-Q8_0, B-Q8_0",
        ),
    ],
)
def test_refusals_list_what_there_is(sets: tuple[GgufSet, ...], text: str | None, line: str) -> None:
    with pytest.raises(BadRequest) as refused:
        choose("acme/K", sets, text)
    assert str(refused.value) == line


def test_a_long_list_is_cut() -> None:
    sets = gguf_sets([f"model-{number}-Q8_0.gguf" for number in range(45)])
    with pytest.raises(BadRequest, match=r"model-26-Q8_0 and 25 more$"):
        choose("acme/K", sets, None)


def test_repository_without_a_choice_is_one_line(hub: HubServer, moeplan: Moeplan, tmp_path: Path) -> None:
    hub.repos["acme/Kimi-GGUF"] = kimi_gguf(tmp_path, "Kimi-Q4_0.gguf", uniform("q4_0"))
    done = moeplan("plan", "acme/Kimi-GGUF", "--gpu", "8xH200")
    line = "moeplan: acme/Kimi-GGUF holds GGUF files; choose one: acme/Kimi-GGUF:Q4_0\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", line)
    assert hub.weights_read() == []


def test_incomplete_set_is_refused(hub: HubServer, moeplan: Moeplan, tmp_path: Path) -> None:
    repo = hub.repos["acme/Kimi-GGUF"] = kimi_gguf(tmp_path, "Kimi-Q4_0.gguf", uniform("q4_0"), splits=3)
    del repo.files["Kimi-Q4_0-00002-of-00003.gguf"]
    done = moeplan("memory", "acme/Kimi-GGUF:Q4_0")
    assert done.returncode == 2
    assert done.stderr.startswith("moeplan: acme/Kimi-GGUF/Kimi-Q4_0-00001-of-00003.gguf: 1 of 3 shards are missing")
