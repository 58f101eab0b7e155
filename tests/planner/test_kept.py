"""What is kept from one request to the next changes no answer, and is no more than a few requests' worth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from moeplan.pipeline import run_plan
from planner import kept, search
from planner.kept import Recent, kept_of
from profiles.library import load_model
from tests.planner.planning import K25, options_of

KNOBS: tuple[dict[str, Any], ...] = (
    {},
    {"context": "64k"},
    {"concurrency": "32"},
    {"concurrency": "1", "input_tokens": "1000", "output_tokens": "100"},
    {"objective": "throughput"},
    {"routing": "power_law"},
    {"workload": "agent-swarm"},
    {"engine": "llama.cpp"},
    {"quant": "UD-Q2_K_XL"},
    {"kv_dtype": "fp8"},
    {"tpot": "20ms"},
    {"top": "2"},
    {"images": "3"},
    {"text_only": True},
    {"engine": "vllm", "speculative": "eagle3"},
    {"engine": "vllm", "engine_version": "0.18"},
)
MACHINES: tuple[dict[str, Any], ...] = (
    {"gpu": "8xH200"},
    {"gpu": "4xA100-80", "ram": "512GiB"},
    {"gpu": ("2xRTX4090", "1xA100-80"), "ram": "512GiB", "cores": "32"},
)
OTHER_MACHINES: tuple[dict[str, Any], ...] = (
    {"gpu": "8xH200", "link": "pcie5"},
    {"gpu": "4xA100-80", "ram": "512GiB", "ram_bandwidth": "100GB/s"},
    {"gpu": ("2xRTX4090", "1xA100-80"), "ram": "384GiB", "cores": "8"},
)


@pytest.fixture
def forget(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Begin as a new process does."""

    def forgotten() -> None:
        for name, size in (("_MODELS", kept.MODELS), ("_SCENES", kept.SCENES)):
            monkeypatch.setattr(kept, name, Recent(size))
        monkeypatch.setattr(kept, "_last", None)
        monkeypatch.setattr(search, "_SEARCHED", Recent(search.QUESTIONS))

    return forgotten


def answer(**given: object) -> str:
    return run_plan(options_of(K25, **given), exact=False, progress=None).to_json()


@pytest.mark.parametrize("place", range(len(MACHINES)))
def test_a_turned_knob_gives_what_a_new_process_gives(place: int, forget: Callable[[], None]) -> None:
    asked = [{**MACHINES[place], **knob} for knob in KNOBS] + [OTHER_MACHINES[place]]
    alone = []
    for given in asked:
        forget()
        alone.append(answer(**given))
    forget()
    assert [answer(**given) for given in asked] == alone
    # And in another order, where each finds what all have left.
    assert [answer(**given) for given in reversed(asked)] == alone[::-1]


def test_the_last_few_keys_keep_their_values() -> None:
    recent: Recent[list[int]] = Recent(2)
    first, second = recent.of({"a": 1}, list), recent.of({"a": 2}, list)
    assert recent.of({"a": 1}, list) is first
    assert recent.of({"a": 3}, list) is not second
    assert recent.of({"a": 1}, list) is first
    assert recent.of({"a": 2}, list) is not second


def test_a_release_with_much_kept_begins_again(forget: Callable[[], None]) -> None:
    forget()
    model = load_model(K25)
    before = kept_of(model, model.releases[0])
    before.entries.update(dict.fromkeys(range(kept.FULL)))
    assert kept_of(model, model.releases[0]) is before
    before.entries["one more"] = None
    after = kept_of(model, model.releases[0])
    assert not after.entries and after.tensors is before.tensors
