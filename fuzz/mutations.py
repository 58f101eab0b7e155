"""Hypothesis strategy for broken files: a valid one with some edits, which hypothesis then shrinks to the fewest."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from hypothesis import strategies as st

_BOUNDARIES = [0, 1, 2, 8, 12, 13, 0x7F, 0xFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**62, 2**63 - 1, 2**63]
_NUMBERS = [struct.pack(f"{order}Q", value) for value in [*_BOUNDARIES, 2**64 - 1] for order in "<>"] + [
    struct.pack(f"{order}I", value) for value in _BOUNDARIES if value < 2**32 for order in "<>"
]
_JSON = [
    b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"{}", b"[]", b'""', b"null", b"true", b"0", b"-0", b"01", b"1.0",
    b"1e400", b"NaN", b"-Infinity", b"9223372036854775808", b"\\u0000", b"\\ud83d", b"\\ude00", b" ", b"\n", b"\0",
    b"\xff", b"\xef\xbb\xbf", b"\xe2\x80\xae", b'"__metadata__":{},', b'"dtype":"U8",', b'"shape":[],', b"[" * 70,
    b"GGUF", b"../", b"a.safetensors", b"weight_map",
]  # fmt: skip

_token = st.sampled_from(_NUMBERS + _JSON) | st.binary(max_size=4)
_edit = st.tuples(
    st.sampled_from(["overwrite", "insert", "delete", "repeat", "truncate", "flip"]),
    st.integers(0, 2**16),
    st.integers(1, 64),
    _token,
)


def mutated(seeds: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """One of the seeds after up to eight edits."""
    return st.builds(_edited, st.sampled_from(seeds), st.lists(_edit, min_size=1, max_size=8))


def _edited(content: bytes, edits: Sequence[tuple[str, int, int, bytes]]) -> bytes:
    for kind, where, length, token in edits:
        at = where % (len(content) + 1)
        before, after = content[:at], content[at:]
        match kind:
            case "overwrite":
                content = before + token + after[len(token) :]
            case "insert":
                content = before + token + after
            case "delete":
                content = before + after[length:]
            case "repeat":
                content = before + after[:length] + after
            case "truncate":
                content = before
            case "flip" if after:
                content = before + bytes([after[0] ^ (1 << length % 8)]) + after[1:]
    return content
