from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hwdetect.facts import BoolFact, FloatFact, IntFact, TextFact, TextsFact, known, printable
from hwdetect.inventory import (
    SCHEMA,
    Gpu,
    GpuMemory,
    GpuStatus,
    HostMemory,
    Inventory,
    Node,
    NumaNode,
    Nvlink,
    NvlinkLink,
    described,
    from_json,
    to_json,
)

REPOSITORY = Path(__file__).parents[2]


def described_machine() -> Inventory:
    gpus = tuple(
        Gpu(
            index=index,
            name=described("NVIDIA H200", "--gpu 8xH200"),
            key="h200-sxm-141",
            memory=GpuMemory(total_bytes=described(143771 * 2**20, "hardware/h200-sxm-141", "table")),
            bandwidth_bytes_per_s=described(4.8e12, "hardware/h200-sxm-141", "table"),
            link_kind="nvlink",
        )
        for index in range(8)
    )
    node = Node(
        name="node0",
        gpus=gpus,
        gpu_status=GpuStatus(code="ok", detail="described"),
        memory=HostMemory(total_bytes=described(512 * 2**30, "--ram 512GiB")),
    )
    return Inventory(nodes=(node,))


def test_a_described_machine_survives_json() -> None:
    inventory = described_machine()
    assert from_json(to_json(inventory)) == inventory


def test_json_is_one_fact_per_line_and_leaves_out_what_nobody_asked() -> None:
    lines = to_json(described_machine()).splitlines()
    assert lines[1] == f'  "schema": "{SCHEMA}",'
    fact = '"total_bytes": {"value": 549755813888, "source": "--ram 512GiB", "provenance": "assumed"}'
    assert f"        {fact}" in lines
    assert not any("power_limit_w" in line or "reason" in line for line in lines)


def test_to_json_is_json() -> None:
    inventory = described_machine()
    assert json.loads(to_json(inventory)) == inventory.model_dump(mode="json", by_alias=True)


def test_described_keeps_the_type() -> None:
    assert type(described(True, "x")) is BoolFact
    assert type(described(3, "x")) is IntFact
    assert type(described(3.0, "x")) is FloatFact
    assert type(described("3", "x")) is TextFact
    assert type(described(("avx2", "amx_int8"), "x")) is TextsFact
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        described(-1, "--ram")


def test_a_fact_has_exactly_one_answer() -> None:
    assert known(IntFact.missing("x", "not supported")) is None
    assert known(IntFact.no_limit("x")) is None
    assert known(None) is None
    for answer in ({}, {"value": 1, "reason": "why"}, {"reason": "why", "unlimited": True}):
        with pytest.raises(ValidationError, match="exactly one"):
            IntFact.model_validate({"value": None, "source": "x", "provenance": "reported"} | answer)


def test_a_missing_value_is_null_with_its_reason() -> None:
    fact = IntFact.missing("nvmlDeviceGetMemoryInfo", "Not Supported")
    assert fact.model_dump() == {
        "value": None,
        "source": "nvmlDeviceGetMemoryInfo",
        "provenance": "reported",
        "reason": "Not Supported",
    }


NODE: dict[str, Any] = {"name": "a", "gpu_status": {"code": "ok", "detail": ""}}
BYTES: dict[str, Any] = {"value": 1, "source": "", "provenance": "reported"}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "Input should be an object"),
        ({"schema": "moeplan.plan/1", "nodes": [NODE]}, "schema: Input should be 'moeplan.inventory/1'"),
        ({"nodes": [NODE]}, '"schema" is missing'),
        ({"schema": SCHEMA, "nodes": []}, "nodes: Tuple should have at least 1 item"),
        ({"schema": SCHEMA, "nodes": [NODE, NODE]}, "two nodes have the same name"),
        (
            {"schema": SCHEMA, "nodes": [NODE | {"gpus": [{"index": 0}, {"index": 0}]}]},
            "nodes[0]: Value error, two GPUs have the same index",
        ),
        (
            {"schema": SCHEMA, "nodes": [NODE | {"gpus": [{"index": 0, "memory_gib": 80}]}]},
            "nodes[0].gpus[0].memory_gib: Extra inputs are not permitted",
        ),
        (
            {"schema": SCHEMA, "nodes": [NODE | {"memory": {"total_bytes": BYTES | {"value": -1}}}]},
            "nodes[0].memory.total_bytes.value: Input should be greater than or equal to 0",
        ),
        (
            {"schema": SCHEMA, "nodes": [NODE | {"memory": {"total_bytes": BYTES | {"value": 1.5}}}]},
            "nodes[0].memory.total_bytes.value: Input should be a valid integer",
        ),
        (
            {"schema": SCHEMA, "nodes": [NODE | {"memory": {"total_bytes": BYTES | {"value": 10**30}}}]},
            "nodes[0].memory.total_bytes.value: Input should be",
        ),
        ({"schema": SCHEMA, "nodes": [NODE | {"name": "a\x1b[2J"}]}, "nodes[0].name: String should match"),
    ],
)
def test_from_json_names_the_place_in_one_line(document: object, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        from_json(json.dumps(document))
    assert message in str(caught.value)
    assert_one_clean_line(str(caught.value))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_from_json_refuses_what_is_not_a_number(number: str) -> None:
    fact = f'{{"value": {number}, "source": "", "provenance": "measured"}}'
    node = f'{{"name": "a", "gpu_status": {{"code": "ok", "detail": ""}}, "network_bytes_per_s": {fact}}}'
    with pytest.raises(ValueError, match="network_bytes_per_s"):
        from_json(f'{{"schema": "{SCHEMA}", "nodes": [{node}]}}')


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=20), inner, max_size=3),
    max_leaves=8,
)


