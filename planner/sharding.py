"""Bytes of a model's weights on one rank, from its tensor list.

How a role is split under tensor parallelism is the same in every engine that follows Megatron; what differs (vision,
drafter, expert parallelism) is an argument. Shards are priced with the storage format on the shard's own shape, so
block scales that do not divide are rounded up as the engine rounds them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Final, NamedTuple

from formulas.storage import storage_format, tensor_bytes
from profiles.model import ModelSpec, Role, TensorClass, TensorGroup

ROWS: Final[frozenset[Role]] = frozenset(
    (
        "q_b", "kv_b", "k_b", "v_b", "q", "o_a", "attention_bias", "attention_gate", "attention_sink",
        "linear_in", "linear_conv", "linear_state",
        "dense_gate", "dense_up", "shared_gate", "shared_up",
    )
)  # fmt: skip
"""Column-parallel layers: the output dimension (rows of the stored matrix) is divided."""
COLUMNS: Final[frozenset[Role]] = frozenset(("o", "linear_out", "dense_down", "shared_down"))
"""Row-parallel layers: the input dimension (columns) is divided."""
KV_HEADS: Final[frozenset[Role]] = frozenset(("k", "v"))
"""Divided by KV heads, replicated beyond their number."""
VOCABULARY: Final[frozenset[Role]] = frozenset(("embedding", "lm_head"))
"""Divided by vocabulary, padded to a multiple of 64 per rank set."""
EXPERT_ROWS: Final[frozenset[Role]] = frozenset(("expert_gate", "expert_up", "expert_bias"))
EXPERT_COLUMNS: Final[frozenset[Role]] = frozenset(("expert_down",))
MXFP4_BLOCK: Final = 32
SWIZZLED_ROWS: Final = 256
"""Rows that Triton's MXFP4 scale layout on Hopper takes together (triton_kernels hopper_scale.py, 8 warps)."""
VISION_ROLES: Final[frozenset[Role]] = frozenset(("vision_column", "vision_row", "vision_other", "projector"))


class LayerShard(NamedTuple):
    """Bytes of one layer on one rank. ``expert`` is one routed expert (its shard when experts are divided)."""

    attention: int
    dense: int
    shared: int
    other: int
    expert: int
    experts: int

    @property
    def always(self) -> int:
        """Bytes every step reads whatever the routing."""
        return self.attention + self.dense + self.shared + self.other


NO_LAYER: Final = LayerShard(0, 0, 0, 0, 0, 0)


class ShardTable(NamedTuple):
    """Weights of a model divided over ``tp`` ranks.

    ``cumulative`` holds the running total of a whole layer's bytes (always + experts), for pipeline stages;
    ``expert_ranks`` ranks share the routed experts whole when experts are parallel (1: they are sharded by tp).
    ``mtp`` are the bytes of the multi-token-prediction layers, ``always`` those of all layers that every step reads
    whatever the routing, ``experts`` the rest of them.
    """

    layers: tuple[LayerShard, ...]
    cumulative: tuple[int, ...]
    embedding: int
    lm_head: int
    norms: int
    vision: int
    vision_whole: int
    mtp: int
    experts_on_rank: int
    always: int
    experts: int

    def stage_bytes(self, first: int, stop: int) -> int:
        """Bytes of layers ``first..stop`` on the fullest rank of the stage."""
        return self.cumulative[stop] - self.cumulative[first]


