"""Runs inside a process of its own: loads llama.cpp, answers the one question in argv[1], prints JSON.

The wheel `xllamacpp` (2026.10.11549, Linux x86-64) exports llama.cpp's C API but ships no headers. The
structures are those of `include/llama.h` at its version; a library whose default parameters lie elsewhere is
refused.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import sys
from collections.abc import Iterator
from math import isfinite
from pathlib import Path
from typing import Any

PACKAGE = "xllamacpp"
MEMORY_BREAKDOWN = "_Z26llama_get_memory_breakdownPK13llama_context"
TENSOR_VECTOR = "_Z29llama_internal_get_tensor_mapPK11llama_model"
Answer = dict[str, Any]


class RefusalError(RuntimeError):
    """llama.cpp, or the library found, does not do what was asked."""


class _ModelParams(ctypes.Structure):
    _fields_ = (
        ("devices", ctypes.c_void_p),
        ("tensor_buft_overrides", ctypes.c_void_p),
        ("n_gpu_layers", ctypes.c_int32),
        ("split_mode", ctypes.c_int32),
        ("load_mode", ctypes.c_int32),
        ("lazy_mode", ctypes.c_int32),
        ("main_gpu", ctypes.c_int32),
        ("tensor_split", ctypes.c_void_p),
        ("progress_callback", ctypes.c_void_p),
        ("progress_callback_user_data", ctypes.c_void_p),
        ("kv_overrides", ctypes.c_void_p),
        ("vocab_only", ctypes.c_bool),
        ("check_tensors", ctypes.c_bool),
        ("use_extra_bufts", ctypes.c_bool),
        ("no_host", ctypes.c_bool),
        ("no_alloc", ctypes.c_bool),
        ("load_mtp", ctypes.c_bool),
    )


class _ContextParams(ctypes.Structure):
    _fields_ = (
        ("n_ctx", ctypes.c_uint32),
        ("n_batch", ctypes.c_uint32),
        ("n_ubatch", ctypes.c_uint32),
        ("n_seq_max", ctypes.c_uint32),
        ("n_rs_seq", ctypes.c_uint32),
        ("n_outputs_max", ctypes.c_uint32),
        ("n_outputs_max_per_seq", ctypes.c_uint32),
        ("n_threads", ctypes.c_int32),
        ("n_threads_batch", ctypes.c_int32),
        ("ctx_type", ctypes.c_int32),
        ("rope_scaling_type", ctypes.c_int32),
        ("pooling_type", ctypes.c_int32),
        ("attention_type", ctypes.c_int32),
        ("flash_attn_type", ctypes.c_int32),
        ("rope_freq_base", ctypes.c_float),
        ("rope_freq_scale", ctypes.c_float),
        ("yarn_ext_factor", ctypes.c_float),
        ("yarn_attn_factor", ctypes.c_float),
        ("yarn_beta_fast", ctypes.c_float),
        ("yarn_beta_slow", ctypes.c_float),
        ("yarn_orig_ctx", ctypes.c_uint32),
        ("defrag_thold", ctypes.c_float),
        ("cb_eval", ctypes.c_void_p),
        ("cb_eval_user_data", ctypes.c_void_p),
        ("type_k", ctypes.c_int32),
        ("type_v", ctypes.c_int32),
        ("moe_cache_size", ctypes.c_size_t),
        ("abort_callback", ctypes.c_void_p),
        ("abort_callback_data", ctypes.c_void_p),
        ("embeddings", ctypes.c_bool),
        ("offload_kqv", ctypes.c_bool),
        ("no_perf", ctypes.c_bool),
        ("op_offload", ctypes.c_bool),
        ("swa_full", ctypes.c_bool),
        ("kv_unified", ctypes.c_bool),
        ("samplers", ctypes.c_void_p),
        ("n_samplers", ctypes.c_size_t),
        ("ctx_other", ctypes.c_void_p),
    )


class _GgufParams(ctypes.Structure):
    _fields_ = (("no_alloc", ctypes.c_bool), ("context", ctypes.c_void_p))


class _Batch(ctypes.Structure):
    _fields_ = (
        ("n_tokens", ctypes.c_int32),
        ("token", ctypes.c_void_p),
        ("embd", ctypes.c_void_p),
        ("pos", ctypes.c_void_p),
        ("n_seq_id", ctypes.c_void_p),
        ("seq_id", ctypes.c_void_p),
        ("logits", ctypes.c_void_p),
    )


# A std::map of libstdc++ as gcc lays it out, and the node that holds one buffer type's sizes.
class _MapNode(ctypes.Structure):
    pass


_MapNode._fields_ = (
    ("colour", ctypes.c_int),
    ("parent", ctypes.c_void_p),
    ("left", ctypes.POINTER(_MapNode)),
    ("right", ctypes.POINTER(_MapNode)),
    ("buffer_type", ctypes.c_void_p),
    ("model_bytes", ctypes.c_size_t),
    ("kv_cache_bytes", ctypes.c_size_t),
    ("compute_bytes", ctypes.c_size_t),
)


class _Map(ctypes.Structure):
    _fields_ = (
        ("comparator", ctypes.c_size_t),
        ("colour", ctypes.c_int),
        ("root", ctypes.POINTER(_MapNode)),
        ("leftmost", ctypes.c_void_p),
        ("rightmost", ctypes.c_void_p),
        ("count", ctypes.c_size_t),
    )


class _TensorVector(ctypes.Structure):
    """The start of a std::vector of (name, tensor) pairs."""

    _fields_ = (("begin", ctypes.c_size_t), ("end", ctypes.c_size_t))
    # The wheel is built with the old string of libstdc++, one pointer; the tensor is another.
    PAIR_BYTES = 16


def _library() -> ctypes.CDLL:
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise RefusalError(f"{PACKAGE} is not installed")
    library = ctypes.CDLL(str(Path(found.origin).parent / f"{PACKAGE}.abi3.so"))
    handle = ctypes.c_void_p
    for name, result, arguments in (
        ("llama_model_default_params", _ModelParams, ()),
        ("llama_context_default_params", _ContextParams, ()),
        ("llama_model_load_from_file", handle, (ctypes.c_char_p, _ModelParams)),
        ("llama_init_from_model", handle, (handle, _ContextParams)),
        ("llama_model_n_params", ctypes.c_uint64, (handle,)),
        (TENSOR_VECTOR, ctypes.POINTER(_TensorVector), (handle,)),
        # A C++ function returns a std::map through a hidden first argument.
        (MEMORY_BREAKDOWN, handle, (handle, handle)),
        ("ggml_backend_buft_name", ctypes.c_char_p, (handle,)),
        ("llama_model_get_vocab", handle, (handle,)),
        ("llama_vocab_n_tokens", ctypes.c_int32, (handle,)),
        (
            "llama_tokenize",
            ctypes.c_int32,
            (handle, ctypes.c_char_p, ctypes.c_int32, handle, ctypes.c_int32, ctypes.c_bool, ctypes.c_bool),
        ),
        ("llama_batch_get_one", _Batch, (handle, ctypes.c_int32)),
        ("llama_decode", ctypes.c_int32, (handle, _Batch)),
        ("llama_get_logits_ith", ctypes.POINTER(ctypes.c_float), (handle, ctypes.c_int32)),
        ("gguf_init_from_file", handle, (ctypes.c_char_p, _GgufParams)),
        ("gguf_get_version", ctypes.c_uint32, (handle,)),
        ("gguf_get_data_offset", ctypes.c_size_t, (handle,)),
        ("gguf_get_n_tensors", ctypes.c_int64, (handle,)),
        ("gguf_get_tensor_name", ctypes.c_char_p, (handle, ctypes.c_int64)),
        ("gguf_get_tensor_type", ctypes.c_int, (handle, ctypes.c_int64)),
        ("gguf_get_tensor_size", ctypes.c_size_t, (handle, ctypes.c_int64)),
        ("gguf_get_tensor_offset", ctypes.c_size_t, (handle, ctypes.c_int64)),
        ("ggml_type_name", ctypes.c_char_p, (ctypes.c_int,)),
        ("ggml_blck_size", ctypes.c_int64, (ctypes.c_int,)),
        ("ggml_type_size", ctypes.c_size_t, (ctypes.c_int,)),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    _verify_layouts(library.llama_model_default_params(), library.llama_context_default_params())
    library.llama_backend_init()
    return library


def _verify_layouts(model: _ModelParams, context: _ContextParams) -> None:
    expected: tuple[tuple[ctypes.Structure, str, float], ...] = (
        (model, "n_gpu_layers", -1),
        (model, "split_mode", 1),
        (model, "load_mode", -1),
        (model, "lazy_mode", 1),
        (model, "use_extra_bufts", True),
        (model, "no_alloc", False),
        (context, "n_ctx", 512),
        (context, "n_batch", 2048),
        (context, "n_ubatch", 512),
        (context, "n_outputs_max_per_seq", 1),
        (context, "flash_attn_type", -1),
        (context, "yarn_beta_slow", -1.0),
        (context, "type_k", 1),
        (context, "type_v", 1),
        (context, "offload_kqv", True),
        (context, "swa_full", True),
        (context, "kv_unified", False),
    )
    moved = [name for structure, name, default in expected if getattr(structure, name) != default]
    if moved:
        raise RefusalError(f"llama.cpp's structures are not those of {PACKAGE} 2026.10.11549: {moved}")


def _load(library: ctypes.CDLL, path: str, *, no_alloc: bool, repack: bool) -> int:
    params = library.llama_model_default_params()
    params.load_mode = 0  # neither mmap nor mlock
    params.no_alloc, params.use_extra_bufts = no_alloc, repack
    model: int | None = library.llama_model_load_from_file(path.encode(), params)
    if model is None:
        raise RefusalError(f"cannot load {path}")
    return model


def _context(library: ctypes.CDLL, model: int, **parameters: int) -> int:
    params = library.llama_context_default_params()
    for name, value in parameters.items():
        setattr(params, name, value)
    context: int | None = library.llama_init_from_model(model, params)
    if context is None:
        raise RefusalError("cannot create a context")
    return context


def _nodes(node: ctypes._Pointer[_MapNode]) -> Iterator[_MapNode]:
    if node:
        yield from _nodes(node.contents.left)
        yield node.contents
        yield from _nodes(node.contents.right)


def _breakdown(library: ctypes.CDLL, path: str, *, repack: bool, **parameters: int) -> Answer:
    model = _load(library, path, no_alloc=True, repack=repack)
    context = _context(library, model, **parameters)
    by_type = _Map()
    getattr(library, MEMORY_BREAKDOWN)(ctypes.byref(by_type), context)
    nodes = list(_nodes(by_type.root))
    if len(nodes) != by_type.count:
        raise RefusalError("llama.cpp's memory breakdown is not laid out as libstdc++ lays out a std::map")
    tensors = getattr(library, TENSOR_VECTOR)(model).contents
    return {
        "tensors": (tensors.end - tensors.begin) // _TensorVector.PAIR_BYTES,
        "parameters": library.llama_model_n_params(model),
        "buffers": {
            library.ggml_backend_buft_name(node.buffer_type).decode(): {
                "model_bytes": node.model_bytes,
                "kv_cache_bytes": node.kv_cache_bytes,
                "compute_bytes": node.compute_bytes,
            }
            for node in nodes
        },
    }


def _decode(library: ctypes.CDLL, path: str, *, n_tokens: int, prompt: str | None) -> Answer:
    model = _load(library, path, no_alloc=False, repack=False)
    vocabulary = library.llama_model_get_vocab(model)
    n_vocabulary = library.llama_vocab_n_tokens(vocabulary)
    tokens = [0] if prompt is None else _tokenize(library, vocabulary, prompt)
    context = _context(library, model, n_ctx=len(tokens) + n_tokens, n_threads=1, n_threads_batch=1)
    decoded: list[int] = []
    lowest, highest, finite = float("inf"), float("-inf"), True
    for _ in range(n_tokens):
        step = (ctypes.c_int32 * len(tokens))(*tokens)
        status = library.llama_decode(context, library.llama_batch_get_one(step, len(tokens)))
        if status != 0:
            raise RefusalError(f"llama_decode returned {status}")
        logits = library.llama_get_logits_ith(context, -1)[:n_vocabulary]
        finite = finite and all(isfinite(logit) for logit in logits)
        lowest, highest = min(lowest, *logits), max(highest, *logits)
        tokens = [max(range(n_vocabulary), key=logits.__getitem__)]
        decoded += tokens
    return {"token_ids": decoded, "logit_range": (lowest, highest) if finite else None}


def _tokenize(library: ctypes.CDLL, vocabulary: int, text: str) -> list[int]:
    encoded = text.encode()
    room = (ctypes.c_int32 * (len(encoded) + 2))()
    n_tokens = library.llama_tokenize(vocabulary, encoded, len(encoded), room, len(room), True, False)
    if n_tokens <= 0:
        raise RefusalError(f"cannot tokenize {text!r}")
    return room[:n_tokens]


def _types(library: ctypes.CDLL, numbers: list[int]) -> Answer:
    names = [library.ggml_type_name(number).decode() for number in numbers]
    block_elements = [library.ggml_blck_size(number) for number in numbers]
    block_bytes = [library.ggml_type_size(number) for number in numbers]
    return {"types": list(zip(names, block_elements, block_bytes, strict=True))}


def _headers(library: ctypes.CDLL, paths: list[str]) -> Answer:
    return {"headers": [_header(library, path) for path in paths]}


def _header(library: ctypes.CDLL, path: str) -> Answer | None:
    """What ggml's own reader makes of a header, None where it refuses."""
    file = library.gguf_init_from_file(path.encode(), _GgufParams(no_alloc=True))
    if file is None:
        return None
    start = library.gguf_get_data_offset(file)
    return {
        "version": library.gguf_get_version(file),
        "data_start": start,
        "tensors": [
            (
                library.gguf_get_tensor_name(file, at).decode(),
                library.ggml_type_name(library.gguf_get_tensor_type(file, at)).decode(),
                library.gguf_get_tensor_size(file, at),
                start + library.gguf_get_tensor_offset(file, at),
            )
            for at in range(library.gguf_get_n_tensors(file))
        ],
    }


def main(request: Answer) -> Answer:
    """Answers `question` (`breakdown`, `decode`, `headers` or `types`) of `path`; the rest are arguments."""
    library = _library()
    question, path = request.pop("question"), request.pop("path")
    if question in ("types", "headers"):
        return (_types if question == "types" else _headers)(library, **request)
    return (_breakdown if question == "breakdown" else _decode)(library, path, **request)


if __name__ == "__main__":
    try:
        print(json.dumps(main(json.loads(sys.argv[1]))))
    except RefusalError as refusal:
        sys.exit(str(refusal))
