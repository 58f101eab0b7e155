"""What an engine makes of MXFP4 experts when it loads them: padded dimensions, and scales in the kernel's own layout.

An expert is stored as gate and up matrices of ``intermediate x hidden`` and a down matrix of ``hidden x intermediate``,
two values a byte and one scale byte per 32. A kernel wants both dimensions in multiples of its tiles, so vLLM allocates
``round_up(hidden, a) x round_up(intermediate / TP, b)`` and fills the rest with zeros. Sources: vLLM 0.33.0
``fused_moe/oracle/mxfp4.py`` (``mxfp4_round_up_hidden_size_and_intermediate_size`` and the conversion of gpt-oss),
``quantization/utils/mxfp4_utils.py`` (``_swizzle_mxfp4``) and the ``triton_kernels`` 3.5 that it ships
(``layout_details/hopper_scale.py``).
"""

from __future__ import annotations

from typing import Final, Literal

Mxfp4Kernel = Literal["triton", "marlin", "flashinfer_trtllm", "flashinfer_cutlass", "deepgemm"]
"""Kernels for MXFP4 experts. For gpt-oss vLLM takes the first that the GPU has: TRTLLM on Blackwell data-centre GPUs
(compute capability 10), Triton on Hopper (9.0), Marlin on GPUs before it."""

_MULTIPLES: Final[dict[str, tuple[int, int]]] = {
    "triton": (1, 64),
    "marlin": (256, 128),
    "flashinfer_trtllm": (256, 128),
    "flashinfer_cutlass": (128, 128),
    "deepgemm": (128, 128),
}
"""Multiples of the hidden size and of the intermediate size of one rank."""
_BLOCK: Final = 32
_HOPPER_ROWS: Final = 2 * 8 * 2 * 8
"""Rows of scales that the eight warps of a Hopper kernel load at once."""
_HOPPER_SCALES: Final = 4
"""Multiple of the scales along a row on Hopper."""


def padded_expert(hidden: int, intermediate: int, kernel: Mxfp4Kernel, tp: int = 1) -> tuple[int, int]:
    """Hidden and intermediate size that are allocated on one of ``tp`` ranks.

    gpt-oss has 2,880 of both, which no kernel but Triton's takes as they are; experts of Kimi K2.5's size fit all.

    >>> padded_expert(2880, 2880, "marlin"), padded_expert(2880, 2880, "triton"), padded_expert(2880, 2880, "triton", 4)
    ((3072, 2944), (2880, 2880), (2880, 768))
    >>> padded_expert(7168, 2048, "marlin", 8)
    (7168, 256)
    """
    of_hidden, of_intermediate = _MULTIPLES[kernel]
    return _up(hidden, of_hidden), _up(-(-intermediate // tp), of_intermediate)


def loaded_expert_bytes(
    hidden: int, intermediate: int, kernel: Mxfp4Kernel, *, tp: int = 1, hopper: bool = False, biased: bool = False,
    scales_kept: bool = False,
) -> int:  # fmt: skip
    """Bytes of one expert on one of ``tp`` ranks after loading, its biases included.

    Triton keeps biases in F32 and, on a ``hopper`` GPU, pads scales to its own tiles. vLLM 0.33.0 then drops the scales
    as loaded; before, they stayed beside those (``scales_kept``): vLLM 0.11 or 0.12 reported 64.38 GiB for gpt-oss-120b
    on one H100, whose checkpoint has 60.77 (llm-d-planner start-up logs).

    >>> experts, rest = 36 * 128, 65_248_815_744 - 36 * 128 * (3 * 2880 * 2880 * 17 // 32 + 3 * 2880 * 2)
    >>> kept = loaded_expert_bytes(2880, 2880, "triton", hopper=True, biased=True, scales_kept=True)
    >>> now = loaded_expert_bytes(2880, 2880, "triton", hopper=True, biased=True)
    >>> [round((rest + experts * size) / 2**30, 2) for size in (kept, now)]
    [64.38, 61.04]
    >>> loaded_expert_bytes(7168, 2048, "marlin")                     # one expert of Kimi K2.5's size
    23396352
    """
    wide, narrow = padded_expert(hidden, intermediate, kernel, tp)
    matrices = ((2 * narrow, wide), (wide, narrow))
    total = sum([rows * columns // 2 for rows, columns in matrices])
    for rows, columns in matrices:
        stored = rows * -(-columns // _BLOCK)
        if kernel == "triton" and hopper:
            total += _up(rows, _HOPPER_ROWS) * _up(-(-columns // _BLOCK), _HOPPER_SCALES)
            total += stored if scales_kept else 0
        else:
            total += stored
    biases = (2 * narrow + wide) * (4 if kernel == "triton" else 2) if biased else 0
    return total + biases


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
