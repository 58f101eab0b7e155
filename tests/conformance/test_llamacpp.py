"""Every `llama-server` that the planner would have somebody type, by llama.cpp's own parser: what it understands."""

from __future__ import annotations

from typing import Any, Final

import pytest

from planner.engines.llamacpp_work import cells_for
from planner.request import Request
from planner.search import Found, search
from profiles.library import load_model
from tests.conformance.grid import FIRST, MODELS, possible
from tests.planner.launched import settings_of
from tests.planner.planning import request_of

MACHINES: Final[tuple[dict[str, Any], ...]] = (
    {"gpu": "8xH200", "ram": "2TiB"},
    {"gpu": "4xA100-80", "ram": "512GiB", "context": 65_536},
    {"gpu": ["2xH200", "4xA100-80"], "ram": "1TiB", "concurrency": 1},
    {"gpu": "8xRTX4090", "ram": "512GiB", "cpu": "2xepyc-9004", "cores": 64},
    {"gpu": "rtx-4090", "ram": "256GiB", "disk": "2TB@7GB/s", "concurrency": 1},
    {"gpu": "2xL20", "ram": "1TiB", "concurrency": 2},
    {"gpu": "4xRTX-PRO-6000", "ram": "768GiB"},
    {"gpu": "2xMI300X", "ram": "1TiB", "concurrency": 300, "context": 8_192},
    {"gpu": "m3-ultra"},
    {"ram": "1TiB", "cpu": "2xxeon-spr", "cores": 96},
)
NAMES: Final = (
    "n_ctx", "n_parallel", "n_batch", "n_ubatch", "n_gpu_layers", "tensor_split", "tensor_buft_overrides",
    "cache_type_k", "cache_type_v", "flash_attn_type", "kv_unified", "no_op_offload", "no_extra_bufts",
    "cache_ram_mib", "fit_params", "model_alias", "hostnames", "port", "use_jinja",
)  # fmt: skip
GGML_TYPES: Final = {"f16": 1, "q4_0": 2, "q8_0": 8, "bf16": 30}
COMMAND: Final = ("llama-server", "--model", "x.gguf", "--ctx-size", "8192")
EXPERTS_IN_RAM: Final = r"blk\.{}\.ffn_(up|down|gate|gate_up)_(ch|)exps=CPU"


def planned(model: str, options: dict[str, Any]) -> list[tuple[tuple[str, ...], dict[str, Any]]]:
    """Commands, and what the plan means by each."""
    request = request_of(model, engine="llama.cpp", **possible(model, options))
    return [
        (found.engine.launch(request, found.release, found.priced.config).argv, meant(model, found, request))
        for found in search(request).found
    ]


def meant(model: str, found: Found, request: Request) -> dict[str, Any]:
    """The settings by llama.cpp's names, where the plan has them."""
    config = found.priced.config
    layers = [*config.placement[:-1], config.placement[-1] + 1] if len(config.placement) > 1 else []
    overrides = [EXPERTS_IN_RAM.format(layer) for layer in range(config.cpu_expert_layers)] if config.placement else []
    return {
        "n_ctx": cells_for(request, config, found.engine.facts).total,
        "n_parallel": config.sequences,
        "n_ubatch": config.batched_tokens,
        "n_gpu_layers": 999 if config.placement else 0,
        "tensor_split": layers,
        "tensor_buft_overrides": ",".join(overrides),
        "cache_type_k": GGML_TYPES[config.kv_dtype],
        "cache_type_v": GGML_TYPES[config.kv_dtype],
        "flash_attn_type": 1,
        "no_op_offload": ("op_offload", "off") in config.options,
        "no_extra_bufts": config.disk_bytes > 0,
        "fit_params": False,
        "model_alias": [model],
        "hostnames": ["127.0.0.1"],
        "port": 8080,
        "use_jinja": True,
    }


def differences(understood: dict[str, Any], expected: dict[str, Any]) -> dict[str, str]:
    if "refused" in understood:
        return understood
    while understood["tensor_split"] and not understood["tensor_split"][-1]:
        understood["tensor_split"].pop()
    return {name: f"{understood[name]}, not {value}" for name, value in expected.items() if understood[name] != value}


def has_gguf(model: str) -> bool:
    return any(item.container == "gguf" and item.status == "published" for item in load_model(model).releases)


@pytest.mark.parametrize("model", [model for model in MODELS if has_gguf(model)])
def test_llama_cpp_understands_every_planned_command(model: str) -> None:
    asked = [pair for options in MACHINES for pair in planned(model, options)]
    found = []
    for (argv, expected), understood in zip(asked, settings_of([argv for argv, _ in asked], NAMES), strict=True):
        wrong = differences(understood, expected)
        if wrong:
            found.append(f"{wrong}: {' '.join(argv)}")
    assert not found, f"{len(found)} of {len(asked)}:\n" + "\n".join(found[:5])
    assert len(asked) > 50
    if model == FIRST:
        kinds = {(bool(expected["tensor_split"]), bool(expected["tensor_buft_overrides"])) for _, expected in asked}
        assert len(kinds) == 4, "some kind of placement is not in the grid"


@pytest.mark.parametrize(
    "wrong",
    [
        ("--no-such-flag",),
        ("--tensor-parallel-size", "2"),
        ("--n-cpu-moe", "some"),
        ("--override-tensor", "exps"),
        ("--override-tensor", "exps=GPU7"),
        ("--cache-type-k", "fp8"),
        ("--flash-attn",),
        ("--n-gpu-layers", "most"),
        ("--ubatch-size", "large"),
        ("--fit", "perhaps"),
    ],
)
def test_llama_cpp_refuses(wrong: tuple[str, ...]) -> None:
    right, refused = settings_of([COMMAND, (*COMMAND, *wrong)], NAMES)
    assert right["n_ctx"] == 8192
    assert refused == {"refused": "arguments"}


def test_llama_cpp_puts_what_a_pattern_names_into_ram() -> None:
    pattern = r"\.ffn_(up|down|gate)_exps\.=CPU"
    (understood,) = settings_of([(*COMMAND, "--override-tensor", pattern)], ("tensor_buft_overrides",))
    assert understood == {"tensor_buft_overrides": pattern}
