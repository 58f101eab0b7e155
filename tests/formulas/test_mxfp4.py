"""Padded experts: what the kernels allocate, and that none allocates less than is stored."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formulas.mxfp4 import Mxfp4Kernel, loaded_expert_bytes, padded_expert

KERNELS: tuple[Mxfp4Kernel, ...] = get_args(Mxfp4Kernel)
BLOCKS = st.integers(1, 128).map(lambda blocks: 32 * blocks)


@given(BLOCKS, BLOCKS, st.sampled_from(KERNELS), st.sampled_from((1, 2, 4, 8)))
def test_no_rank_holds_less_than_its_share(hidden: int, intermediate: int, kernel: Mxfp4Kernel, tp: int) -> None:
    wide, narrow = padded_expert(hidden, intermediate, kernel, tp)
    assert (wide >= hidden, narrow * tp >= intermediate) == (True, True)
    stored = 3 * hidden * intermediate * 17 // 32
    assert loaded_expert_bytes(hidden, intermediate, kernel, tp=tp) * tp >= stored


@pytest.mark.parametrize("kernel", KERNELS)
def test_aligned_experts_take_what_is_stored(kernel: Mxfp4Kernel) -> None:
    assert loaded_expert_bytes(4096, 2048, kernel) == 3 * 4096 * 2048 * 17 // 32


@pytest.mark.parametrize(
    ("kernel", "tp", "expected"),
    [
        ("triton", 1, (2880, 2880)),
        ("triton", 2, (2880, 1472)),
        ("triton", 8, (2880, 384)),
        ("marlin", 1, (3072, 2944)),
        ("marlin", 4, (3072, 768)),
        ("flashinfer_trtllm", 2, (3072, 1536)),
        ("flashinfer_cutlass", 1, (2944, 2944)),
    ],
)
def test_gpt_oss(kernel: Mxfp4Kernel, tp: int, expected: tuple[int, int]) -> None:
    assert padded_expert(2880, 2880, kernel, tp) == expected


def test_hopper_pads_scales_and_older_engines_kept_those_of_the_checkpoint_too() -> None:
    plain = loaded_expert_bytes(2880, 2880, "triton")
    padded = loaded_expert_bytes(2880, 2880, "triton", hopper=True)
    assert padded - plain == (5888 + 3072) * 92 - (5760 + 2880) * 90
    kept = loaded_expert_bytes(2880, 2880, "triton", hopper=True, scales_kept=True)
    assert kept - padded == (5760 + 2880) * 90
