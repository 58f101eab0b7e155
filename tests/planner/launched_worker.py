"""Runs in a process of its own: what llama.cpp would allocate for command lines, with GPUs that only have a name.

Reads questions (JSON) from standard input and prints one answer a line. A question is ``argv`` of ``llama-server``,
with or without the names of the ``settings`` to tell of it, or ``path``, ``argv`` and ``gpus``: the command is parsed
by llama.cpp's own parser, the file loaded without allocating anything, and the bytes that llama.cpp plans for every
buffer are told. The GPUs are stand-ins of ggml's device interface: buffers of their own with CUDA's alignment, which no
other device can read, and CUDA's answers to what ggml asks. Placement, graph, splits, copies and allocator are
llama.cpp's and ggml's own.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from tests.support import llama_cpp_worker as support

SERVER = 12
"""LLAMA_EXAMPLE_SERVER, whose arguments the parser takes."""
PARAMETERS_OFFSET = 16
"""Where a ``CommonParams`` of the wheel holds llama.cpp's ``common_params``."""
PARSE = "_Z19common_params_parseiPPcR13common_params13llama_examplePFviS0_E"
TO_MODEL = "_Z28common_model_params_to_llamaR13common_params"
TO_CONTEXT = "_Z30common_context_params_to_llamaRK13common_params"
GPU_TYPE = 1
GPU_BYTES = 141 << 30
CUDA_ALIGNMENT = 128
OFFLOAD_MIN_BATCH = 32
TYPE_F16 = 1


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("elements", ctypes.c_int64 * 4),
        ("strides", ctypes.c_size_t * 4),
        ("operation", ctypes.c_int),
        ("parameters", ctypes.c_int32 * 16),
        ("flags", ctypes.c_int32),
        ("sources", ctypes.c_void_p * 10),
        ("viewed", ctypes.c_void_p),
    )


class _Capabilities(ctypes.Structure):
    _fields_ = (
        ("asynchronous", ctypes.c_bool),
        ("host_buffer", ctypes.c_bool),
        ("buffer_from_host_pointer", ctypes.c_bool),
        ("events", ctypes.c_bool),
    )


class _Properties(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("description", ctypes.c_void_p),
        ("memory_free", ctypes.c_size_t),
        ("memory_total", ctypes.c_size_t),
        ("type", ctypes.c_int),
        ("device_id", ctypes.c_char_p),
        ("capabilities", _Capabilities),
    )


_POINTER = ctypes.c_void_p
_Sizes = ctypes.Array[ctypes.c_size_t]
_GETTER = ctypes.CFUNCTYPE(_POINTER, _POINTER)
_QUESTION = ctypes.CFUNCTYPE(ctypes.c_bool, _POINTER, _POINTER)
_kept: list[object] = []
_output_buffers_mib: list[float] = []


def _note(_: int, line: bytes, __: int | None) -> None:
    """What is in no breakdown is read from the log: ``...  output buffer size =     0.12 MiB``."""
    if b"output buffer size" in line:
        _output_buffers_mib.append(float(line.split()[-2]))


def _words(address: int, count: int) -> list[int]:
    return [ctypes.c_uint64.from_address(address + 8 * number).value for number in range(count)]


def _structure(words: Sequence[int]) -> int:
    array = (ctypes.c_uint64 * len(words))(*words)
    _kept.append(array)
    return ctypes.addressof(array)


def _callback(kind: type[ctypes._CFunctionType], function: Callable[..., object]) -> int:
    pointer = kind(function)
    _kept.append(pointer)
    return ctypes.cast(pointer, _POINTER).value or 0


def _text(text: str) -> int:
    buffer = ctypes.create_string_buffer(text.encode())
    _kept.append(buffer)
    return ctypes.addressof(buffer)