class ExpertPadding(NamedTuple):
    """How a kernel widens MXFP4 experts: both matrix dimensions to multiples, on one rank.

    ``scales_twice``: loading keeps the checkpoint's scales beside the kernel's own copy of them, whose rows are padded
    to ``SWIZZLED_ROWS``. ``wide_bias``: biases are kept in fp32.
    """

    hidden: int = 1
    width: int = 1
    scales_twice: bool = False
    wide_bias: bool = False

    def bytes_of(self, group: TensorGroup, shape: tuple[int, ...]) -> int:
        """Bytes of one shard of this shape as the kernel keeps it.

        >>> ExpertPadding(256, 128).bytes_of(TensorGroup("", (2880, 2880), "expert_down", "routed_experts", "mxfp4"),
        ...                                  (2880, 2880))
        4804608
        """
        if len(shape) == 1:
            return tensor_bytes(storage_format("f32" if self.wide_bias else group.format), shape)
        rows, columns = (self.hidden, self.width) if group.role in EXPERT_COLUMNS else (self.width, self.hidden)
        padded = (_up(shape[-2], rows), _up(shape[-1], columns))
        size = tensor_bytes(storage_format(group.format), (*shape[:-2], *padded))
        if self.scales_twice:
            # Gate and up are one matrix to the kernel, so each counts with half of the padding.
            step = SWIZZLED_ROWS if group.role in EXPERT_COLUMNS else SWIZZLED_ROWS // 2
            size += _up(padded[0], step) * -(-padded[1] // MXFP4_BLOCK)
        return size


def _up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def padded_vocabulary(vocab: int, tp: int, multiple: int = 64) -> int:
    """Rows of the vocabulary on one rank after padding."""
    padded = -(-vocab // multiple) * multiple
    return -(-padded // tp)


def shard_shape(group: TensorGroup, tp: int, kv_heads: int, vocabulary_padding: int = 64) -> tuple[int, ...]:
    """Shape of this tensor on one of ``tp`` ranks."""
    shape, role = group.shape, group.role
    if tp == 1:
        return shape
    if role in VOCABULARY:
        return (padded_vocabulary(shape[0], tp, vocabulary_padding), *shape[1:])
    if role in KV_HEADS:
        share = min(tp, kv_heads) if kv_heads else tp
        return (-(-shape[0] // share), *shape[1:])
    if role in ROWS:
        return (-(-shape[0] // tp), *shape[1:])
    if role in EXPERT_ROWS:
        return (*shape[:-2], -(-shape[-2] // tp), shape[-1]) if len(shape) > 1 else (-(-shape[0] // tp),)
    if role in COLUMNS or role in EXPERT_COLUMNS:
        return (*shape[:-1], -(-shape[-1] // tp))
    return shape


def build_shards(
    model: ModelSpec,
    groups: Sequence[TensorGroup],
    *,
    tp: int,
    expert_tp: int,
    expert_ranks: int,
    vision_sharded: bool,
    scale: float = 1.0,
    vocabulary_padding: int = 64,
    padding: ExpertPadding | None = None,
) -> ShardTable:
    """The shard table of one release on one rank of ``tp``.

    Routed experts are divided by ``expert_tp`` within a matrix and, whole, over ``expert_ranks`` ranks; the rank with
    the most experts is priced. ``scale`` corrects a list whose mixture is only assumed (see ``release_tensors``).
    ``padding`` widens experts stored as MXFP4 as the engine's kernel needs them.
    """
    kv_heads = max((group.n_kv_heads for group in model.kv_groups), default=0)
    # Groups of the same layers are summed before they are spread over those layers: a model has few such sets.
    sums: dict[tuple[int, ...], list[int]] = {}
    embedding = lm_head = norms = vision = vision_whole = mtp = 0
    for group in groups:
        role = group.role
        if role in VISION_ROLES:
            size = group.bytes
            vision_whole += size
            divide = vision_sharded and role in ("vision_column", "vision_row")
            vision += size // tp if divide else size
            continue
        is_expert = role in EXPERT_ROWS or role in EXPERT_COLUMNS
        shape = shard_shape(group, expert_tp if is_expert else tp, kv_heads, vocabulary_padding)
        if padding is not None and is_expert:
            each = padding.bytes_of(group, shape)
        else:
            each = tensor_bytes(storage_format(group.format), shape)
        if scale != 1.0:
            each = round(each * scale)
        if group.tensor_class == "mtp":
            count = group.per_layer * max(len(group.layers), 1)
            mtp += each * (-(-count // expert_ranks) if is_expert else count)
        elif role == "embedding":
            embedding += each * group.instances
        elif role == "lm_head":
            lm_head += each * group.instances
        elif not group.layers:
            norms += each * group.instances
        else:
            row = sums.setdefault(group.layers, [0] * len(LayerShard._fields))
            if is_expert:
                # The projections of one expert are separate tensors, so a layer's expert is their sum.
                row[_EXPERT] += each
                row[_EXPERTS] = max(row[_EXPERTS], group.per_layer)
            else:
                row[_COLUMN_OF_CLASS.get(group.tensor_class, _OTHER)] += each * group.per_layer
    layers = _spread(sums, model.layers, expert_ranks)
    running = accumulate([s.attention + s.dense + s.shared + s.other + s.expert * s.experts for s in layers], initial=0)
    on_rank = max([shard.experts for shard in layers], default=0)
    experts = sum([shard.expert * shard.experts for shard in layers])
    cumulative = tuple(running)
    return ShardTable(
        layers,
        cumulative,
        embedding,
        lm_head,
        norms,
        vision,
        vision_whole,
        mtp,
        on_rank,
        cumulative[-1] - experts,
        experts,
    )


_COLUMN_OF_CLASS: Final[dict[TensorClass, int]] = {"attention": 0, "dense_ffn": 1, "shared_experts": 2}
_OTHER, _EXPERT, _EXPERTS = 3, 4, 5


def _spread(sums: dict[tuple[int, ...], list[int]], layers: int, expert_ranks: int) -> tuple[LayerShard, ...]:
    """One shard per layer; layers that are in the same sets share it."""
    sets: list[list[tuple[int, ...]]] = [[] for _ in range(layers)]
    for members in sums:
        for layer in members:
            sets[layer].append(members)
    made: dict[tuple[int, ...], LayerShard] = {}
    spread = []
    for of_layer in sets:
        key = tuple([id(members) for members in of_layer])
        shard = made.get(key)
        if shard is None:
            rows = [sums[members] for members in of_layer]
            totals = [sum([row[column] for row in rows]) for column in range(_EXPERTS)]
            experts = max([row[_EXPERTS] for row in rows], default=0)
            shard = made[key] = LayerShard._make([*totals, -(-experts // expert_ranks)])
        spread.append(shard)
    return tuple(spread)


@lru_cache(maxsize=1024)
def stage_layers(layers: int, pp: int, *, rest_last: bool = False) -> tuple[tuple[int, int], ...]:
    """First and stop layer of each pipeline stage, as vLLM divides them, and with ``rest_last`` as SGLang does.

    What does not divide goes to the stages before the last, from the back, since the last also holds the head;
    with ``rest_last`` to the last stages. Source: ``get_pp_indices`` in ``distributed/utils.py`` of vLLM 0.11.0,
    0.19.0, 0.33.0 and of SGLang 0.5.6, 0.5.23, sglang-kt 0.7.2.

    >>> stage_layers(61, 2), stage_layers(61, 4)
    (((0, 31), (31, 61)), ((0, 15), (15, 30), (30, 46), (46, 61)))
    >>> stage_layers(61, 2, rest_last=True), stage_layers(61, 4, rest_last=True)
    (((0, 30), (30, 61)), ((0, 15), (15, 30), (30, 45), (45, 61)))
    """
    share, rest = divmod(layers, pp)
    sizes = [share] * pp
    skipped = 1 if rest_last else 2
    for back in range(skipped, rest + skipped):
        sizes[-back] += 1
    stops = list(accumulate(sizes))
    return tuple([(stop - size, stop) for stop, size in zip(stops, sizes, strict=True)])
