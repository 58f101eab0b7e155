"""What the planner would have somebody type, one entry for every node of every candidate of a plan."""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Final

import moeplan
import profiles
from planner.plan import Candidate, Plan
from profiles.library import load_model
from tests.conformance.engines import DRAFTER, Gpu

COMMANDS: Final = {"vllm": ("vllm", "serve"), "sglang": ("python3", "-m", "sglang.launch_server")}
COMMANDS_OF: Final = {"vllm": COMMANDS["vllm"], "sglang": COMMANDS["sglang"], "ktransformers": COMMANDS["sglang"]}
MODELS: Final = Path(profiles.__file__).parent / "models"

# What the repositories of releases that are no model's first one declare.
BLOCK_FP8: Final = {
    "quant_method": "fp8",
    "activation_scheme": "dynamic",
    "fmt": "e4m3",
    "weight_block_size": [128, 128],
}
NVFP4: Final = {
    "quant_method": "modelopt",
    "quant_algo": "NVFP4",
    "producer": {"name": "modelopt", "version": "0.41.0"},
    "ignore": ["lm_head", "*self_attn*", "*vision_tower*", "*mm_projector*"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"dynamic": False, "num_bits": 4, "type": "float", "group_size": 16},
            "input_activations": {"dynamic": False, "num_bits": 4, "type": "float", "group_size": 16},
        }
    },
}
MXFP8: Final = {"quant_method": "mxfp8", "weight_block_size": [1, 32]}
DECLARED: Final[dict[str, dict[str, Any] | None]] = {"bf16": None, "fp8": BLOCK_FP8, "mxfp8": MXFP8, "nvfp4": NVFP4}

# vLLM wants the special tokens of the reasoning parsers, and an image processor of Kimi K2.5.
TOKENS: Final = ("<unk>", "<think>", "</think>", "<mm:think>", "</mm:think>")
IMAGE_PROCESSOR: Final = """\
from transformers.image_processing_utils import BaseImageProcessor


class MediaProcessor(BaseImageProcessor):
    num_frames_per_chunk = 4

    def media_tokens_calculator(self, media):
        return 1
"""


