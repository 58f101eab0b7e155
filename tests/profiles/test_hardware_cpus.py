"""The facts of CPU memory systems, the measurements behind them, and the names they are found by."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiles import cpus
from profiles.cpus import cpu_keys, load_cpu, load_cpu_measurements, parse_cpu, resolve_cpu_name
from profiles.names import AmbiguousName, UnknownName

HARDWARE = Path(cpus.__file__).parent / "hardware"
FIELDS = {
    *(
        "family",
        "memory",
        "channels_per_socket",
        "mt_per_s",
        "bandwidth_bytes_per_s_per_socket",
        "max_sockets",
    ),
    *("pcie_generation", "flags", "note", "source"),
}


def test_there_are_25_memory_systems() -> None:
    assert len(cpu_keys()) == 25


@pytest.mark.parametrize("key", cpu_keys())
def test_every_file_is_complete_and_sourced(key: str) -> None:
    raw = tomllib.loads((HARDWARE / "cpu" / f"{key}.toml").read_text(encoding="utf-8"))
    assert raw.keys() <= FIELDS
    facts = load_cpu(key)
    assert facts.source and facts.family
    assert 5e10 < facts.bandwidth_bytes_per_s_per_socket < 1e12
    assert facts.max_sockets in (1, 2)


@pytest.mark.parametrize("key", cpu_keys())
def test_the_rated_bandwidth_is_channels_times_rate(key: str) -> None:
    facts = load_cpu(key)
    assert (facts.channels_per_socket is None) == (facts.mt_per_s is None)
    if facts.channels_per_socket is not None and facts.mt_per_s is not None:
        rated = facts.channels_per_socket * facts.mt_per_s * 10**6 * 8
        assert facts.bandwidth_bytes_per_s_per_socket == pytest.approx(rated)


def test_genoa() -> None:
    genoa = load_cpu("epyc-9004")
    assert (genoa.channels_per_socket, genoa.mt_per_s, genoa.max_sockets) == (12, 4800, 2)
    assert genoa.bandwidth_bytes_per_s_per_socket == 460.8e9
    assert "avx512f" in genoa.flags and genoa.pcie_generation == 5


def test_rome_has_no_avx512_and_sapphire_rapids_has_amx() -> None:
    assert "avx512f" not in load_cpu("epyc-7002").flags
    assert "amx_int8" in load_cpu("xeon-spr").flags


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("epyc-9004", "epyc-9004"),
        ("EPYC 9004", "epyc-9004"),
        ("genoa", "epyc-9004"),
        ("Sapphire Rapids", "xeon-spr"),
        ("AMD EPYC 9354 32-Core Processor", "epyc-9004"),
        ("AMD EPYC 9654P 96-Core Processor", "epyc-9004"),
        ("AMD EPYC 7763 64-Core Processor", "epyc-7003"),
        ("AMD EPYC 7532 32-Core Processor", "epyc-7002"),
        ("AMD EPYC 7V12 64-Core Processor", "epyc-7002"),
        ("AMD EPYC 7V73X 64-Core Processor", "epyc-7003"),
        ("AMD EPYC 9V33X 96-Core Processor", "epyc-9004"),
        ("AMD EPYC-Milan Processor", "epyc-7003"),
        ("Intel(R) Xeon(R) Gold 6330 CPU @ 2.00GHz", "xeon-icelake"),
        ("Intel(R) Xeon(R) Platinum 8488C", "xeon-spr"),
        ("Intel(R) Xeon(R) Gold 6438Y+", "xeon-spr"),
        ("Intel Xeon Processor (SapphireRapids)", "xeon-spr"),
        ("INTEL(R) XEON(R) PLATINUM 8592+", "xeon-emr"),
        ("Intel(R) Xeon(R) CPU Max 9480", "xeon-max"),
        ("Intel(R) Xeon(R) 6787P", "xeon6-6700p"),
        ("Intel(R) Xeon(R) w7-3465X", "xeon-w-3400"),
        ("AMD Ryzen Threadripper PRO 7975WX 32-Cores", "tr-pro-7000"),
        ("AMD Ryzen Threadripper 7980X 64-Cores", "tr-7000"),
        ("AMD Ryzen 9 7950X 16-Core Processor", "desktop-ddr5-am5"),
        ("12th Gen Intel(R) Core(TM) i9-12900K", "desktop-ddr5-intel"),
        ("Intel(R) Core(TM) Ultra 9 285K", "desktop-ddr5-intel"),
        ("AMD RYZEN AI MAX+ 395 w/ Radeon 8060S", "strix-halo"),
        ("Apple M3 Ultra", "m3-ultra"),
        ("Xeon 6900P MRDIMM", "xeon6-6900p-mrdimm"),
    ],
)
def test_names_resolve(text: str, key: str) -> None:
    assert resolve_cpu_name(text) == key


@pytest.mark.parametrize(
    ("text", "candidates"),
    [
        ("epyc-9005", {"epyc-9005-6000", "epyc-9005-6400"}),
        ("Turin", {"epyc-9005-6000", "epyc-9005-6400"}),
        ("AMD EPYC 9355 32-Core Processor", {"epyc-9005-6000", "epyc-9005-6400"}),
        ("Intel(R) Xeon(R) 6960P", {"xeon6-6900p-ddr5", "xeon6-6900p-mrdimm"}),
        ("threadripper pro", {"tr-pro-5000", "tr-pro-7000", "tr-pro-9000"}),
    ],
)
def test_ambiguous_names_are_refused_with_the_candidates(text: str, candidates: set[str]) -> None:
    with pytest.raises(AmbiguousName) as refusal:
        resolve_cpu_name(text)
    assert set(refusal.value.candidates) == candidates


@pytest.mark.parametrize(
    "text",
    [
        "",
        "AMD EPYC 7601 32-Core Processor",  # Naples: no row
        "AMD EPYC 8324P 32-Core Processor",  # Siena: six channels
        "Intel(R) Xeon(R) Gold 6230 CPU @ 2.10GHz",  # Cascade Lake: six channels
        "Intel(R) Xeon(R) Platinum 8380H CPU @ 2.90GHz",  # Cooper Lake: six channels
        "Intel(R) Xeon(R) 6780E",  # Sierra Forest
        "Intel(R) Xeon(R) w5-2465X",  # four channels
        "AMD Ryzen 7 7840HS w/ Radeon 780M Graphics",  # a laptop
        "Apple M3 Max",
        "EPYC 9004 nonsense",
    ],
)
def test_a_processor_without_a_row_is_not_taken_for_a_relative(text: str) -> None:
    with pytest.raises(UnknownName):
        resolve_cpu_name(text)


@pytest.mark.parametrize("key", cpu_keys())
def test_the_family_line_of_every_file_leads_back_to_it(key: str) -> None:
    family = load_cpu(key).family
    try:
        assert resolve_cpu_name(family) == key
    except AmbiguousName as refusal:
        assert key in refusal.candidates


def test_every_alias_means_keys_that_exist() -> None:
    aliases = tomllib.loads((HARDWARE / "cpu_aliases.toml").read_text(encoding="utf-8"))
    meanings = [*aliases["short"].values(), *(row["keys"] for row in aliases["models"])]
    for meaning in meanings:
        assert set([meaning] if isinstance(meaning, str) else meaning) <= set(cpu_keys())


@given(
    st.one_of(
        st.text(),
        st.text(alphabet="epycxonwt0123456789 -@+()", max_size=24),
        st.tuples(st.sampled_from(cpu_keys()), st.text(max_size=8)).map(lambda parts: "".join(parts)),
    )
)
def test_any_text_gives_a_key_or_one_of_two_refusals_in_one_line(text: str) -> None:
    try:
        assert resolve_cpu_name(text) in cpu_keys()
    except (AmbiguousName, UnknownName) as refusal:
        assert len(str(refusal).splitlines()) == 1
        assert set(refusal.candidates) <= set(cpu_keys())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2xepyc-9004", (2, "epyc-9004")),
        ("2 X EPYC 9354", (2, "epyc-9004")),
        ("epyc-9004", (1, "epyc-9004")),
        ("1xtr-pro-7000", (1, "tr-pro-7000")),
    ],
)
def test_sockets_and_name(text: str, expected: tuple[int, str]) -> None:
    assert parse_cpu(text) == expected


@pytest.mark.parametrize("text", ["0xepyc-9004", "3xepyc-9004", "2xtr-7000"])
def test_sockets_that_no_board_has_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="socket"):
        parse_cpu(text)


def test_the_measurements_agree_with_the_rated_figures() -> None:
    measured = load_cpu_measurements()
    assert (len(measured.bandwidth), len(measured.decode)) == (8, 4)
    for row in measured.bandwidth:
        assert row.source
        if row.rated_bytes_per_s is None:
            continue
        if row.cpu is not None:
            rated = row.sockets * load_cpu(row.cpu).bandwidth_bytes_per_s_per_socket
            assert row.rated_bytes_per_s == pytest.approx(rated)
        for measured_bytes_per_s, fraction in zip(row.measured_bytes_per_s, row.fraction_of_rated, strict=True):
            assert measured_bytes_per_s / row.rated_bytes_per_s == pytest.approx(fraction, abs=0.01)


def test_the_planning_fractions_are_ordered_and_within_what_was_measured() -> None:
    measured = load_cpu_measurements()
    planning = measured.planning
    assert planning.low < planning.typical < planning.full < planning.high
    assert planning.high == max(fraction for row in measured.bandwidth for fraction in row.fraction_of_rated)
