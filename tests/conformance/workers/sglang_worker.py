"""Puts `sglang.launch_server` argument lists through SGLang's own code: parser, resolution and cross-checks.

Runs under the interpreter that setup.sh makes, for SGLang and for sglang-kt, its fork for KTransformers. Every line
of standard input is a request (`argv` after the module's name, `model` and `drafter` the folders that stand for the
names of both, `gpu` its name, CUDA capability and bytes, `gpus` on this node); every line of standard output is the
answer. A `gpu` of None stops after the parser.

Stood in for: `torch.cuda`'s questions about the GPU, the size that nvidia-smi would tell, and packages of kernels,
pictures and servers that the sources import and that no parser calls. Everything that reads, compares or refuses is
SGLang's.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib
import importlib.metadata
import json
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stand_ins import Refused, StandIns

STAND_INS = ("IPython", "sgl_kernel", "torchvision", "triton")
# torch looks for triton too; what asks for it has to be imported before there is a stand-in to find.
BEFORE_STAND_INS = (
    "torch._inductor.utils",
    "torch._dynamo.testing",
    "torch.utils.flop_counter",
    "torch._inductor.compile_fx",
)
BEFORE_A_GPU_IN_THE_FORK = (
    "sglang.srt.layers.quantization",
    "sglang.srt.configs.model_config",
    "sglang.srt.model_loader",
)


def install_gpu(*, fork: bool) -> Callable[[dict[str, Any], int], None]:
    """Makes torch.cuda tell of GPUs that are not there; the function returned says which.

    The fork registers its kernels wherever it sees a GPU while it is imported, and so sees none until then.
    """
    cuda = importlib.import_module("torch").cuda
    now: dict[str, Any] = {"name": "NVIDIA H100 80GB HBM3", "capability": (9, 0), "bytes": 80 << 30, "count": 8}
    cuda.get_device_capability = lambda device=None: now["capability"]
    cuda.get_device_name = lambda device=None: now["name"]
    cuda.device_count = lambda: now["count"]
    cuda.current_device = lambda: 0
    cuda.mem_get_info = lambda device=None: (now["bytes"], now["bytes"])
    cuda.get_device_properties = lambda device=None: types.SimpleNamespace(
        name=now["name"],
        total_memory=now["bytes"],
        multi_processor_count=132,
        major=now["capability"][0],
        minor=now["capability"][1],
    )
    if fork:
        for name in BEFORE_A_GPU_IN_THE_FORK:
            importlib.import_module(name)
    cuda.is_available = lambda: True
    importlib.import_module("torch.version").cuda = "13.0"  # type: ignore[attr-defined]
    common = importlib.import_module("sglang.srt.utils.common")
    vars(common)["get_nvgpu_memory_capacity"] = lambda: now["bytes"] / (1 << 20)
    cached = [value for value in vars(common).values() if hasattr(value, "cache_clear")]

    def describe(gpu: dict[str, Any], count: int) -> None:
        now.update(gpu, capability=tuple(gpu["capability"]), count=count)
        for function in cached:
            function.cache_clear()

    return describe


def rank_ranges(sglang: Path) -> Callable[..., tuple[range, range, int, int]]:
    """The function with which SGLang divides ranks over nodes, taken out of a file that imports the CUDA runtime."""
    source = ast.parse((sglang / "srt" / "entrypoints" / "engine.py").read_text(encoding="utf-8"))
    wanted: list[ast.stmt] = [
        item for item in source.body if isinstance(item, ast.FunctionDef) and item.name == "_calculate_rank_ranges"
    ]
    names: dict[str, Any] = {"Tuple": tuple}
    exec(compile(ast.Module(wanted, []), "engine.py", "exec"), names)

    def ranges(sizes: Any, node_rank: int) -> tuple[range, range, int, int]:
        names["get_parallel"] = lambda: sizes
        found: tuple[range, range, int, int] = names["_calculate_rank_ranges"](node_rank)
        return found

    return ranges


def common_answer(resolved: Any) -> dict[str, Any]:
    """What both say in the end."""
    return {
        "tp": resolved.tp_size,
        "pp": resolved.pp_size,
        "ep": resolved.ep_size,
        "kv_dtype": resolved.kv_cache_dtype,
        "utilization": resolved.mem_fraction_static,
        "context": resolved.context_length,
        "sequences": resolved.max_running_requests,
        "attention": resolved.attention_backend,
        "served": resolved.served_model_name,
        "algorithm": resolved.speculative_algorithm,
        "drafts": resolved.speculative_num_steps or 0,
    }


def upstream_answer(args: Any, ranges: Callable[..., tuple[range, range, int, int]]) -> dict[str, Any]:
    """Resolves and checks; `gpus` are those that this node's processes take, by SGLang's own division."""
    args.resolve_once()
    args.check_server_args()
    resolved = importlib.import_module("sglang.srt.arg_groups.overrides").resolved_view(args)
    widths = importlib.import_module("sglang.srt.runtime_context").parallel_widths_of(resolved)
    world = importlib.import_module("sglang.srt.server_args").compute_world_size
    pp_ranks, tp_ranks, _, _ = ranges(resolved, resolved.node_rank)
    return {
        **common_answer(resolved),
        # Resolution divides the chunk by the attention ranks.
        "batched_tokens": resolved.chunked_prefill_size * resolved.attn_dp_size,
        "eager": resolved.cuda_graph_config.decode.backend == "disabled",
        "dp": resolved.dp_size,
        "attention_dp": resolved.attn_dp_size,
        "dcp": resolved.dcp_size,
        "expert_tp": widths["moe_tp_size"],
        "gpus": resolved.dp_size * len(pp_ranks) * len(tp_ranks),
        "world": world(dp_size=resolved.dp_size, tp_size=resolved.tp_size, pp_size=resolved.pp_size),
        "text_only": resolved.language_model_only,
    }


def fork_answer(args: Any) -> dict[str, Any]:
    """sglang-kt resolves while it is built; what remains are the cross-checks."""
    args.check_server_args()
    return {
        **common_answer(args),
        "batched_tokens": args.chunked_prefill_size,
        "eager": args.disable_cuda_graph,
        "dp": args.dp_size,
        "gpus": args.dp_size * args.tp_size * args.pp_size,
        "method": args.kt_method,
        "gpu_experts": args.kt_num_gpu_experts,
        "threads": args.kt_cpuinfer,
        "pools": args.kt_threadpool_count,
        "weights": args.kt_weight_path,
    }


def main() -> None:
    distribution = sys.argv[1]
    version = importlib.metadata.version(distribution)
    # The fork is of a SGLang that resolved its arguments while they are built, as 0.5.6 does.
    fork = distribution == "sglang-kt" or version.startswith("0.5.6")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for name in BEFORE_STAND_INS:
        importlib.import_module(name)
    # Transformers chooses what it offers by what it can import: before there are stand-ins.
    for name in ("AutoModel", "AutoProcessor", "PreTrainedModel"):
        getattr(importlib.import_module("transformers"), name)
    sys.meta_path.append(StandIns(*STAND_INS))
    importlib.import_module("triton.runtime")
    describe = install_gpu(fork=fork)
    server_args = importlib.import_module("sglang.srt.server_args").ServerArgs
    # Stricter than SGLang: what an abbreviation means can change with every new flag.
    parser: Any = argparse.ArgumentParser(allow_abbrev=False)
    server_args.add_cli_args(parser)

    def error(message: str) -> None:
        raise Refused(message)

    parser.error = error
    if not fork:
        # It asks the kernels' package, which is not here, whether it is as new as the one that SGLang requires.
        kimi: Any = importlib.import_module("sglang.srt.arg_groups.model_overrides.kimi_k3")
        assert callable(kimi._require_kimi_k3_cutedsl_dcp_support)
        kimi._require_kimi_k3_cutedsl_dcp_support = lambda: None
    ranges = None if fork else rank_ranges(Path(importlib.import_module("sglang").__path__[0]))
    environment = dict(os.environ)

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        args = copy.deepcopy(parser.parse_args(request["argv"]))
        name, args.model_path = args.model_path, request["model"]
        if getattr(args, "speculative_draft_model_path", None):
            args.speculative_draft_model_path = request["drafter"]
        if request["gpu"] is None:
            return {"model": name}
        describe(request["gpu"], request["gpus"])
        resolved = server_args.from_cli_args(args)
        return {"model": name, **(fork_answer(resolved) if ranges is None else upstream_answer(resolved, ranges))}

    print(json.dumps({"version": version, "flags": list(parser._option_string_actions)}), file=answers, flush=True)
    for line in sys.stdin:
        try:
            reply = {"accepted": True, **answer(json.loads(line))}
        except (Exception, SystemExit) as problem:
            reply = {"accepted": False, "error": f"{type(problem).__name__}: {problem}"}
        # Resolution leaves settings for its child processes in the environment.
        os.environ.clear()
        os.environ.update(environment)
        print(json.dumps(reply, default=str), file=answers, flush=True)


if __name__ == "__main__":
    main()