def assert_one_clean_line(message: str) -> None:
    assert message == printable(message)
    assert len(message) < 1000


@given(st.text() | st.binary().map(lambda data: data.decode("latin-1")) | JSON.map(json.dumps))
def test_from_json_of_garbage_is_one_line(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        from_json(text)
    assert_one_clean_line(str(caught.value))


def test_from_json_of_lone_surrogates_and_of_deep_nesting() -> None:
    for text in ("\ud800", '{"a":' * 100_000, "[" * 100_000):
        with pytest.raises(ValueError) as caught:
            from_json(text)
        assert_one_clean_line(str(caught.value))


def places(value: object, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [here, *(place for key, child in children for place in places(child, (*here, key)))]


@given(st.data())
def test_from_json_with_one_place_spoilt_is_an_inventory_or_one_line(data: st.DataObject) -> None:
    document = {"document": json.loads(to_json(described_machine()))}
    *way, last = data.draw(st.sampled_from(places(document)[1:]))
    target: Any = document
    for key in way:
        target = target[key]
    target[last] = data.draw(JSON)
    try:
        inventory = from_json(json.dumps(document["document"]))
    except ValueError as error:
        assert_one_clean_line(str(error))
    else:
        assert from_json(to_json(inventory)) == inventory


texts = st.text(max_size=20).map(printable)
naturals = st.integers(min_value=0, max_value=2**63 - 1)
rates = st.floats(min_value=0, max_value=1e30)
missing = st.builds(IntFact.missing, texts, texts)
int_facts = st.builds(IntFact.reported, naturals, texts) | missing | st.builds(IntFact.no_limit, texts)
links = st.builds(NvlinkLink, index=naturals, active=st.none() | st.booleans(), reason=st.none() | texts)
inventories = st.builds(
    lambda gpus, numa, environment, speed: Inventory(
        nodes=(
            Node(
                name="n",
                gpu_status=GpuStatus(code="ok", detail=""),
                gpus=gpus,
                numa=numa,
                environment=environment,
                network_bytes_per_s=speed,
            ),
        )
    ),
    st.lists(
        st.builds(
            Gpu,
            index=naturals,
            name=st.none() | st.builds(TextFact.reported, texts, texts),
            memory=st.none() | st.builds(GpuMemory, total_bytes=int_facts, free_bytes=int_facts),
            nvlink=st.none() | st.builds(Nvlink, links=st.lists(links, max_size=2).map(tuple)),
        ),
        max_size=3,
        unique_by=lambda gpu: gpu.index,
    ).map(tuple),
    st.lists(st.builds(NumaNode, index=naturals, distances=st.lists(naturals, max_size=3).map(tuple)), max_size=2).map(
        tuple
    ),
    st.dictionaries(texts, texts, max_size=2),
    st.none() | st.builds(FloatFact.reported, rates, texts),
)


@given(inventories)
def test_every_inventory_survives_json(inventory: Inventory) -> None:
    text = to_json(inventory)
    assert from_json(text) == inventory
    assert text.isascii()


IMPORT_COST = """
import sys, time
start = time.process_time()
from pydantic import BaseModel
class Warm(BaseModel):
    field: int
pydantic_s = time.process_time() - start
start = time.process_time()
import hwdetect.inventory
print((time.process_time() - start) / pydantic_s)
print([name for name in ("psutil", "pynvml", "ctypes.util") if name in sys.modules])
"""


def test_importing_the_types_is_cheap_and_pulls_nothing_in() -> None:
    """Pydantic alone takes about 0.1 s, so 0.4 of that is 40 ms whatever the machine."""
    shares = []
    for _ in range(3):
        result = subprocess.run([sys.executable, "-c", IMPORT_COST], capture_output=True, text=True, check=True)
        share, modules = result.stdout.splitlines()
        shares.append(float(share))
        assert modules == "[]"
    assert min(shares) < 0.4
