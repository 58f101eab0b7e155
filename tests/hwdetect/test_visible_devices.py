from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwdetect.visible_devices import Device, visibility

GPUS = [Device("GPU-aaaa-1"), Device("GPU-aaaa-2"), Device("GPU-bbbb-1"), Device("")]


def chosen(variable: str | None, ordinals_are_nvml: bool = True) -> list[int | None]:
    answers = visibility(variable, GPUS, ordinals_are_nvml)
    return [None if answer.gpu is None else index for index, answer in enumerate(answers) if answer.gpu is not False]


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        (None, [0, 1, 2, 3]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("0", [0]),
        ("2,1", [1, 2]),
        (" 0 , 2 ", [0, 2]),
        ("0,2,-1,1", [0, 2]),
        ("0,9,1", [0]),
        ("1,,2", [1]),
        ("1gpu2,2ampere", [1, 2]),
        ("0,0", []),
        ("0,GPU-bbbb", [0]),
        ("99999999999999999999", []),
        ("GPU-bbbb-1", [2]),
        ("GPU-b,GPU-aaaa-2", [1, 2]),
        ("GPU-aaaa", []),
        ("GPU-bbbb,GPU-zzzz,GPU-aaaa-1", [2]),
        ("GPU-bbbb,GPU-bbbb-1", []),
        ("GPU-bbbb,0", [2]),
        ("MIG-1", []),
    ],
)
def test_forms_of_cuda_visible_devices(variable: str | None, expected: list[int]) -> None:
    assert chosen(variable) == expected


def test_numbers_in_an_unknown_order_leave_open_which() -> None:
    assert chosen("1", ordinals_are_nvml=False) == [None, None, None, None]
    assert chosen("", ordinals_are_nvml=False) == []
    assert chosen("3,2,1,0", ordinals_are_nvml=False) == [0, 1, 2, 3]
    assert chosen("GPU-bbbb", ordinals_are_nvml=False) == [2]


SPLIT = [
    Device("GPU-a", (frozenset({"MIG-11", "MIG-GPU-a/1/0"}), frozenset({"MIG-12", "MIG-GPU-a/2/0"}))),
    Device("GPU-b"),
]


@pytest.mark.parametrize(
    ("variable", "gpus", "migs"),
    [
        (None, [True, True], (True, True)),
        ("MIG-12", [True, False], (False, True)),
        ("MIG-GPU-a/1/0", [True, False], (True, False)),
        ("MIG-1", [False, False], (False, False)),
        ("MIG-11,MIG-12", [True, False], (True, True)),
        ("GPU-b", [False, True], (False, False)),
        ("GPU-a", [True, False], (None, None)),
    ],
)
def test_mig_devices(variable: str | None, gpus: list[bool], migs: tuple[bool | None, ...]) -> None:
    answers = visibility(variable, SPLIT, False)
    assert [answer.gpu for answer in answers] == gpus
    assert answers[0].mig == migs


@given(st.text(alphabet="0123-,GPUMIab ", max_size=30) | st.text(), st.booleans())
def test_anything_in_the_variable_gets_an_answer_for_every_device(variable: str, known_order: bool) -> None:
    answers = visibility(variable, SPLIT, known_order)
    assert [len(answer.mig) for answer in answers] == [2, 0]
