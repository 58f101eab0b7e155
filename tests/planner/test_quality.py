"""Quality by suite: native is 0 by definition, suites stay apart, what was not measured is said."""

from __future__ import annotations

from dataclasses import replace

import pytest

from planner.errors import BadRequest
from planner.quality import quality_view
from planner.request import PricedRelease
from planner.search import too_lossy
from profiles.library import load_model
from profiles.model import QualityLoss
from tests.planner.planning import K25, outcome_of, request_of

VIEW = quality_view(load_model(K25))


def test_the_maker_s_weights_are_native_and_in_no_suite_as_a_loss() -> None:
    assert VIEW.native == "moonshotai/int4"
    assert VIEW.native_bits_per_parameter == pytest.approx(4.64, abs=0.01)
    assert all(row.publisher != "moonshotai" for suite in VIEW.suites for row in suite.rows)


def test_every_suite_has_one_metric_and_is_ordered_by_it() -> None:
    assert len({(suite.suite, suite.metric) for suite in VIEW.suites}) == len(VIEW.suites) > 1
    for suite in VIEW.suites:
        values = [row.value for row in suite.rows]
        assert values == sorted(values, reverse=not suite.lower_is_better)
        assert suite.source.startswith("https://")


def test_a_kld_of_the_type_is_not_called_one_of_the_release() -> None:
    (suite,) = [one for one in VIEW.suites if one.metric == "kld"]
    rows = {f"{row.publisher}/{row.quantization}": row for row in suite.rows}
    assert rows["unsloth/UD-Q2_K_XL"].measured_on == "type"
    assert rows["unsloth/UD-Q2_K_XL"].value == 0.2953
    assert rows["unsloth/UD-Q2_K_XL"].loss is None


def test_what_nobody_measured_is_listed_and_excluded_by_a_bound() -> None:
    assert "unsloth/UD-TQ1_0" in VIEW.not_measured
    outcome = outcome_of(gpu="8xH200", ram="1TiB", max_kld="5", quality_suite="thireus-kimi-k2.5")
    shown = {f"{one.release.release.publisher}/{one.release.release.quantization}" for one in outcome.found}
    assert "moonshotai/int4" in shown
    assert not shown & set(VIEW.not_measured)
    said = {miss.reason for miss in outcome.missed if miss.release.release.quantization == "UD-TQ1_0"}
    assert any("was not measured in suite" in reason for reason in said)


def test_a_bound_is_never_met_by_what_was_measured_of_the_main_type() -> None:
    """UD-Q2_K_XL holds other types beside Q2_K, which alone diverges by 0.2953."""
    outcome = outcome_of(gpu="8xH200", ram="1TiB", max_kld="0.5", quality_suite="thireus-kimi-k2.5")
    assert "UD-Q2_K_XL" not in {one.release.release.quantization for one in outcome.found}
    said = {miss.reason for miss in outcome.missed if miss.release.release.quantization == "UD-Q2_K_XL"}
    assert said == {
        "its KL divergence was not measured in suite 'thireus-kimi-k2.5' (only that of its main type throughout, which "
        "it is not)"
    }


def test_a_bound_is_met_by_what_was_measured_of_the_release_itself() -> None:
    asked = request_of(gpu="8xH200", max_kld="0.05", quality_suite="a-suite")
    for value, excluded in ((0.04, ""), (0.06, "its KL divergence of 0.06 exceeds 0.05")):
        (one, *_) = [one for one in asked.releases if not one.release.by_maker]
        loss = QualityLoss("a-suite", "kld", value, None, "s")
        measured = PricedRelease(replace(one.release, quality=(loss,)), one.tensors)
        assert too_lossy(asked, measured) == excluded


def test_what_is_larger_than_native_gains_nothing_and_is_said_by_its_bytes() -> None:
    native = min(one.bytes for one in VIEW.suites[0].rows)
    assert native < 595_148_192_736
    for one in VIEW.larger_than_native:
        assert one.larger_by_bytes > 0
        assert VIEW.native_bits_per_parameter is not None


def test_a_text_that_names_several_suites_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = (QualityLoss("a-suite", "kld", 0.1, None, "s"), QualityLoss("b-suite", "kld", 0.2, None, "s"))
    monkeypatch.setattr("planner.build.quality_of", lambda model, release: losses)
    with pytest.raises(BadRequest, match="a-suite, b-suite are known"):
        request_of(gpu="8xH200", max_kld="1", quality_suite="suite")
    request_of(gpu="8xH200", max_kld="1", quality_suite="a-suite")