def _gpu(library: ctypes.CDLL, index: int) -> int:
    """Address of a device made from the CPU's: named, with buffers of its own, wanting large batches of any weights."""
    cpu = library.ggml_backend_dev_by_type(0)
    host_type = _words(library.ggml_backend_cpu_buffer_type(), 10)
    backend = _words(library.ggml_backend_dev_init(cpu, None), 19)
    always = host_type[7]  # "is this host memory" of the CPU's buffer: true, whatever it is asked
    operations = {library.ggml_op_name(number): number for number in range(100)}
    by_third = {operations[name] for name in (b"MUL_MAT_ID", b"ROPE", b"ROPE_BACK")}
    name, described = _text(f"GPU{index}"), _text("stand-in")

    def size(_: int, tensor: int) -> int:
        """As CUDA: flash attention converts a cache that is not F16 in memory behind its result."""
        asked = _Tensor.from_address(tensor)
        total = int(library.ggml_nbytes(tensor))
        if asked.operation == operations[b"FLASH_ATTN_EXT"]:
            keys, values = (_Tensor.from_address(asked.sources[number]) for number in (1, 2))
            shared = values.viewed is not None and values.viewed == keys.viewed
            for cached in (keys,) if shared else (keys, values):
                if cached.type != TYPE_F16:
                    total += 2 * cached.elements[0] * cached.elements[1] * cached.elements[2] * cached.elements[3]
        return total

    def offloads(_: int, tensor: int) -> bool:
        """As CUDA: whether the batch of an operation on weights in RAM is worth copying them."""
        asked = _Tensor.from_address(tensor)
        if asked.operation == operations[b"GET_ROWS"]:
            return False
        if asked.operation == operations[b"MUL_MAT"]:
            return bool(asked.elements[1] >= OFFLOAD_MIN_BATCH)
        if asked.operation in by_third:
            return bool(asked.elements[2] >= OFFLOAD_MIN_BATCH)
        return bool(asked.elements[1] * asked.elements[2] * asked.elements[3] >= OFFLOAD_MIN_BATCH)

    buffer_type = list(host_type)
    buffer_type[0] = _callback(_GETTER, lambda _: name)
    buffer_type[3] = _callback(ctypes.CFUNCTYPE(ctypes.c_size_t, _POINTER), lambda _: CUDA_ALIGNMENT)
    buffer_type[5] = _callback(ctypes.CFUNCTYPE(ctypes.c_size_t, _POINTER, _POINTER), size)
    buffer_type[7] = _callback(ctypes.CFUNCTYPE(ctypes.c_bool, _POINTER), lambda _: False)
    own = _structure(buffer_type)
    pinned_name = _text(f"GPU{index}_Host")
    host_type[0] = _callback(_GETTER, lambda _: pinned_name)
    pinned = _structure(host_type)

    def memory(_: int, free: _Sizes, total: _Sizes) -> None:
        free[0] = total[0] = ctypes.c_size_t(GPU_BYTES)

    def properties(_: int, told: ctypes._Pointer[_Properties]) -> None:
        told[0] = _Properties(
            name, described, GPU_BYTES, GPU_BYTES, GPU_TYPE, None, _Capabilities(True, True, False, True)
        )

    def start(_: int, __: bytes | None) -> int:
        return _structure([*backend[:17], device, *backend[18:]])

    numbers = ctypes.POINTER(ctypes.c_size_t)
    nothing = ctypes.CFUNCTYPE(None, _POINTER, _POINTER)
    device = _structure(
        [
            _callback(_GETTER, lambda _: name),
            _callback(_GETTER, lambda _: described),
            _callback(ctypes.CFUNCTYPE(None, _POINTER, numbers, numbers), memory),
            _callback(ctypes.CFUNCTYPE(ctypes.c_int, _POINTER), lambda _: GPU_TYPE),
            _callback(ctypes.CFUNCTYPE(None, _POINTER, ctypes.POINTER(_Properties)), properties),
            _callback(ctypes.CFUNCTYPE(_POINTER, _POINTER, ctypes.c_char_p), start),
            _callback(_GETTER, lambda _: own),
            _callback(_GETTER, lambda _: pinned),
            0,
            always,
            _callback(_QUESTION, lambda _, kind: kind == own),
            _callback(_QUESTION, offloads),
            _callback(_GETTER, lambda _: _structure([device, 0])),
            _callback(nothing, lambda _, __: None),
            _callback(nothing, lambda _, __: None),
            *_words(cpu, 17)[15:],
        ]
    )
    for kind in (own, pinned):
        ctypes.c_uint64.from_address(kind + 64).value = device
    return device


