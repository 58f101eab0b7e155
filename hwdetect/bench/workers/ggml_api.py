"""ggml's C interface as far as the benchmark needs it, from the wheel xllamacpp or a library of the user's own.

Names and argument types are those of ``ggml.h``, ``ggml-backend.h`` and ``ggml-cpu.h`` of ggml 0.9 and later.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .memory import huge_pages
from .serve import CannotRun
from .timing import Options

Array = np.ndarray[Any, Any]
Handle = int
F32, F16, I32 = 0, 1, 26
_P, _I, _S, _N = ctypes.c_void_p, ctypes.c_int64, ctypes.c_size_t, ctypes.c_int
_F = ctypes.c_float


class _InitParams(ctypes.Structure):
    _fields_ = (("mem_size", _S), ("mem_buffer", _P), ("no_alloc", ctypes.c_bool))


class _TypeTraits(ctypes.Structure):
    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("blck_size", _I),
        ("blck_size_interleave", _I),
        ("type_size", _S),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, _P, _P, _I)),
    )


_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "ggml_init": (_P, (_InitParams,)),
    "ggml_free": (None, (_P,)),
    "ggml_new_tensor_4d": (_P, (_P, _N, _I, _I, _I, _I)),
    "ggml_view_2d": (_P, (_P, _P, _I, _I, _S, _S)),
    "ggml_view_4d": (_P, (_P, _P, _I, _I, _I, _I, _S, _S, _S, _S)),
    "ggml_mul_mat": (_P, (_P, _P, _P)),
    "ggml_mul_mat_id": (_P, (_P, _P, _P, _P)),
    "ggml_swiglu_split": (_P, (_P, _P, _P)),
    "ggml_mul": (_P, (_P, _P, _P)),
    "ggml_add": (_P, (_P, _P, _P)),
    "ggml_sigmoid": (_P, (_P, _P)),
    "ggml_argsort_top_k": (_P, (_P, _P, _N)),
    "ggml_rms_norm": (_P, (_P, _P, _F)),
    "ggml_concat": (_P, (_P, _P, _P, _N)),
    "ggml_permute": (_P, (_P, _P, _N, _N, _N, _N)),
    "ggml_cont": (_P, (_P, _P)),
    "ggml_reshape_4d": (_P, (_P, _P, _I, _I, _I, _I)),
    "ggml_flash_attn_ext": (_P, (_P, _P, _P, _P, _P, _F, _F, _F)),
    "ggml_flash_attn_ext_set_prec": (None, (_P, _N)),
    "ggml_new_graph_custom": (_P, (_P, _S, ctypes.c_bool)),
    "ggml_build_forward_expand": (None, (_P, _P)),
    "ggml_nbytes": (_S, (_P,)),
    "ggml_row_size": (_S, (_N, _I)),
    "ggml_type_name": (ctypes.c_char_p, (_N,)),
    "ggml_blck_size": (_I, (_N,)),
    "ggml_get_type_traits": (ctypes.POINTER(_TypeTraits), (_N,)),
    "ggml_quantize_chunk": (_S, (_N, _P, _P, _I, _I, _I, _P)),
    "ggml_version": (ctypes.c_char_p, ()),
    "ggml_backend_cpu_init": (_P, ()),
    "ggml_backend_cpu_set_n_threads": (None, (_P, _N)),
    "ggml_backend_cpu_buffer_type": (_P, ()),
    "ggml_backend_cpu_reg": (_P, ()),
    "ggml_backend_reg_get_proc_address": (_P, (_P, ctypes.c_char_p)),
    "ggml_backend_reg_dev_get": (_P, (_P, _S)),
    "ggml_backend_dev_supports_op": (ctypes.c_bool, (_P, _P)),
    "ggml_backend_alloc_ctx_tensors_from_buft": (_P, (_P, _P)),
    "ggml_backend_buffer_free": (None, (_P,)),
    "ggml_backend_buffer_get_base": (_P, (_P,)),
    "ggml_backend_buffer_get_size": (_S, (_P,)),
    "ggml_backend_tensor_set": (None, (_P, _P, _S, _S)),
    "ggml_backend_tensor_get": (None, (_P, _P, _S, _S)),
    "ggml_backend_graph_compute": (_N, (_P, _P)),
}
_NEWER = frozenset(("ggml_argsort_top_k",))
"""Without which the other kernels run all the same."""
_CONTEXT_BYTES = 64 << 20
_GRAPH_NODES = 64


class Ggml:
    """The library with its functions typed, and one CPU backend with ``threads`` threads."""

    def __init__(self, options: Options) -> None:
        self.path, self.packaged = library_path(options.library), options.library is None
        try:
            self.library = ctypes.CDLL(str(self.path))
        except OSError as error:
            raise CannotRun(f"{self.path.name} cannot be loaded: {error}") from None
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(self.library, name, None)
            if function is None and name in _NEWER:
                continue
            if function is None:
                raise CannotRun(f"{self.path.name} has no {name}")
            function.restype, function.argtypes = result, arguments
        # Copied to attributes because ctypes looks a name up again at each use.
        self.call = self.library
        self.backend = self.call.ggml_backend_cpu_init()
        self.call.ggml_backend_cpu_set_n_threads(self.backend, options.threads)
        self.plain = self.call.ggml_backend_cpu_buffer_type()
        registry = self.call.ggml_backend_cpu_reg()
        self.device = self.call.ggml_backend_reg_dev_get(registry, 0)
        self.extra = self._extra_buffer_types(registry)
        self.types = {self.call.ggml_type_name(number).decode().upper(): number for number in range(43)}

    def _extra_buffer_types(self, registry: Handle) -> list[Handle]:
        """Memory in which weights lie in a layout of this CPU's, which llama.cpp prefers where it can."""
        address = self.call.ggml_backend_reg_get_proc_address(registry, b"ggml_backend_dev_get_extra_bufts")
        if not address:
            return []
        listed = ctypes.CFUNCTYPE(ctypes.POINTER(_P), _P)(address)(self.device)
        found: list[Handle] = []
        while listed and listed[len(found)]:
            found.append(listed[len(found)])
        return found

    def version(self) -> str:
        """ggml's version, and the package or file that carries it."""
        number = self.call.ggml_version().decode()
        return f"ggml {number}, {'xllamacpp ' + version('xllamacpp') if self.packaged else self.path.name}"

    def type_number(self, quantization: str) -> int:
        """The number of a type. Raises ``CannotRun`` for one that this library does not have."""
        number = self.types.get(quantization.upper())
        if number is None:
            raise CannotRun(f"{quantization} is no ggml type")
        return number

    def context(self) -> Handle:
        """A place for the descriptions of tensors, not for their data."""
        return Handle(self.call.ggml_init(_InitParams(_CONTEXT_BYTES, None, True)))

    def tensor(self, context: Handle, kind: int, *shape: int) -> Handle:
        """A tensor, columns first."""
        return Handle(self.call.ggml_new_tensor_4d(context, kind, *shape, *[1] * (4 - len(shape))))

    def allocate(self, context: Handle, buffer_type: Handle | None = None) -> Handle:
        """Give the tensors of a context memory. Raises ``MemoryError``."""
        buffer = self.call.ggml_backend_alloc_ctx_tensors_from_buft(context, buffer_type or self.plain)
        if not buffer:
            raise MemoryError("ggml could not allocate its tensors")
        huge_pages(self.call.ggml_backend_buffer_get_base(buffer), int(self.call.ggml_backend_buffer_get_size(buffer)))
        return Handle(buffer)

    def set(self, tensor: Handle, data: Array) -> None:
        """Copy an array into a tensor of the same bytes."""
        size = self.call.ggml_nbytes(tensor)
        if size != data.nbytes:
            raise ValueError(f"a tensor of {size} bytes is given {data.nbytes}")
        self.call.ggml_backend_tensor_set(tensor, data.ctypes.data, 0, size)

    def set_rows(self, tensor: Handle, source: Pattern, rows: int, *, first: int, whole: bool) -> None:
        """Fill a tensor with a pattern's rows from ``first`` on; ``whole`` where its memory takes them only at once."""
        if whole:
            self.set(tensor, source.fill(rows + first)[first:])
            return
        tile = np.roll(source.stored, -first, axis=0)
        size, end = tile.nbytes, rows * tile.shape[1]
        for offset in range(0, end, size):
            self.call.ggml_backend_tensor_set(tensor, tile.ctypes.data, offset, min(size, end - offset))

    def get(self, tensor: Handle, shape: tuple[int, ...]) -> Array:
        """A copy of a float32 tensor."""
        data = np.empty(shape, dtype=np.float32)
        self.call.ggml_backend_tensor_get(tensor, data.ctypes.data, 0, data.nbytes)
        return data

    def graph(self, context: Handle, results: Sequence[Handle]) -> Handle:
        """What computes ``results``."""
        graph = Handle(self.call.ggml_new_graph_custom(context, _GRAPH_NODES + 8 * len(results), False))
        for result in results:
            self.call.ggml_build_forward_expand(graph, result)
        return graph

    def compute(self, graph: Handle) -> None:
        """Run a graph. Raises ``RuntimeError``."""
        status = self.call.ggml_backend_graph_compute(self.backend, graph)
        if status != 0:
            raise RuntimeError(f"ggml_backend_graph_compute returned {status}")

    def weight_memory(self, kind: int, columns: int, rows: int, *, by_id: bool) -> Handle:
        """The buffer type in which llama.cpp would keep such a weight: the CPU's own layout if it computes in it."""
        for buffer_type in self.extra:
            weights, probe = self.context(), self.context()
            weight = self.tensor(weights, kind, columns, rows, *([2] if by_id else []))
            buffer = self.allocate(weights, buffer_type)
            tokens = self.tensor(probe, F32, columns, 1, *([1] if by_id else []))
            if by_id:
                ids = self.tensor(probe, I32, 1, 1)
                operation = self.call.ggml_mul_mat_id(probe, weight, tokens, ids)
            else:
                operation = self.call.ggml_mul_mat(probe, weight, tokens)
            supported = self.call.ggml_backend_dev_supports_op(self.device, operation)
            self.call.ggml_backend_buffer_free(buffer)
            for context in (weights, probe):
                self.call.ggml_free(context)
            if supported:
                return buffer_type
        return Handle(self.plain)


