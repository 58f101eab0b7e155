"""vLLM's start-up lines. The figures are published ones, with their place; the lines around them are ours."""

from __future__ import annotations

import pytest

from hwdetect.serving.observation import Observation
from hwdetect.serving.startup import read_startup

GIB = 1 << 30


def read(text: str) -> Observation:
    found = read_startup(text.splitlines())
    assert found is not None
    return found


def in_gib(observation: Observation) -> dict[str, float]:
    """Sizes as printed, GiB with two decimals; token counts as they are."""
    return {
        term: value if term == "kv_tokens" else round(value / GIB, 2) for term, value in observation.values().items()
    }


# Llama-3.1-8B on one H100: github.com/llm-d-incubation/llm-d-planner accuracy/results/v0.19.0/logs
ENGINE_19 = "(EngineCore pid=7) {level} 01-02 03:04:05 [v1/worker/{file}] {text}\n"
LLAMA_19 = "".join(
    [
        "(APIServer pid=1) INFO 01-02 03:04:05 [utils.py:9]  \u2580\u2584\u2580 \u2588  version 0.19.0\n",
        "(APIServer pid=1) INFO 01-02 03:04:05 [utils.py:8] non-default args: {'model_tag': "
        "'meta-llama/Llama-3.1-8B-Instruct', 'model': 'meta-llama/Llama-3.1-8B-Instruct', 'max_model_len': 16384, "
        "'gpu_memory_utilization': 0.95, 'enable_prefix_caching': False}\n",
        "(APIServer pid=1) DEBUG 01-02 03:04:05 [a.py:1] Defaulting max_num_seqs to 1024 for X usage context.\n",
        "(APIServer pid=1) INFO 01-02 03:04:05 [s.py:2] Chunked prefill is enabled with max_num_batched_tokens=8192.\n",
        *(
            ENGINE_19.format(level="INFO", file="gpu_worker.py:1", text=text)
            for text in (
                "worker init memory snapshot: torch_peak=0.0GiB, free_memory=78.68GiB, total_memory=79.19GiB, x=1",
                "Model loading took 14.99 GiB memory and 9.803794 seconds",
                "Estimated CUDA graph memory: 0.84 GiB total",
                "Memory profiling takes 18.17 seconds. Total non KV cache memory: 17.12GiB; torch peak memory "
                "increase: 1.89GiB; non-torch forward increase memory: 0.25GiB; weights memory: 14.99GiB.",
                "Available KV cache memory: 58.11 GiB",
                "GPU KV cache size: 476,016 tokens",
                "Maximum concurrency for 16,384 tokens per request: 29.05x",
                "Graph capturing finished in 3 secs, took 0.91 GiB",
                "CUDA graph pool memory: 0.91 GiB (actual), 0.84 GiB (estimated), difference: 0.07 GiB (7.7%).",
                "Free memory on device (78.68/79.19 GiB) on startup. Desired GPU memory utilization is (0.95, 75.23 "
                "GiB). Actual usage is 14.99 GiB for weight, 1.89 GiB for peak activation, 0.25 GiB for non-torch "
                "memory, and 0.91 GiB for CUDAGraph memory. Current kv cache memory in use is 58.11 GiB.",
            )
        ),
    ]
)


def test_version_0_19_to_the_last_digit() -> None:
    found = read(LLAMA_19)
    assert (found.engine, found.version, found.model) == ("vllm", "0.19.0", "meta-llama/Llama-3.1-8B-Instruct")
    assert found.settings == {
        "max_model_len": "16384",
        "gpu_memory_utilization": "0.95",
        "max_num_seqs": "1024",
        "max_num_batched_tokens": "8192",
    }
    assert in_gib(found) == {
        "visible": 79.19,
        "weights": 14.99,
        "graphs_reserved": 0.84,
        "activation": 1.89,
        "non_torch": 0.25,
        "kv_cache": 58.11,
        "kv_tokens": 476016,
        "graphs": 0.91,
    }
    assert found.failure is None
    assert found.unpriced == ()


def test_info_lines_alone_tell_less_and_nothing_is_made_up() -> None:
    kept = [line for line in LLAMA_19.splitlines() if "profiling" not in line and "Free memory" not in line]
    assert {"activation", "non_torch"}.isdisjoint(read("\n".join(kept)).values())


# github.com/kubernetes-sigs/gateway-api-inference-extension/pull/550, vLLM 0.8 on an H100
OLD = (
    "INFO 01-02 03:04:05 [worker.py:267] the current vLLM instance can use total_gpu_memory (79.19GiB) x "
    "gpu_memory_utilization (0.90) = 71.27GiB\n"
    "INFO 01-02 03:04:05 [worker.py:267] model weights take 12.55GiB; non_torch_memory takes 0.16GiB; PyTorch "
    "activation peak memory takes 2.38GiB; the rest of the memory reserved for KV Cache is 56.18GiB.\n"
    "INFO 01-02 03:04:05 [executor_base.py:111] # cuda blocks: 7191, # CPU blocks: 512\n"
)


