"""The tables of measured kernels: every series is usable as it stands."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from profiles.gpus import load_gpu
from profiles.kernels import kernel_gpus, kernel_groups, kernel_rows

FOLDER = Path(__file__).parents[2] / "profiles" / "kernels"


@pytest.mark.parametrize("gpu", kernel_gpus())
def test_every_series_has_rising_points_and_a_source(gpu: str) -> None:
    assert load_gpu(gpu).key == gpu
    rows = [row for alike in kernel_rows(gpu).values() for row in alike]
    assert len(rows) > 100
    for row in rows:
        assert row.source and row.engine in ("vllm", "sglang", "nccl") and row.version
        assert all(a[0] < b[0] for a, b in pairwise(row.points)), row
        assert all(0.5e-6 < seconds < 10 for _, seconds in row.points), row
        assert all(size > 0 for _, size in row.dims)
        assert all(earlier[1] <= later[1] for earlier, later in pairwise(row.points)), row


def test_groups_hold_every_series_once() -> None:
    for gpu in kernel_gpus():
        for kernel, groups in kernel_groups(gpu).items():
            assert sum(len(group.rows) for group in groups) == len(kernel_rows(gpu)[kernel])
            assert all(group.logs[0].keys() == dict(group.rows[0].dims).keys() for group in groups)


def test_the_tables_stay_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.glob("*.json")) < 1 << 20
