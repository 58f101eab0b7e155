"""The accelerator facts, and the names they are found by."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formulas.units import GIB, MIB
from profiles import gpus
from profiles.gpus import gpu_keys, load_gpu, match_reported, resolve_gpu_name
from profiles.names import AmbiguousName, UnknownName

HARDWARE = Path(gpus.__file__).parent / "hardware"
FIELDS = {
    *("reported_name", "vendor", "nominal_gb", "reported_total_bytes", "reported_total_evidence"),
    *("alternative_totals_bytes", "engine_visible_bytes", "engine_visible_source", "unified"),
    *("working_set_fraction", "bandwidth_bytes_per_s", "dense_flops_per_s", "compute_capability", "tdp_w"),
    *("link", "cpu_link", "pcie", "note", "sources", "evidence"),
}


def test_there_are_67_accelerators() -> None:
    assert len(gpu_keys()) == 67


@pytest.mark.parametrize("key", gpu_keys())
def test_every_file_is_complete_and_sourced(key: str) -> None:
    raw = tomllib.loads((HARDWARE / "gpu" / f"{key}.toml").read_text(encoding="utf-8"))
    assert raw.keys() <= FIELDS
    facts = load_gpu(key)
    assert facts.sources and all(facts.sources)
    assert facts.evidence.keys() >= {"reported_total", "dense_flops"}
    assert (facts.reported_total_bytes is None) == (facts.reported_total_evidence is None)
    assert facts.reported_total_evidence in {None, "seen", "datasheet", "inferred", "nominal"}
    assert (facts.engine_visible_bytes is None) == (facts.engine_visible_source is None)
    assert facts.dense_flops_per_s.keys() <= {"bf16", "fp16", "fp8", "int8", "fp4"}
    assert ("working_set" in facts.evidence) == (facts.working_set_fraction is not None)


@pytest.mark.parametrize("key", gpu_keys())
def test_figures_are_in_base_units(key: str) -> None:
    facts = load_gpu(key)
    nominal = facts.nominal_gb * 10**9
    assert nominal * 0.9 < facts.capacity_bytes < nominal * 1.1
    assert facts.capacity_bytes % MIB == 0
    if facts.engine_visible_bytes is not None:
        assert facts.capacity_bytes * 0.9 < facts.engine_visible_bytes < facts.capacity_bytes
    assert 2e11 < facts.bandwidth_bytes_per_s < 1e13
    assert all(1e13 < rate < 2e16 for rate in facts.dense_flops_per_s.values())
    for link in (facts.link, facts.cpu_link):
        assert link is None or 5e10 < link.bytes_per_s_per_direction < 1e12


def test_pcie_rates_are_those_of_the_table() -> None:
    table = tomllib.loads((HARDWARE / "pcie.toml").read_text(encoding="utf-8"))
    x16 = table["x16_bytes_per_s_per_direction"]
    assert x16 == {"3": 15.75e9, "4": 31.5e9, "5": 63.0e9, "6": 121.0e9}
    for key in gpu_keys():
        pcie = load_gpu(key).pcie
        if pcie is not None:
            assert pcie.bytes_per_s_per_direction == x16[str(pcie.generation)] * pcie.lanes / 16, key


def test_h100_sxm() -> None:
    h100 = load_gpu("h100-sxm-80")
    assert h100.reported_total_bytes == 81_559 * MIB
    assert (h100.capacity_bytes, h100.capacity_evidence) == (81_559 * MIB, "reported")
    assert h100.engine_visible_bytes == int(79.19 * GIB)
    assert h100.bandwidth_bytes_per_s == 3.35e12
    assert h100.dense_flops_per_s == {"bf16": 989e12, "fp8": 1979e12, "int8": 1979e12}
    assert h100.link is not None and h100.link.bytes_per_s_per_direction == 450e9
    assert (h100.link.generation, h100.link.links, h100.link.max_gpus) == ("NVLink4", 18, None)
    assert h100.compute_capability == "9.0"


def test_h200_sxm() -> None:
    h200 = load_gpu("h200-sxm-141")
    assert h200.reported_total_bytes == 143_771 * MIB
    assert h200.engine_visible_bytes == int(139.80 * GIB)


def test_mi300x_reports_its_exact_bytes() -> None:
    assert load_gpu("mi300x-192").reported_total_bytes == 206_141_652_992


def test_int8_is_nearly_gone_on_blackwell_ultra() -> None:
    b300 = load_gpu("b300-sxm-288").dense_flops_per_s
    assert b300["int8"] < b300["bf16"] / 10


def test_devices_without_bf16_do_not_claim_it() -> None:
    for key in ("t4-16", "v100-sxm-16", "v100-sxm-32", "v100-pcie-32"):
        assert "bf16" not in load_gpu(key).dense_flops_per_s
        assert "fp16" in load_gpu(key).dense_flops_per_s


def test_without_a_reported_total_the_capacity_is_the_nominal_size_and_assumed() -> None:
    h20_3e = load_gpu("h20-3e-141")
    assert (h20_3e.capacity_bytes, h20_3e.capacity_evidence) == (141 * GIB, "assumed")


def test_a_total_that_nobody_saw_is_assumed() -> None:
    assert load_gpu("mi325x-256").capacity_evidence == "assumed"


def test_unified_devices() -> None:
    unified = {key for key in gpu_keys() if load_gpu(key).unified}
    apple = {key for key in gpu_keys() if load_gpu(key).vendor == "apple"}
    assert unified == apple | {"gb10-128", "jetson-thor-128", "strix-halo-128"}
    assert all(load_gpu(key).working_set_fraction == 0.84 for key in apple)


def test_a_bridge_joins_few_cards_and_a_chip_to_chip_link_joins_no_gpus() -> None:
    bridge = load_gpu("h100-pcie-80").link
    assert bridge is not None and bridge.max_gpus == 2
    gh200 = load_gpu("gh200-480-96")
    assert gh200.link is None and gh200.cpu_link is not None


def test_one_die_of_an_mi250x_is_one_device() -> None:
    die = load_gpu("mi250x-128")
    assert (die.nominal_gb, die.reported_total_bytes) == (64, 65_520 * MIB)
    assert die.bandwidth_bytes_per_s == 3277e9 / 2


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("H100", "h100-sxm-80"),
        ("h100", "h100-sxm-80"),
        ("H_100", "h100-sxm-80"),
        ("H100 80GB", "h100-sxm-80"),
        ("H100 NVL", "h100-nvl-94"),
        ("H100-PCIe", "h100-pcie-80"),
        ("H100 80GB PCIe", "h100-pcie-80"),
        ("H200", "h200-sxm-141"),
        ("H800", "h800-sxm-80"),
        ("H20", "h20-96"),
        ("A100-80", "a100-sxm-80"),
        ("A100 80GB", "a100-sxm-80"),
        ("NVIDIA A100 80GB PCIe", "a100-pcie-80"),
        ("B200", "b200-sxm-180"),
        ("GB200", "gb200-186"),
        ("RTX4090", "rtx-4090-24"),
        ("4090", "rtx-4090-24"),
        ("RTX 4090 24GB", "rtx-4090-24"),
        ("RTX-4090-48", "rtx-4090-48-mod"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090-24"),
        ("RTX-PRO-6000", "rtx-pro-6000-ws-96"),
        ("rtx pro 6000 server", "rtx-pro-6000-server-96"),
        ("A6000", "rtx-a6000-48"),
        ("L40", "l40-48"),
        ("L40S", "l40s-48"),
        ("T4", "t4-16"),
        ("A10", "a10-24"),
        ("MI300X", "mi300x-192"),
        ("NVIDIA GH200 120GB", "gh200-480-96"),
        ("DGX Spark", "gb10-128"),
        ("Intel(R) Arc(TM) B580 Graphics", "arc-b580-12"),
        ("B580", "arc-b580-12"),
        ("M3 Ultra", "m3-ultra-512"),
        ("strix_halo", "strix-halo-128"),
        ("NVIDIA-H100-80GB-HBM3", "h100-sxm-80"),
        ("AMD Instinct MI250X (2 GCDs, each its own device)", "mi250x-128"),
    ],
)
def test_names_resolve(text: str, key: str) -> None:
    assert resolve_gpu_name(text) == key


@pytest.mark.parametrize("key", gpu_keys())
@pytest.mark.parametrize(
    "spelling", [str, str.upper, lambda key: key.replace("-", " "), lambda key: key.replace("-", "")]
)
def test_every_key_resolves_to_itself_in_any_spelling(key: str, spelling: Callable[[str], str]) -> None:
    assert resolve_gpu_name(spelling(key)) == key


@pytest.mark.parametrize(
    ("text", "candidates"),
    [
        ("A100", {"a100-sxm-40", "a100-sxm-80", "a100-pcie-40", "a100-pcie-80"}),
        ("A100-40", {"a100-sxm-40", "a100-pcie-40"}),
        ("A100 SXM", {"a100-sxm-40", "a100-sxm-80"}),
        ("A800", {"a800-sxm-80", "a800-pcie-80"}),
        ("GH200", {"gh200-480-96", "gh200-144"}),
        ("V100", {"v100-sxm-16", "v100-sxm-32", "v100-pcie-32"}),
        ("V100-16", {"v100-sxm-16"}),
        ("RTX4090-something", {"rtx-4090-24", "rtx-4090-48-mod"}),
        ("RTX 4090 Ti", {"rtx-4090-24", "rtx-4090-48-mod"}),
        ("4090D", {"rtx-4090d-24", "rtx-4090d-48-mod"}),
        ("NVIDIA GeForce RTX 4090 D", {"rtx-4090d-24", "rtx-4090d-48-mod"}),
        ("RTX 6000", {"rtx-6000-ada-48", "rtx-a6000-48", "rtx-pro-6000-ws-96"}),
        ("M3 Ultra 96GB", {"m3-ultra-512"}),
        ("B200-192", {"b200-sxm-180"}),
    ],
)
def test_ambiguous_names_are_refused_with_the_candidates(text: str, candidates: set[str]) -> None:
    with pytest.raises(AmbiguousName) as refusal:
        resolve_gpu_name(text)
    assert set(refusal.value.candidates) == candidates
    assert all(key in str(refusal.value) for key in candidates)


@pytest.mark.parametrize(
    "text", ["", "  ", "nvidia", "rtx", "H1000", "A1000", "M3", "none", "RTX4090Ti", "../gpu/a40-48"]
)
def test_unknown_names_are_refused(text: str) -> None:
    with pytest.raises(UnknownName):
        resolve_gpu_name(text)


def test_an_unknown_name_names_the_nearest() -> None:
    with pytest.raises(UnknownName, match=r"nearest: .*h100-sxm-80"):
        resolve_gpu_name("8xH100")


@given(
    st.one_of(
        st.text(),
        st.text(alphabet="0123456789abghlmnprtx -_()+gGB\n", max_size=24),
        st.tuples(st.sampled_from(gpu_keys()), st.text(max_size=8)).map(lambda parts: "".join(parts)),
    )
)
def test_any_text_gives_a_key_or_one_of_two_refusals_in_one_line(text: str) -> None:
    try:
        assert resolve_gpu_name(text) in gpu_keys()
    except (AmbiguousName, UnknownName) as refusal:
        assert len(str(refusal).splitlines()) == 1
        assert set(refusal.candidates) <= set(gpu_keys())


def test_an_unknown_key_does_not_load() -> None:
    with pytest.raises(UnknownName):
        load_gpu("H100")


@pytest.mark.parametrize("key", gpu_keys())
def test_every_reported_name_and_total_matches_its_key(key: str) -> None:
    facts = load_gpu(key)
    totals = [facts.reported_total_bytes, *facts.alternative_totals_bytes.values()]
    for total in totals:
        assert match_reported(facts.reported_name, None if total is None else total // MIB) == key


@pytest.mark.parametrize(
    ("name", "total_mib", "key"),
    [
        ("NVIDIA GeForce RTX 4090", 24_564, "rtx-4090-24"),
        ("NVIDIA GeForce RTX 4090", 49_140, "rtx-4090-48-mod"),
        ("NVIDIA GeForce RTX 4090", None, None),
        ("NVIDIA GeForce RTX 4090", 36_000, None),
        ("NVIDIA RTX A6000", 46_068, "rtx-a6000-48"),
        ("NVIDIA A100-SXM4-80GB", 81_251, "a100-sxm-80"),
        ("NVIDIA A100-SXM4-80GB", 40_960, None),
        ("NVIDIA H100 80GB HBM3", 80_000, "h100-sxm-80"),
        ("NVIDIA H100 80GB HBM3", 79_900, None),
        ("NVIDIA H100 80GB HBM3", None, "h100-sxm-80"),
        ("NVIDIA GH200 120GB", 97_871, "gh200-480-96"),
        ("NVIDIA GB10", None, "gb10-128"),
        ("NVIDIA L20X", 143_771, "l20x-141"),
        ("NVIDIA Graphics Device", 95_830, None),
        ("H100", 81_559, None),
    ],
)
def test_a_detected_device_is_matched_by_name_and_total(name: str, total_mib: int | None, key: str | None) -> None:
    assert match_reported(name, total_mib) == key


def test_the_alias_file_agrees_with_the_hardware_files() -> None:
    aliases = tomllib.loads((HARDWARE / "gpu_aliases.toml").read_text(encoding="utf-8"))
    for table in aliases.values():
        for meaning in table.values():
            assert set([meaning] if isinstance(meaning, str) else meaning) <= set(gpu_keys())
    for key in gpu_keys():
        meaning = aliases["reported"][load_gpu(key).reported_name]
        assert key in ([meaning] if isinstance(meaning, str) else meaning)


WATCH = """
import json, sys
from profiles.gpus import load_gpu, resolve_gpu_name
opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
steps = {}
for step in ("load_gpu('h100-sxm-80')", "resolve_gpu_name('h200-sxm-141')", "resolve_gpu_name('RTX4090')"):
    opened.clear()
    eval(step)
    steps[step] = [path.split("hardware/")[1] for path in opened if path.endswith(".toml")]
print(json.dumps(steps))
"""


def test_one_gpu_is_one_file_and_a_name_is_at_most_the_alias_file() -> None:
    root = Path(gpus.__file__).parents[1]
    run = subprocess.run([sys.executable, "-c", WATCH], cwd=root, capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == {
        "load_gpu('h100-sxm-80')": ["gpu/h100-sxm-80.toml"],
        "resolve_gpu_name('h200-sxm-141')": [],
        "resolve_gpu_name('RTX4090')": ["gpu_aliases.toml"],
    }


def test_loading_one_gpu_takes_less_than_a_millisecond() -> None:
    def seconds() -> float:
        start = time.perf_counter()
        load_gpu("h100-sxm-80")
        return time.perf_counter() - start

    assert min(seconds() for _ in range(50)) < 1e-3