def test_the_profile_of_version_0_8() -> None:
    found = in_gib(read(OLD))
    assert found == {"visible": 79.19, "weights": 12.55, "non_torch": 0.16, "activation": 2.38, "kv_cache": 56.18}


def test_blocks_become_tokens_where_the_concurrency_tells_their_size() -> None:
    # github.com/vllm-project/vllm/pull/12569, Llama-3.1-70B w8a8; the unit it prints as GB is GiB
    lines = (
        "INFO x gpu_model_runner.py:848] Loading model weights took 67.7229 GB\n"
        "INFO x kv_cache_utils.py:395] # GPU blocks: 1381\n"
        "INFO x kv_cache_utils.py:398] Maximum concurrency for 2048 tokens per request: 10.79x\n"
    )
    found = read(lines)
    assert found.values()["kv_tokens"] == 1381 * 16
    assert found.values()["weights"] == round(67.7229 * GIB)
    assert "kv_tokens" not in read(lines.replace("10.79x", "0.01x")).values()


# Figures of a 16-way data-parallel start-up on GB300 (NVIDIA srt-slurm, tests of its memory report).
CONSUMED = (
    "(Worker_DP1_EP1 pid=3) INFO x [gpu_model_runner.py:1] Model loading took 168.00 GiB memory and 1 seconds\n"
    "(Worker_DP0_EP0 pid=2) INFO x [gpu_model_runner.py:1] Model loading took 168.89 GiB memory and 1 seconds\n"
    "(Worker_DP0_EP0 pid=2) INFO x [gpu_worker.py:1] Available KV cache memory: 46.50 GiB\n"
    "(EngineCore_DP0 pid=1) INFO x [kv_cache_utils.py:1] GPU KV cache size: 394,633 tokens, Maximum concurrency for "
    "10,240 tokens per request: 38.54x\n"
    "(Worker_DP0_EP0 pid=2) INFO x [gpu_worker.py:1] CUDA graph pool memory: 8.57 GiB (actual), 33.06 GiB "
    "(estimated), difference: 24.49 GiB (285.9%).\n"
    "(Worker_DP0_EP0 pid=2) INFO x [gpu_worker.py:1] Free memory on device (274.27/276.62 GiB) on startup. Desired "
    "GPU memory utilization is (0.92, 254.49 GiB). Actual usage is 171.25 GiB for consumed memory (weights + "
    "non-torch), 36.74 GiB for peak activation, and 8.57 GiB for CUDAGraph memory.\n"
)


def test_newer_versions_print_sums_that_are_taken_apart() -> None:
    found = in_gib(read(CONSUMED))
    assert found["non_torch"] == pytest.approx(171.25 - 168.89, abs=0.011)
    assert found["activation"] == pytest.approx(36.74 - 33.06, abs=0.011)
    assert (found["graphs"], found["graphs_reserved"], found["visible"]) == (8.57, 33.06, 276.62)


def test_a_peak_that_holds_an_unknown_reserve_is_not_taken_for_the_activation() -> None:
    without = "\n".join(line for line in CONSUMED.splitlines() if "graph pool" not in line)
    assert "activation" not in read(without).values()
    # With --enforce-eager there is no reserve: 8.57 GiB of graphs become none.
    eager = without.replace("8.57 GiB for CUDAGraph", "0.0 GiB for CUDAGraph")
    assert in_gib(read(eager))["activation"] == 36.74


def test_every_rank_is_kept_and_the_fullest_counts() -> None:
    found = read(CONSUMED)
    weights = next(one for one in found.measurements if one.term == "weights")
    assert [reading.place for reading in weights.readings] == ["Worker_DP1_EP1", "Worker_DP0_EP0"]
    assert weights.value == round(168.89 * GIB)
    kv = read(
        "(Worker_TP0 pid=1) INFO x Available KV cache memory: 36.02 GiB\n"
        "(Worker_TP1 pid=2) INFO x Available KV cache memory: 35.90 GiB\n"
    )
    # A token is on every rank: the rank with least room decides.
    assert kv.values()["kv_cache"] == round(35.90 * GIB)


