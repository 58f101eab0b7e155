"""The hyperparameters in a GGUF header: read by their names without the architecture's prefix, and checked."""

from __future__ import annotations

from collections.abc import Mapping

from profiles.families.fields import MAX_WIDTH, BadConfig, Fields, shown

# llama.h, enum llama_ftype. The missing numbers belonged to types that llama.cpp has removed.
_FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S",
    12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS",
    20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M",
    28: "IQ2_S", 29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4_MOE",
    39: "NVFP4", 40: "Q1_0",
}  # fmt: skip


class Hyperparameters:
    """The metadata of one architecture. Every method raises ``BadConfig`` for what is missing or out of bounds."""

    def __init__(self, metadata: Mapping[str, object], architecture: str) -> None:
        self._fields = Fields(metadata)
        self._prefix = f"{architecture}."

    def has(self, key: str) -> bool:
        """Whether the header has the key."""
        return self._fields.has(self._prefix + key)

    def is_array(self, key: str) -> bool:
        """Whether the header writes the key as an array."""
        return isinstance(self._fields.raw(self._prefix + key), tuple)

    def integer(self, key: str, default: int | None = None, *, low: int = 1, high: int = MAX_WIDTH) -> int:
        """A whole number, ``default`` when it is absent."""
        return self._fields.integer(self._prefix + key, default, low=low, high=high)

    def per_layer(self, key: str, layers: int, default: int | None = None, *, high: int = MAX_WIDTH) -> tuple[int, ...]:
        """A whole number for each layer, which the header writes as one number or as an array.

        Arrays may be longer than ``layers``: they also cover the multi-token-prediction layers.
        """
        value = self._fields.raw(self._prefix + key)
        if not isinstance(value, tuple):
            return (self.integer(key, default, low=0, high=high),) * layers
        numbers = tuple(map(int, value)) if all(isinstance(number, bool) for number in value) else value
        checked = Fields({key: numbers}, self._prefix[:-1]).integers(key, high=high)
        if len(checked) < layers:
            raise BadConfig(f"{self._prefix}{key} must have {layers} entries, not {len(checked)}")
        return checked[:layers]


def file_type_name(metadata: Mapping[str, object]) -> str | None:
    """The name of ``general.file_type``, None when it is absent or newer than this list."""
    number = metadata.get("general.file_type")
    if number is None:
        return None
    if isinstance(number, bool) or not isinstance(number, int):
        raise BadConfig(f"general.file_type must be a whole number, not {shown(number)}")
    guessed = 1024
    return _FILE_TYPES.get(number & ~guessed)
