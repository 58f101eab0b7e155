"""llama.cpp's start-up lines: of a real server, of a real context, and of published CUDA runs."""

from __future__ import annotations

import doctest
import json
import subprocess
import sys
from pathlib import Path

import pytest

from hwdetect.serving import llamacpp
from hwdetect.serving.lines import clean_lines
from hwdetect.serving.observation import Observation
from hwdetect.serving.startup import read_startup
from tests.support.gguf_models import DeepSeek2Spec, uniform
from tests.support.gguf_writer import write_gguf
from tests.support.llama_cpp import WORKER, load_breakdown
from tests.support.llama_server import server_log

MIB = 1 << 20
PRINTED = MIB // 100
"""The last digit of a printed size."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small MLA model with experts."""
    path = tmp_path_factory.mktemp("gguf") / "small-mla.gguf"
    spec = DeepSeek2Spec(
        name="small-mla", vocabulary=512, hidden=512, layers=4, heads=8, context=4096, mixture=uniform("q8_0"),
        dense_layers=1, dense_ffn=1024, experts=8, experts_used=2, expert_ffn=512, shared_experts=1, q_lora=256,
        kv_lora=256, nope_head=64, rope_head=32, value_head=64, tokenizer="gpt2",
    )  # fmt: skip
    write_gguf(path, spec)
    return path


def read(data: bytes) -> Observation:
    found = read_startup(clean_lines([data]))
    assert found is not None
    return found


def test_a_real_server_says_what_it_allocates(model: Path) -> None:
    found = read(server_log(model, n_parallel=2, n_ctx=4096, n_batch=1024, n_ubatch=256))
    assert (found.engine, found.model) == ("llama.cpp", str(model))
    assert found.settings == {
        "context": "4096", "batch": "1024", "ubatch": "256", "sequences": "2", "kv_unified": False,
        "flash_attention": "on", "cache_type_k": "f16", "cache_type_v": "f16", "quant": "Q8_0",
    }  # fmt: skip
    truth = load_breakdown(model, n_seq_max=2, n_outputs_max=2, n_ctx=4096, n_batch=1024, n_ubatch=256)
    values = found.values()
    assert values["weights"] == pytest.approx(truth.model_bytes, abs=PRINTED)
    assert values["kv_cache"] == pytest.approx(truth.kv_cache_bytes, abs=PRINTED)
    assert values["compute_in_ram"] == pytest.approx(truth.compute_bytes, abs=PRINTED)
    assert values["kv_tokens"] == 4096
    assert values["outputs"] == pytest.approx(4 * 512 * 2, abs=PRINTED)
    assert "weights_on_gpus" not in values
    assert found.failure is None


def test_a_real_context_of_the_library(model: Path) -> None:
    request = json.dumps({"question": "decode", "path": str(model), "n_tokens": 2, "prompt": None})
    done = subprocess.run([sys.executable, str(WORKER), request], capture_output=True, timeout=60, check=True)
    found = read(done.stderr)
    assert (found.settings["sequences"], found.settings["flash_attention"]) == ("1", "on")
    # One cell a token, padded to 256; 4 layers of 288 halves.
    assert found.values()["kv_tokens"] == 256
    assert found.values()["kv_cache"] == pytest.approx(4 * 256 * 288 * 2, abs=PRINTED)


def test_a_try_without_allocation_is_not_the_load(model: Path) -> None:
    real = server_log(model, n_ctx=1024, n_parallel=1)
    tried = real.replace(b"no_alloc              = 0", b"no_alloc              = 1").replace(
        b"CPU KV buffer size =     2.25 MiB", b"CPU KV buffer size =     0.00 MiB"
    )
    assert tried != real
    both = read(tried + real)
    assert both.values() == read(real).values()
    assert "kv_cache" not in read(tried).values()


