"""Puts `vllm serve` argument lists through vLLM's own code, up to the engine's complete configuration.

Runs under the interpreter that setup.sh makes, not under the project's. Every line of standard input is a request
(`argv` after `vllm serve`, `model` and `drafter` the folders that stand for the names of both, `gpu` its name, CUDA
capability and bytes, `gpus` on this node); every line of standard output is the answer. A `gpu` of None stops after
the parser, which is all that this CUDA build can say of other vendors' GPUs.

Three things are stood in for, each because it is compiled for CUDA: the platform (told which GPU it is on), the
kernels' extension modules (imported, never called) and flash-attention's Python face. Everything that reads, compares
or refuses is vLLM's.
"""

from __future__ import annotations

import copy
import importlib
import importlib.metadata
import json
import os
import pickle
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stand_ins import Refused, StandIns

EXTENSIONS = (
    "vllm._C",
    "vllm._moe_C",
    "vllm._C_stable_libtorch",
    "vllm._moe_C_stable_libtorch",
    "vllm._qutlass_C",
)
# What vLLM 0.11 imports beyond the requirements of 0.33.
NOT_IMPORTED_SINCE = ("blake3", "jinja2", "setproctitle")
CAPABILITY_QUERIES = (
    "cutlass_scaled_mm_supports_fp8",
    "cutlass_scaled_mm_supports_block_fp8",
    "cutlass_group_gemm_supported",
)
FIRST_GPU = {"name": "NVIDIA H100 80GB HBM3", "capability": [9, 0], "bytes": 80 << 30}


def stand_in_for_compiled_code() -> Any:
    """Empty extension modules, the three operators that are asked while vLLM is imported, and flash-attention.

    The operators exist as long as the library that is returned.
    """
    for name in EXTENSIONS:
        sys.modules[name] = types.ModuleType(name)
    library = importlib.import_module("torch").library.Library("_C", "DEF")
    for query in CAPABILITY_QUERIES:
        library.define(f"{query}(int capability) -> bool")
        library.impl(query, lambda capability: capability >= 90, "CompositeExplicitAutograd")
    flash_attention = types.ModuleType("vllm.vllm_flash_attn")
    for name in ("compile_flash_attn_varlen_func_from_specs", "flash_attn_varlen_func", "get_scheduler_metadata"):
        setattr(flash_attention, name, None)
    sys.modules[flash_attention.__name__] = flash_attention
    return library


def install_platform() -> Callable[[dict[str, Any], int], None]:
    """Makes vLLM's CUDA platform the current one; the function returned says what GPUs it has."""
    cuda = importlib.import_module("vllm.platforms.cuda")
    capability_type = importlib.import_module("vllm.platforms.interface").DeviceCapability
    now: dict[str, Any] = {}

    def describe(gpu: dict[str, Any], count: int) -> None:
        now.update(gpu, capability=capability_type(*gpu["capability"]), count=count)

    facts: dict[str, Any] = {
        "get_device_capability": lambda cls, device_id=0: now["capability"],
        "get_device_name": lambda cls, device_id=0: now["name"],
        "get_device_total_memory": lambda cls, device_id=0: now["bytes"],
        "device_count": lambda cls: now["count"],
        "is_fully_connected": lambda cls, device_ids: True,
        "get_all_device_numa_nodes": lambda cls: None,
    }
    methods: dict[str, Any] = {name: classmethod(function) for name, function in facts.items()}
    describe(FIRST_GPU, 8)
    platforms: Any = importlib.import_module("vllm.platforms")
    platforms._current_platform = type("Gpu", (cuda.CudaPlatformBase,), methods)()
    # Earlier versions ask for the number of GPUs past the platform. Imported now, it knows the one above.
    parallel: Any = importlib.import_module("vllm.config.parallel")
    if hasattr(parallel, "cuda_device_count_stateless"):
        parallel.cuda_device_count_stateless = lambda: now["count"]
    return describe


