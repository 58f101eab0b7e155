"""SGLang's start-up lines. The figures are published ones, with their place; the lines around them are ours."""

from __future__ import annotations

from hwdetect.serving.observation import Observation
from hwdetect.serving.startup import read_startup

GIB = 1 << 30

# Kimi K2.5 on 8x MI355X, SGLang 0.5.8 (ROCm image of 2026-02-18): a public log of that start-up
ARGUMENTS = (
    "[2026-01-02 03:04:05] server_args=ServerArgs(model_path='moonshotai/Kimi-K2.5', tokenizer_path='x', "
    "context_length=None, quantization=None, kv_cache_dtype='auto', mem_fraction_static=0.8260405859375, "
    "max_running_requests=None, max_total_tokens=None, chunked_prefill_size=16384, tp_size=8, pp_size=1, dp_size=1, "
    "ep_size=1, speculative_algorithm=None, kt_weight_path=None, cpu_offload_gb=0, enable_lora=None, "
    "cuda_graph_bs=[1, 2, 4], disable_cuda_graph=False)\n"
)
DISTRIBUTED_GIB = (3.81, 3.41, 3.83, 3.83, 3.69, 3.76, 3.70, 3.69)


def start(rank: int) -> str:
    stamp = f"[2026-01-02 03:04:05 TP{rank}]"
    return (
        f"{stamp} Init torch distributed ends. elapsed=17.24 s, mem usage={DISTRIBUTED_GIB[rank]:.2f} GB\n"
        f"{stamp} Load weight begin. avail mem=283.56 GB\n"
        f"{stamp} Load weight end. elapsed=1.0 s, type=KimiK25ForConditionalGeneration, dtype=torch.bfloat16, "
        "avail mem=209.98 GB, mem usage=73.58 GB.\n"
        f"{stamp} KV Cache is allocated. #tokens: 2454421, KV size: 160.63 GB\n"
        f"{stamp} Memory pool end. avail mem=45.25 GB\n"
    )


KIMI = ARGUMENTS + "".join(start(rank) for rank in range(8))


def read(text: str) -> Observation:
    found = read_startup(text.splitlines())
    assert found is not None
    return found


def in_gib(observation: Observation) -> dict[str, float]:
    return {
        term: value if term == "kv_tokens" else round(value / GIB, 2) for term, value in observation.values().items()
    }


def test_eight_ranks_of_kimi() -> None:
    found = read(KIMI)
    assert (found.engine, found.model, found.version) == ("sglang", "moonshotai/Kimi-K2.5", None)
    assert found.settings == {
        "tp": "8", "pp": "1", "dp": "1", "ep": "1", "max_num_batched_tokens": "16384",
        "gpu_memory_utilization": "0.826041",
    }  # fmt: skip
    assert in_gib(found) == {"non_torch": 3.83, "weights": 73.58, "kv_cache": 160.63, "kv_tokens": 2454421}
    assert {len(one.readings) for one in found.measurements} == {8}
    assert found.unpriced == ()


def test_keys_and_values_add_up() -> None:
    # github.com/vllm-project/vllm/issues/21348 and the form with the number format, of later versions
    for line in (
        "[2025-01-02 03:04:05 TP0] KV Cache is allocated. #tokens: 367404, K size: 8.23 GB, V size: 8.23 GB",
        "[2025-01-02 03:04:05 TP0] KV Cache is allocated. dtype: torch.bfloat16, #tokens: 367404, "
        "K size: 8.23 GB, V size: 8.23 GB",
    ):
        assert in_gib(read(line)) == {"kv_cache": 16.46, "kv_tokens": 367404}


def test_versions_that_print_the_tokens_later() -> None:
    # Figures of a public log of SGLang 0.4, February 2025
    found = read(
        "[2025-02-04 05:29:17 TP0] Load weight end. type=Qwen2ForCausalLM, dtype=torch.bfloat16, avail mem=8.37 GB\n"
        "[2025-02-04 05:29:17 TP0] KV Cache is allocated. K size: 2.82 GB, V size: 2.82 GB.\n"
        "[2025-02-04 05:29:19 TP0] Capture cuda graph end. Time elapsed: 1.79 s\n"
        "[2025-02-04 05:29:20 TP0] max_total_num_tokens=105531, chunked_prefill_size=2048, max_prefill_tokens=16384, "
        "max_running_requests=2049, context_len=131072\n"
    )
    assert in_gib(found) == {"kv_cache": 5.64, "kv_tokens": 105531}
    assert found.settings == {"max_model_len": "131072"}


def test_graphs_of_several_captures_add_up_and_a_drafter_is_left_out() -> None:
    found = read(
        KIMI.replace("speculative_algorithm=None", "speculative_algorithm='EAGLE'")
        + "[2026-01-02 03:04:06 TP0] Load weight end. elapsed=1 s, type=D, avail mem=1.00 GB, mem usage=2.80 GB.\n"
        + "[2026-01-02 03:04:06 TP0] KV Cache is allocated. #tokens: 2454421, KV size: 2.63 GB\n"
        + "[2026-01-02 03:04:06 TP0] Capture target verify CUDA graph end. elapsed=1 s, mem usage=0.58 GB, avail x\n"
        + "[2026-01-02 03:04:06 TP0] Capture draft verify CUDA graph end. elapsed=1 s, mem usage=-0.01 GB, avail x\n"
    )
    sizes = in_gib(found)
    assert (sizes["weights"], sizes["kv_cache"], sizes["graphs"]) == (73.58, 160.63, 0.57)
    assert found.unpriced == ("speculative_algorithm",)
    assert found.notes == ("a second model was loaded, such as a drafter: it is not counted",)


def test_experts_in_ram_make_it_ktransformers() -> None:
    # github.com/kvcache-ai/ktransformers/issues/1804
    found = read(
        "[2026-01-02 03:04:05] server_args=ServerArgs(model_path='/m', tp_size=2, mem_fraction_static=0.9, "
        "chunked_prefill_size=4096, kt_weight_path='/w', kt_num_gpu_experts=2, kv_cache_dtype='fp8_e4m3')\n"
        "[2026-01-02 03:04:05 TP0] Load weight end. type=X, dtype=b, avail mem=1 GB, mem usage=13.06 GB.\n"
        "[2026-01-02 03:04:05 TP0] KV Cache is allocated. #tokens: 10000, KV size: 0.65 GB\n"
    )
    assert found.engine == "ktransformers"
    assert found.settings["kv_dtype"] == "fp8"
    assert in_gib(found) == {"weights": 13.06, "kv_cache": 0.65, "kv_tokens": 10000}


def test_ranks_of_data_and_expert_parallelism() -> None:
    found = read("[2025-11-04 05:27:13 DP3 TP3 EP3] KV Cache is allocated. #tokens: 524288, KV size: 17.16 GB")
    assert found.measurements[0].readings[0].place == "DP3 TP3 EP3"


def test_a_second_start_replaces_the_first_and_a_failure_is_told() -> None:
    again = ARGUMENTS + start(0).replace("73.58", "74.00")
    assert in_gib(read(KIMI + again))["weights"] == 74.0
    failed = ARGUMENTS + "RuntimeError: Not enough memory. Please try to increase --mem-fraction-static.\n"
    assert read(failed).failure == "Not enough memory. Please try to increase --mem-fraction-static"