@pytest.mark.parametrize(
    ("prefix", "place"),
    [
        ("(EngineCore pid=243) INFO x ", "EngineCore"),
        ("(Worker_TP3_EP3 pid=9) INFO x ", "Worker_TP3_EP3"),
        ("(VllmWorkerProcess pid=240) INFO x ", "VllmWorkerProcess 240"),
        ("(VllmWorker rank=2 pid=77) INFO x ", "VllmWorker rank=2"),
        ("(RayWorkerWrapper pid=31, ip=10.0.0.2) INFO x ", "RayWorkerWrapper 31"),
        ("\x1b[36m(Worker_TP1 pid=4)\x1b[0;0m INFO x ", "Worker_TP1"),
        ("2026-01-02T03:04:05.678901234Z stderr F (Worker_TP1 pid=4) INFO x ", "Worker_TP1"),
        ("Capturing: 80%|##  | 4/5 [00:00<00:00](Worker_TP1 pid=4) INFO x ", "Worker_TP1"),
        ("vllm STDOUT: INFO x ", ""),
    ],
)
def test_rank_prefixes(prefix: str, place: str) -> None:
    from hwdetect.serving.lines import clean_lines

    line = f"{prefix}[gpu_worker.py:1] Available KV cache memory: 36.02 GiB\n"
    found = read_startup(clean_lines([line.encode()]))
    assert found is not None
    assert [reading.place for reading in found.measurements[0].readings] == [place]


def test_of_two_starts_the_last_counts() -> None:
    second = LLAMA_19.replace("14.99", "15.99").replace("16384", "8192")
    found = read(LLAMA_19 + second)
    assert in_gib(found)["weights"] == 15.99
    assert found.settings["max_model_len"] == "8192"


def test_a_start_that_ran_out_of_memory() -> None:
    began = LLAMA_19[: LLAMA_19.index("Available KV cache")]
    found = read(
        began + "Available KV cache memory: -1.44 GiB\nValueError: No available memory for the cache blocks. Try"
    )
    assert found.failure == "No available memory for the cache blocks"
    assert in_gib(found)["kv_cache"] == -1.44
    assert read(began + "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB").failure is not None
    # After a restart that went well, the old failure is history.
    assert read(began + "torch.OutOfMemoryError\n" + LLAMA_19).failure is None


def test_arguments_of_every_form() -> None:
    listed = read(
        "INFO x non-default args: {'model': '/models/DeepSeek-R1', 'tensor_parallel_size': 8, 'data_parallel_size': 2, "
        "'enable_expert_parallel': True, 'kv_cache_dtype': 'fp8', 'limit_mm_per_prompt': {'image': 0, 'video': 0}, "
        "'speculative_config': {'method': 'eagle3', 'model': 'x/y'}, 'enforce_eager': True, 'cpu_offload_gb': 0}\n"
        "INFO x Available KV cache memory: 1.0 GiB\n"
    )
    assert listed.model == "/models/DeepSeek-R1"
    assert listed.settings == {
        "tp": "8", "dp": "2", "ep": "16", "kv_dtype": "fp8", "text_only": True, "enforce_eager": True,
    }  # fmt: skip
    assert listed.unpriced == ("speculative_config",)
    namespace = read(
        "INFO x vLLM API server version 0.6.4.post1\n"
        "INFO x args: Namespace(subparser='serve', model_tag='org/M', model='org/M', max_model_len=None, "
        "tensor_parallel_size=4, gpu_memory_utilization=0.9, max_num_seqs=256, kv_cache_dtype='auto', "
        "enforce_eager=False, speculative_model=None, enable_lora=False)\n"
        "INFO x # GPU blocks: 10, # CPU blocks: 20\nINFO x Loading model weights took 1.0 GB\n"
    )
    assert (namespace.version, namespace.model) == ("0.6.4.post1", "org/M")
    assert namespace.settings == {"tp": "4", "gpu_memory_utilization": "0.9", "max_num_seqs": "256"}
    assert namespace.unpriced == ()


def test_serving_lines_are_not_a_start() -> None:
    line = "INFO x [loggers.py:282] Engine 000: Avg prompt throughput: 115.2 tokens/s, GPU KV cache usage: 2.6%"
    assert read_startup([line] * 100) is None


def test_arguments_that_place_weights() -> None:
    line = (
        "INFO x non-default args: {{'model': 'org/M', 'enable_lora': True, 'max_loras': 4, 'cpu_offload_gb': 12.5, "
        "'mm_encoder_tp_mode': 'data'{more}}}\nINFO x Available KV cache memory: 1.0 GiB\n"
    )
    found = read(line.format(more=""))
    assert found.settings == {
        "max_loras": "4", "max_lora_rank": "16", "cpu_offload_gb": "12.5", "mm_encoder_tp_mode": "data",
    }  # fmt: skip
    assert found.unpriced == ()
    # Without the vision tower it does not matter how it would be divided.
    assert "mm_encoder_tp_mode" not in read(line.format(more=", 'language_model_only': True")).settings