class Pattern(NamedTuple):
    """Rows of random weights, as stored and as numbers; a tensor repeats them row after row."""

    stored: Array
    values: Array

    def fill(self, rows: int) -> Array:
        """Bytes of a tensor of so many rows."""
        times, width = -(-rows // PATTERN_ROWS), self.stored.shape[1]
        room = np.empty((times, PATTERN_ROWS, width), dtype=np.uint8)
        room[:] = self.stored
        return room.reshape(-1, width)[:rows]


PATTERN_ROWS = 13
"""Prime, so that no blocking of rows by a kernel lines up with it."""


def pattern(ggml: Ggml, kind: int, columns: int, seed: int) -> Pattern:
    """Random normal rows, quantized by ggml itself and read back by its own dequantization.

    Raises ``CannotRun`` where the columns do not fill blocks.
    """
    if columns % ggml.call.ggml_blck_size(kind):
        raise CannotRun(f"{columns} columns do not fill blocks of {ggml.call.ggml_type_name(kind).decode()}")
    weights = np.random.default_rng(seed).standard_normal((PATTERN_ROWS, columns)).astype(np.float32)
    weights /= np.float32(columns**0.5)
    if kind == F32:
        return Pattern(weights.view(np.uint8), weights.astype(np.float64))
    stored = np.zeros((PATTERN_ROWS, ggml.call.ggml_row_size(kind, columns)), dtype=np.uint8)
    # Some types refuse to be quantized without the importance of each column; here all matter alike.
    importance = np.ones(columns, dtype=np.float32)
    ggml.call.ggml_quantize_chunk(
        kind, weights.ctypes.data, stored.ctypes.data, 0, PATTERN_ROWS, columns, importance.ctypes.data
    )
    values = np.empty_like(weights)
    to_float = ggml.call.ggml_get_type_traits(kind).contents.to_float
    for row in range(PATTERN_ROWS):
        to_float(stored[row].ctypes.data, values[row].ctypes.data, columns)
    return Pattern(stored, values.astype(np.float64))


def library_path(given: str | None) -> Path:
    """The library that the user names, else the one inside xllamacpp. Raises ``CannotRun``."""
    if given is not None:
        path = Path(given)
        if not path.is_file():
            raise CannotRun(f"{given}: no such library")
        return path
    found = importlib.util.find_spec("xllamacpp")
    if found is None or found.origin is None:
        raise CannotRun("xllamacpp is not installed, and no library of llama.cpp is named")
    libraries = sorted(Path(found.origin).parent.glob("xllamacpp*.so"))
    if not libraries:
        raise CannotRun("xllamacpp has no library for this platform")
    return libraries[0]