MEDIA: Final = {
    "patch_size": 14,
    "merge_kernel_size": 2,
    "temporal_merge_kernel_size": 4,
    "in_patch_limit": 16384,
    "in_patch_limit_each_frame": 4096,
    "patch_limit_on_one_side": 512,
    "fixed_output_tokens": None,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
"""What the repository of Kimi K2.5 says of its pictures; vLLM asks Kimi K3's for the same names."""


@dataclass(frozen=True)
class Start:
    """The command of one node, without the program's name, and the candidate that it is a part of.

    ``node_gpus`` GPUs of the plan are on this node, the ``first_node`` or another; ``gpu`` is None for a GPU that is
    not NVIDIA's.
    """

    argv: tuple[str, ...]
    plan: Plan
    candidate: Candidate
    gpu: Gpu | None
    node_gpus: int
    first_node: bool

    @property
    def gpus(self) -> int:
        """GPUs on all nodes."""
        return sum(device.kind == "gpu" for device in self.candidate.memory.devices)

    def for_the_parser(self) -> Start:
        """The same start on a GPU that the engine does not know, after whose parser it is not asked further."""
        return replace(self, gpu=None)

    def __str__(self) -> str:
        return " ".join(self.argv)


def estimated(model: str, **options: str | int | bool) -> Iterator[Start]:
    """The starts of one configuration, by the options of `moeplan estimate`; none where it does not fit."""
    yield from starts_of(moeplan.estimate(model, **options))


def starts_of(plan: Plan) -> Iterator[Start]:
    """The starts of a plan's candidates, of many nodes the first and the last; llama.cpp is asked elsewhere."""
    for candidate in plan.candidates:
        command = COMMANDS_OF.get(candidate.engine.name)
        if command is None:
            continue
        places = Counter(device.node for device in candidate.memory.devices if device.kind == "gpu")
        argvs = candidate.launch.per_node_argv or (candidate.launch.argv,)
        assert len(places) == len(argvs), f"{len(places)} nodes of {candidate.parallel} have {len(argvs)} commands"
        gpu = _gpu(plan, candidate)
        for number, (argv, node) in enumerate(zip(argvs, sorted(places), strict=True)):
            assert argv[: len(command)] == command, argv
            if number in (0, len(argvs) - 1):
                yield Start(argv[len(command) :], plan, candidate, gpu, places[node], number == 0)


def _gpu(plan: Plan, candidate: Candidate) -> Gpu | None:
    name = next(device.name for device in candidate.memory.devices if device.kind == "gpu")
    facts = next(gpu for node in plan.inventory["nodes"] for gpu in node["gpus"] if gpu["name"]["value"] == name)
    if facts["vendor"] != "nvidia":
        return None
    major, minor = facts["compute_capability"]["value"].split(".")
    return Gpu(name, (int(major), int(minor)), facts["memory"]["total_bytes"]["value"])


class Models:
    """Folders that stand for the repositories that starts name: config.json, a tokenizer of a few tokens."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def of(self, start: Start) -> Path:
        """The folder for the start's model and release."""
        return self.named(start.plan.model.id, start.candidate.quantization.name)

    def named(self, model: str, quantization: str) -> Path:
        """The folder for a built-in model in a quantization."""
        folder = self._folder / f"{model}-{quantization}"
        if not folder.exists():
            files = _repository(model, quantization)
            folder.mkdir()
            for name, content in files.items():
                (folder / name).write_text(content, encoding="utf-8")
            (folder / DRAFTER).mkdir()
            (folder / DRAFTER / "config.json").write_text(json.dumps(_drafter(model)), encoding="utf-8")
        return folder


@cache
def _card(model: str) -> dict[str, Any]:
    return tomllib.loads((MODELS / f"{model}.toml").read_text(encoding="utf-8"))


def _drafter(model: str) -> dict[str, Any]:
    """What a published Eagle3 drafter of the model declares: one Llama layer of the model's width."""
    spec = load_model(model)
    return {
        "architectures": ["LlamaForCausalLMEagle3"],
        "model_type": "llama",
        "torch_dtype": "bfloat16",
        "hidden_size": spec.hidden,
        "num_hidden_layers": 1,
        "num_attention_heads": 64,
        "num_key_value_heads": 64,
        "head_dim": 128,
        "intermediate_size": 12288,
        "vocab_size": spec.vocab,
        "draft_vocab_size": spec.vocab,
        "max_position_embeddings": spec.max_context,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
    }


def _repository(model: str, quantization: str) -> dict[str, str]:
    card = _card(model)
    config = json.loads((MODELS / "configs" / card["config"]).read_text(encoding="utf-8"))
    if "config_section" in card:
        config = config[card["config_section"]]
    parts = [part for part in (config, config.get("text_config")) if part is not None]
    native = load_model(model).native_quantization == quantization
    for part in parts:
        # It names Python files of the repository, which are not here; both engines bring classes of their own.
        part.pop("auto_map", None)
        if not native:
            part.pop("quantization_config", None)
    if not native and DECLARED[quantization] is not None:
        config["quantization_config"] = DECLARED[quantization]
    files = {"config.json": json.dumps(config), **_tokenizer()}
    if "vision_config" in config:
        files["media_processor.py"] = IMAGE_PROCESSOR
        processor = {"auto_map": {"AutoImageProcessor": "media_processor.MediaProcessor"}, "media_proc_cfg": MEDIA}
        files["preprocessor_config.json"] = json.dumps(processor)
    return files


def _tokenizer() -> dict[str, str]:
    vocabulary = {token: number for number, token in enumerate(TOKENS)}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [{"id": number, "content": token, **flags} for token, number in vocabulary.items()],
        "pre_tokenizer": {"type": "Whitespace"},
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": TOKENS[0]},
    }
    kind = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": TOKENS[0]}
    return {"tokenizer.json": json.dumps(tokenizer), "tokenizer_config.json": json.dumps(kind)}
