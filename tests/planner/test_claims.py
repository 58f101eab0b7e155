"""The article's claims about Kimi K2.5, each right, wrong by how much, or not checkable."""

from __future__ import annotations

from functools import cache

import pytest

from planner.claims import check_claims, gpus_for_weights
from planner.memory_report import ClaimVerdict
from profiles.claims import claims_of
from profiles.library import load_model, model_ids
from tests.planner.planning import K25


@cache
def claims() -> dict[str, ClaimVerdict]:
    return {claim.claim: claim for claim in check_claims(load_model(K25))}


def claim(words: str) -> ClaimVerdict:
    (found,) = [claim for text, claim in claims().items() if words in text]
    return found


@pytest.mark.parametrize(
    ("words", "verdict"),
    [
        ("FP16 needs about 2 TB", "wrong"),
        ("INT4 needs about 630 GB", "wrong"),
        ("INT4 runs on 2x H100", "wrong"),
        ("Q2_K_XL needs about 375 GB", "right"),
        ("TQ1_0 needs about 240 GB", "right"),
        ("decodes 1-2 tokens per second", "wrong"),
        ("decodes 50-100 tokens per second", "right"),
        ("MLA cuts the KV cache about 10 times", "wrong"),
        ("takes 2 x layers x latent x bytes", "wrong"),
        ("whatever the length", "wrong"),
        ("fewer attention heads", "wrong"),
        ("3.2 % of the parameters", "right"),
        ("400M parameters", "right"),
        ("arXiv 2507.20534", "wrong"),
        ("$0.60 per million input", "right"),
    ],
)
def test_verdicts(words: str, verdict: str) -> None:
    assert claim(words).verdict == verdict


def test_every_claim_is_answered_with_a_reason_and_a_source() -> None:
    _, rows = claims_of(K25)
    assert [row["claim"] for row in rows] == list(claims())
    for found in claims().values():
        assert found.claimed and found.computed and found.reason and found.source
        assert found.verdict in ("right", "wrong", "not_checkable")


def test_fp16_has_the_right_size_and_too_little_memory() -> None:
    found = claim("FP16 needs about 2 TB")
    assert found.computed == "2,053.8 GB against 684 GB of 8x h100-sxm-80"
    assert found.off_by == "1,370 GB short"
    assert found.reason.startswith("the size is right, but the weights alone need 3.0 times the memory (3.2 times")


def test_int4_is_smaller_than_claimed_and_barely_fits_eight_cards() -> None:
    found = claim("INT4 needs about 630 GB")
    assert "595.1 GB" in found.computed
    assert found.off_by == "1.06 times the computed value"
    assert "the size is off by +5.9%" in found.reason
    assert "barely" in found.reason


def test_int4_on_two_cards_is_short_by_far() -> None:
    found = claim("INT4 runs on 2x H100")
    assert found.off_by == "424 GB short"
    assert "3.5 times the memory" in found.reason


@pytest.mark.parametrize(
    ("words", "computed"), [("Q2_K_XL", "374.8 GB against 618 GB"), ("TQ1_0 needs", "240.0 GB against 301 GB")]
)
def test_sizes_that_are_right(words: str, computed: str) -> None:
    found = claim(words)
    assert found.computed.startswith(computed)
    assert found.off_by == ""
    assert "are left for KV cache and buffers" in found.reason


def test_mla_saves_28_to_36_times_against_mha_and_3_6_times_against_gqa() -> None:
    found = claim("MLA cuts the KV cache")
    assert found.computed == "28.4-35.6x against MHA, 3.56x against GQA-8"
    assert found.off_by == "2.8-3.6 times too low against MHA"


def test_the_formula_has_a_false_factor_and_lacks_the_rope_key() -> None:
    found = claim("2 x layers x latent")
    assert found.computed == "layers x (latent + rope) x bytes = 70,272 bytes per token in bf16"
    # 2 x 512 instead of 512 + 64.
    assert found.off_by == "+77.8%"


def test_heads_do_not_matter_under_mla() -> None:
    assert claim("fewer attention heads").computed == "1152 bytes per token and layer with any number of heads"


def test_the_active_share_counts_the_embedding() -> None:
    found = claim("3.2 %")
    assert found.computed.startswith("3.20%")
    assert "32,861,500,928" in found.reason


def test_the_vision_tower() -> None:
    assert claim("400M").computed == "416,866,032"


@pytest.mark.parametrize("words", ["decodes 1-2 tokens", "decodes 50-100 tokens"])
def test_speeds_are_ranges_with_what_bounds_them(words: str) -> None:
    found = claim(words)
    low, high = map(float, found.computed.partition(" ")[0].split("-"))
    assert 0 < low < high
    assert "modelled" in found.computed


def test_a_speed_is_wrong_only_when_the_ranges_do_not_meet() -> None:
    slow, fast = claim("decodes 1-2 tokens"), claim("decodes 50-100 tokens")
    assert float(slow.computed.partition("-")[0]) > 2.0
    assert slow.off_by.endswith("times too low")
    low, high = map(float, fast.computed.partition(" ")[0].split("-"))
    assert low <= 100 and high >= 50
    assert fast.off_by == ""


def test_the_price_is_one_of_the_known_offers() -> None:
    found = claim("$0.60")
    assert "known offers, newest of 202" in found.reason


def test_models_without_collected_claims_have_none() -> None:
    assert [model for model in model_ids() if check_claims(load_model(model))] == [K25]


def test_cards_that_hold_the_weights() -> None:
    assert gpus_for_weights(2_053_758_798_816, 85_520_809_984) == 25
    assert gpus_for_weights(1, 1) == 1
    assert gpus_for_weights(3, 2) == 2