def either(name: str, before: str) -> Any:
    """The module of that name, or the one that stood for it in earlier versions."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        return importlib.import_module(before)


def make_parser(arguments: Any) -> Any:
    """The parser of `vllm serve`; its `error` raises instead of leaving the process."""
    parser = either("vllm.utils.argparse_utils", "vllm.utils").FlexibleArgumentParser()

    def error(message: str) -> None:
        raise Refused(message)

    parser.error = error
    return arguments.make_arg_parser(parser)


def read_models_once() -> None:
    """Most of a request would go into reading the same config.json again; each gets a copy of its own."""
    model: Any = importlib.import_module("vllm.config.model")
    read = model.get_config
    kept: dict[str, bytes] = {}

    def get_config(*arguments: Any, **options: Any) -> Any:
        question = repr((arguments, sorted(options.items())))
        if question not in kept:
            kept[question] = pickle.dumps(read(*arguments, **options))
        return pickle.loads(kept[question])

    model.get_config = get_config


def understood(config: Any) -> dict[str, Any]:
    """What the engine's configuration says in the end; `gpus` are those that this node's processes take."""
    parallel, cache, scheduler = config.parallel_config, config.cache_config, config.scheduler_config
    multimodal, drafts = config.model_config.multimodal_config, config.speculative_config
    return {
        "tp": parallel.tensor_parallel_size,
        "pp": parallel.pipeline_parallel_size,
        "dp": parallel.data_parallel_size,
        "dcp": parallel.decode_context_parallel_size,
        "expert_parallel": parallel.enable_expert_parallel,
        "gpus": parallel.local_world_size * parallel.data_parallel_size_local,
        "world": parallel.world_size_across_dp,
        "first_replica": parallel.data_parallel_rank,
        "head": [parallel.data_parallel_master_ip, getattr(parallel, "master_addr", None)],
        "kv_dtype": cache.cache_dtype,
        "utilization": cache.gpu_memory_utilization,
        "context": config.model_config.max_model_len,
        "sequences": scheduler.max_num_seqs,
        "batched_tokens": scheduler.max_num_batched_tokens,
        "eager": config.model_config.enforce_eager,
        "text_only": multimodal is None or multimodal.language_model_only,
        "vision": None if multimodal is None else multimodal.mm_encoder_tp_mode,
        "loras": 0 if config.lora_config is None else config.lora_config.max_loras,
        "lora_rank": 0 if config.lora_config is None else config.lora_config.max_lora_rank,
        "drafts": 0 if drafts is None else drafts.num_speculative_tokens,
        "method": "" if drafts is None else drafts.method,
        "offload": config.offload_config.uva.cpu_offload_gb,
        "block": cache.block_size,
        "quantization": config.model_config.quantization,
        "served": config.model_config.served_model_name,
    }


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    version = importlib.metadata.version("vllm")
    old = version.startswith("0.11.")
    if old:
        sys.meta_path.append(StandIns(*NOT_IMPORTED_SINCE))
    operators = stand_in_for_compiled_code()
    describe = install_platform()
    arguments = either("vllm.entrypoints.common.cli_args", "vllm.entrypoints.openai.cli_args")
    parser = make_parser(arguments)
    engine = importlib.import_module("vllm.engine.arg_utils")
    usage = importlib.import_module("vllm.usage.usage_lib").UsageContext.OPENAI_API_SERVER
    if not old:
        read_models_once()
        registry: Any = importlib.import_module("vllm.model_executor.models.registry")
        assert registry._SUBPROCESS_COMMAND[1:] == ["-m", registry.__name__]
        registry._SUBPROCESS_COMMAND = [sys.executable, str(Path(__file__).with_name("vllm_model_class.py"))]

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        # The defaults are objects which the configuration is written into: the next request shall not see it.
        args = copy.deepcopy(parser.parse_args(request["argv"]))
        arguments.validate_parsed_serve_args(args)
        if hasattr(arguments, "validate_api_server_args"):
            arguments.validate_api_server_args(args)
        name, args.model = args.model_tag, request["model"]
        if args.speculative_config and "model" in args.speculative_config:
            args.speculative_config["model"] = request["drafter"]
        if request["gpu"] is None:
            return {"model": name}
        engine_args = engine.AsyncEngineArgs.from_cli_args(args)
        describe(request["gpu"], request["gpus"])
        config = engine_args.create_engine_config(usage_context=usage, headless=args.headless)
        return {"model": name, **understood(config)}

    print(json.dumps({"version": version, "flags": list(parser._option_string_actions)}), file=answers, flush=True)
    for line in sys.stdin:
        try:
            reply = {"accepted": True, **answer(json.loads(line))}
        except (Exception, SystemExit) as problem:
            reply = {"accepted": False, "error": f"{type(problem).__name__}: {problem}"}
        print(json.dumps(reply), file=answers, flush=True)
    del operators


if __name__ == "__main__":
    main()