# github.com/ikawrakow/ik_llama.cpp/issues/437: DeepSeek-R1 IQ3_K_R4 on two RTX 4090
TWO_GPUS = """\
llama_model_loader: loaded meta data with 52 key-value pairs and 9 tensors from /m/R1-1-of-7.gguf (version V3)
Tensor blk.3.ffn_gate_exps.weight buffer type overriden to CUDA0
Tensor blk.4.ffn_up_exps.weight buffer type overriden to CPU
Tensor blk.60.ffn_up_exps.weight buffer type overriden to CPU
llm_load_print_meta: model ftype      = IQ3_K_R4 - 3.4325 bpw
llm_load_print_meta: model size       = 300.938 GiB (3.847 BPW)
llm_load_tensors:        CPU buffer size = 300312.00 MiB
llm_load_tensors:      CUDA0 buffer size = 13996.00 MiB
llm_load_tensors:      CUDA1 buffer size = 13730.00 MiB
llama_new_context_with_model: n_ctx      = 32768
llama_new_context_with_model: n_batch    = 4096
llama_new_context_with_model: n_ubatch   = 4096
llama_new_context_with_model: flash_attn = 1
llama_kv_cache_init:      CUDA0 KV buffer size =   592.89 MiB
llama_kv_cache_init:      CUDA1 KV buffer size =   573.76 MiB
llama_new_context_with_model: KV self size  = 1166.62 MiB, c^KV (q8_0): 1166.62 MiB, kv^T: not used
llama_new_context_with_model:  CUDA_Host  output buffer size =     0.99 MiB
llama_new_context_with_model:      CUDA0 compute buffer size =  4104.02 MiB
llama_new_context_with_model:      CUDA1 compute buffer size =  4176.03 MiB
llama_new_context_with_model:  CUDA_Host compute buffer size =   624.05 MiB
"""


def test_two_gpus_with_experts_in_ram() -> None:
    found = read(TWO_GPUS.encode())
    assert found.settings == {
        "context": "32768", "batch": "4096", "ubatch": "4096", "flash_attention": "on",
        "cache_type_k": "q8_0", "cache_type_v": "q8_0", "n_cpu_moe": "5", "quant": "IQ3_K_R4",
    }  # fmt: skip
    values = found.values()
    assert values["weights"] == pytest.approx(300.938 * 1024 * MIB, abs=2)
    assert values["weights_on_gpus"] == (13996 + 13730) * MIB
    assert values["kv_cache"] == pytest.approx((592.89 + 573.76) * MIB, abs=2)
    assert values["compute_on_gpu"] == pytest.approx(4176.03 * MIB, abs=2)
    assert values["compute_in_ram"] == pytest.approx(624.05 * MIB, abs=2)
    places = {one.term: [reading.place for reading in one.readings] for one in found.measurements}
    assert places["compute_on_gpu"] == ["CUDA0", "CUDA1"]


def test_experts_that_are_not_of_the_first_layers_are_counted() -> None:
    """Two of the three layers that were placed by hand are in RAM; --n-cpu-moe takes the first ones."""
    assert read(TWO_GPUS.encode()).notes == (
        "the experts in RAM are not those of the first layers; as many layers are priced",
    )
    first = "".join(
        f"tensor blk.{layer}.ffn_{name}_exps.weight (162 MiB mxfp4) buffer type overridden to CPU\n"
        for layer in range(15)
        for name in ("gate", "up", "down")
    )
    found = read((TWO_GPUS.splitlines()[0] + "\n" + first + TWO_GPUS[TWO_GPUS.index("llm_load_print") :]).encode())
    assert (found.settings["n_cpu_moe"], found.notes) == ("15", ())


def test_a_vision_encoder_and_a_drafter_are_not_the_model() -> None:
    extra = "alloc_compute_meta:      CUDA0 compute buffer size =  9999.00 MiB\n" + TWO_GPUS.replace(
        "300.938 GiB", "1.500 GiB"
    ).replace("4176.03", "9876.00")
    assert read((TWO_GPUS + extra).encode()).values() == read(TWO_GPUS.encode()).values()


def test_a_server_that_could_not_allocate() -> None:
    text = TWO_GPUS + "ggml_backend_cuda_buffer_type_alloc_buffer: cudaMalloc failed: out of memory\n"
    assert read(text.encode()).failure == "cudaMalloc failed: out of memory"


def test_the_examples_in_the_text() -> None:
    assert doctest.testmod(llamacpp).failed == 0
    assert doctest.testmod(llamacpp).attempted > 0