def _library() -> ctypes.CDLL:
    library = support._library()
    for name, result, arguments in (
        ("ggml_backend_dev_by_type", _POINTER, (ctypes.c_int,)),
        ("ggml_backend_dev_init", _POINTER, (_POINTER, ctypes.c_char_p)),
        ("ggml_backend_cpu_buffer_type", _POINTER, ()),
        ("ggml_op_name", ctypes.c_char_p, (ctypes.c_int,)),
        ("ggml_nbytes", ctypes.c_size_t, (_POINTER,)),
        (
            PARSE,
            ctypes.c_bool,
            (ctypes.c_int, ctypes.POINTER(ctypes.c_char_p), _POINTER, ctypes.c_int, _POINTER),
        ),
        ("llama_log_set", None, (_POINTER, _POINTER)),
        (TO_MODEL, support._ModelParams, (_POINTER,)),
        (TO_CONTEXT, support._ContextParams, (_POINTER,)),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    logger = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, _POINTER)
    library.llama_log_set(_callback(logger, _note), None)
    return library


def _parsed(library: ctypes.CDLL, argv: Sequence[str]) -> tuple[Any, int] | None:
    """The parameters that the command means and their address; None where the parser refuses it."""
    parameters: Any = importlib.import_module("xllamacpp").CommonParams()
    address = id(parameters) + PARAMETERS_OFFSET
    if ctypes.c_int32.from_address(address + 8).value != parameters.n_batch:
        raise support.RefusalError("CommonParams is not laid out as in the wheel 2026.10.11549")
    words = (ctypes.c_char_p * (len(argv) + 1))(*[word.encode() for word in argv], None)
    return (parameters, address) if getattr(library, PARSE)(len(argv), words, address, SERVER, None) else None


def _plain(value: object) -> object:
    return sorted(value) if isinstance(value, set) else value


def _answer(library: ctypes.CDLL, devices: list[int], question: dict[str, Any]) -> dict[str, Any]:
    parsed = _parsed(library, question["argv"])
    if parsed is None:
        return {"refused": "arguments"}
    parameters, address = parsed
    if "settings" in question:
        return {name: _plain(getattr(parameters, name)) for name in question["settings"]}
    if "path" not in question:
        return {"model": [parameters.model.path, parameters.model.hf_repo], "projector": not parameters.no_mmproj}
    gpus = question["gpus"]
    devices += [_gpu(library, index) for index in range(len(devices), gpus)]
    model_parameters = getattr(library, TO_MODEL)(address)
    chosen = (_POINTER * (gpus + 1))(*devices[:gpus], None)
    model_parameters.devices = ctypes.cast(chosen, _POINTER)
    model_parameters.load_mode, model_parameters.no_alloc = 0, True
    model = library.llama_model_load_from_file(question["path"].encode(), model_parameters)
    if model is None:
        return {"refused": "model"}
    context_parameters = getattr(library, TO_CONTEXT)(address)
    # llama-server asks for the logits of one token a slot.
    context_parameters.n_outputs_max = question.get("outputs", parameters.n_parallel)
    context = library.llama_init_from_model(model, context_parameters)
    if context is None:
        return {"refused": "context"}
    by_type = support._Map()
    getattr(library, support.MEMORY_BREAKDOWN)(ctypes.byref(by_type), context)
    return {
        "output_buffer_mib": _output_buffers_mib[-1],
        "buffers": {
            library.ggml_backend_buft_name(node.buffer_type).decode(): [
                node.model_bytes,
                node.kv_cache_bytes,
                node.compute_bytes,
            ]
            for node in support._nodes(by_type.root)
        },
    }


def main() -> None:
    """Answers every question of standard input."""
    # The parser prints too.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    library = _library()
    devices: list[int] = []
    for question in json.load(sys.stdin):
        print(json.dumps(_answer(library, devices, question)), file=answers, flush=True)


if __name__ == "__main__":
    main()
