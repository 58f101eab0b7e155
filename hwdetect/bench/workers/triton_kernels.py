"""Triton kernels of this project: grouped expert GEMM with INT4, FP8 or 16-bit weights, and attention.

INT4 weights lie in tiles: the 64 columns of a tile are one load of contiguous bytes, the low nibbles its first 32
columns and the high ones the others. Each half has one scale a row (groups of 32), which multiplies the product
instead of the weights. Loop bounds and the type that is multiplied in are compile-time constants: Triton's interpreter
takes no other bounds with numpy 2.4, and multiplies the bits of bf16 as integers.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

GROUP = 32
TILE_K = 2 * GROUP
FP8_BLOCK = 128


@triton.jit
def grouped_int4(
    tokens, tiles, scales, shares, out, pair_of_row, expert_of_block,
    rows, columns: tl.constexpr, out_columns: tl.constexpr, per_token: tl.constexpr, weigh: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """``out[pair] = tokens[pair // per_token] @ weight[expert].T`` for a block of pairs of one expert."""
    block, tile_n = tl.program_id(0), tl.program_id(1)
    expert = tl.load(expert_of_block + block).to(tl.int64)
    if expert >= 0:
        pairs = tl.load(pair_of_row + block * BLOCK_M + tl.arange(0, BLOCK_M))
        real = pairs < rows
        token = (pairs // per_token).to(tl.int64)
        half = tl.arange(0, 32)
        wide = tl.arange(0, BLOCK_N)
        steps: tl.constexpr = columns // 64
        first = (expert * (out_columns // BLOCK_N) + tile_n) * steps
        total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        for step in range(steps):
            packed = tl.load(tiles + (first + step) * (BLOCK_N * 32) + wide[:, None] * 32 + half[None, :])
            low_scale = tl.load(scales + (first + step) * (2 * BLOCK_N) + wide).to(tl.float32)
            high_scale = tl.load(scales + (first + step) * (2 * BLOCK_N) + BLOCK_N + wide).to(tl.float32)
            at = tokens + token[:, None] * columns + step * 64 + half[None, :]
            left = tl.load(at, mask=real[:, None], other=0.0).to(DOT)
            right = tl.load(at + 32, mask=real[:, None], other=0.0).to(DOT)
            low = ((packed & 15).to(tl.int32) - 8).to(DOT)
            high = ((packed >> 4).to(tl.int32) - 8).to(DOT)
            total += tl.dot(left, tl.trans(low)) * low_scale[None, :]
            total += tl.dot(right, tl.trans(high)) * high_scale[None, :]
        if weigh:
            total *= tl.load(shares + pairs, mask=real, other=0.0)[:, None]
        place = out + pairs.to(tl.int64)[:, None] * out_columns + (tile_n * BLOCK_N + wide)[None, :]
        tl.store(place, total.to(out.dtype.element_ty), mask=real[:, None])


@triton.jit
def grouped_plain(
    tokens, weights, scales, shares, out, pair_of_row, expert_of_block,
    rows, columns: tl.constexpr, out_columns: tl.constexpr, per_token: tl.constexpr, weigh: tl.constexpr,
    scaled: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """The same for 16-bit weights, or with ``scaled`` FP8 with one scale a block of 128 x 128."""
    block, tile_n = tl.program_id(0), tl.program_id(1)
    expert = tl.load(expert_of_block + block).to(tl.int64)
    if expert >= 0:
        pairs = tl.load(pair_of_row + block * BLOCK_M + tl.arange(0, BLOCK_M))
        real = pairs < rows
        token = (pairs // per_token).to(tl.int64)
        deep = tl.arange(0, BLOCK_K)
        row = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
        total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        for start in range(0, columns, BLOCK_K):
            left = tl.load(tokens + token[:, None] * columns + start + deep[None, :], mask=real[:, None], other=0.0).to(
                DOT
            )
            place = weights + (expert * out_columns + row)[:, None] * columns + start + deep[None, :]
            product = tl.dot(left, tl.trans(tl.load(place).to(DOT)))
            if scaled:
                blocks_k: tl.constexpr = columns // 128
                blocks_n: tl.constexpr = out_columns // 128
                at = (expert * blocks_n + row // 128) * blocks_k + start // 128
                product *= tl.load(scales + at)[None, :]
            total += product
        if weigh:
            total *= tl.load(shares + pairs, mask=real, other=0.0)[:, None]
        to = out + pairs.to(tl.int64)[:, None] * out_columns + row[None, :]
        tl.store(to, total.to(out.dtype.element_ty), mask=real[:, None])


@triton.jit
def silu_mul(both, out, count, inter: tl.constexpr, BLOCK: tl.constexpr):
    """``silu(gate) * up`` of rows that hold gate and up side by side."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    row, column = at // inter, at % inter
    gate = tl.load(both + row * 2 * inter + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(both + row * 2 * inter + inter + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + at, (gate / (1.0 + tl.exp(-gate)) * up).to(out.dtype.element_ty), mask=inside)


@triton.jit
def mla_split(
    queries, cache, partial, largest, weight, context, scale, heads: tl.constexpr, lora: tl.constexpr,
    rope: tl.constexpr, splits: tl.constexpr, length: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_S: tl.constexpr,
    DOT: tl.constexpr,
):  # fmt: skip
    """One part of the cached tokens of a sequence for a block of heads, with its own softmax."""
    sequence, block, split = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    width: tl.constexpr = lora + rope
    head = block * BLOCK_H + tl.arange(0, BLOCK_H)
    deep, turned = tl.arange(0, lora), lora + tl.arange(0, rope)
    asked = queries + (sequence * heads + head)[:, None] * width
    inside = (head < heads)[:, None]
    latent = tl.load(asked + deep[None, :], mask=inside, other=0.0).to(DOT)
    position = tl.load(asked + turned[None, :], mask=inside, other=0.0).to(DOT)
    top = tl.full((BLOCK_H,), -1.0e30, dtype=tl.float32)
    sum_ = tl.zeros((BLOCK_H,), dtype=tl.float32)
    total = tl.zeros((BLOCK_H, lora), dtype=tl.float32)
    for start in range(0, length, BLOCK_S):
        cell = split * length + start + tl.arange(0, BLOCK_S)
        seen = cell < context
        row = cache + (sequence * context + cell)[:, None] * width
        keys = tl.load(row + deep[None, :], mask=seen[:, None], other=0.0).to(DOT)
        ropes = tl.load(row + turned[None, :], mask=seen[:, None], other=0.0).to(DOT)
        scores = (tl.dot(latent, tl.trans(keys)) + tl.dot(position, tl.trans(ropes))) * scale
        scores = tl.where(seen[None, :], scores, -1.0e30)
        higher = tl.maximum(top, tl.max(scores, axis=1))
        chances = tl.where(seen[None, :], tl.exp(scores - higher[:, None]), 0.0)
        faded = tl.exp(top - higher)
        sum_ = sum_ * faded + tl.sum(chances, axis=1)
        total = total * faded[:, None] + tl.dot(chances.to(DOT), keys)
        top = higher
    place = (sequence * heads + head) * splits + split
    tl.store(partial + place[:, None] * lora + deep[None, :], total, mask=inside)
    tl.store(largest + place, top, mask=head < heads)
    tl.store(weight + place, sum_, mask=head < heads)


@triton.jit
def mla_join(
    partial, largest, weight, out, lora: tl.constexpr, splits: tl.constexpr, SPLITS: tl.constexpr, BLOCK: tl.constexpr
):
    """The parts of a head put together."""
    at, columns = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    part = tl.arange(0, SPLITS)
    known = part < splits
    top = tl.load(largest + at * splits + part, mask=known, other=-1.0e30)
    factor = tl.where(known, tl.exp(top - tl.max(top, axis=0)), 0.0)
    whole = tl.sum(tl.load(weight + at * splits + part, mask=known, other=0.0) * factor, axis=0)
    rows = tl.load(
        partial + (at * splits + part)[:, None] * lora + columns[None, :],
        mask=known[:, None] & (columns < lora)[None, :], other=0.0,
    )  # fmt: skip
    joined = tl.sum(rows * factor[:, None], axis=0) / whole
    tl.store(out + at * lora + columns, joined.to(out.dtype.element_ty), mask=columns < lora)


@triton.jit
def attention_split(
    queries, keys, values, out, partial, largest, weight, cells, stored, scale, asked: tl.constexpr,
    heads: tl.constexpr, kv_heads: tl.constexpr, WIDE: tl.constexpr, REST: tl.constexpr, V: tl.constexpr,
    splits: tl.constexpr, length: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_S: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """Causal attention of the last ``asked`` tokens of a sequence over one part of its cells.

    The rows of a block are the queries of all heads that share a key. Keys are ``WIDE + REST`` columns, both powers of
    two or nothing. One part alone is written to ``out``, several with their own softmax for ``mla_join``.
    """
    sequence, kv_head = (tl.program_id(0) // kv_heads).to(tl.int64), tl.program_id(0) % kv_heads
    split, group, width = tl.program_id(2), heads // kv_heads, WIDE + REST
    row = tl.program_id(1) * BLOCK_R + tl.arange(0, BLOCK_R)
    inside = row < asked * group
    query = row // group
    line = (sequence * asked + query) * heads + kv_head * group + row % group
    last = cells - asked + query
    deep, columns = tl.arange(0, WIDE), tl.arange(0, V)
    given = queries + line[:, None] * width
    left = tl.load(given + deep[None, :], mask=inside[:, None], other=0.0).to(DOT)
    if REST > 0:
        right = tl.load(given + WIDE + tl.arange(0, REST)[None, :], mask=inside[:, None], other=0.0).to(DOT)
    top = tl.full((BLOCK_R,), -1.0e30, dtype=tl.float32)
    sum_ = tl.zeros((BLOCK_R,), dtype=tl.float32)
    total = tl.zeros((BLOCK_R, V), dtype=tl.float32)
    # What comes after the last query of this block is seen by none of it.
    end = cells - asked + tl.minimum((tl.program_id(1) * BLOCK_R + BLOCK_R - 1) // group, asked - 1)
    for start in range(0, length, BLOCK_S):
        if split * length + start <= end:
            cell = split * length + start + tl.arange(0, BLOCK_S)
            known = (cell < cells)[:, None]
            place = (sequence * stored + cell) * kv_heads + kv_head
            at = keys + place[:, None] * width
            scores = tl.dot(left, tl.trans(tl.load(at + deep[None, :], mask=known, other=0.0).to(DOT)))
            if REST > 0:
                rest = tl.load(at + WIDE + tl.arange(0, REST)[None, :], mask=known, other=0.0).to(DOT)
                scores += tl.dot(right, tl.trans(rest))
            seen = (cell[None, :] <= last[:, None]) & (cell < cells)[None, :]
            scores = tl.where(seen, scores * scale, -1.0e30)
            higher = tl.maximum(top, tl.max(scores, axis=1))
            chances = tl.where(seen, tl.exp(scores - higher[:, None]), 0.0)
            faded = tl.exp(top - higher)
            sum_ = sum_ * faded + tl.sum(chances, axis=1)
            rows = tl.load(values + place[:, None] * V + columns[None, :], mask=known, other=0.0).to(DOT)
            total = total * faded[:, None] + tl.dot(chances.to(DOT), rows)
            top = higher
    if splits == 1:
        tl.store(
            out + line[:, None] * V + columns[None, :], (total / sum_[:, None]).to(out.dtype.element_ty),
            mask=inside[:, None],
        )  # fmt: skip
    else:
        spot = line * splits + split
        tl.store(partial + spot[:, None] * V + columns[None, :], total, mask=inside[:, None])
        tl.store(largest + spot, top, mask=inside)
        tl.store(weight + spot, sum_, mask=inside)


def tiled(nibbles: Any, scales: Any, block_n: int) -> tuple[Any, Any]:
    """INT4 (experts, rows, columns), one a byte, and scales (experts, rows, groups) as ``grouped_int4`` reads them."""
    experts, rows, columns = nibbles.shape
    if columns % TILE_K or rows % block_n:
        raise ValueError(f"{rows} x {columns} is no multiple of {block_n} x {TILE_K}")
    halves = nibbles.view(experts, rows // block_n, block_n, columns // TILE_K, 2, GROUP)
    packed = halves[..., 0, :] | halves[..., 1, :] << 4
    per_tile = scales.view(experts, rows // block_n, block_n, columns // TILE_K, 2)
    return packed.transpose(2, 3).contiguous(), per_tile.permute(0, 1, 3, 4, 2).contiguous()


def blocks_of(placed: Any, block_m: int, experts: int) -> tuple[Any, Any]:
    """Pairs of token and expert in blocks of one expert each: the pair of every row, the expert of every block.

    ``placed`` is (tokens, top_k), numpy; -1 is left out. Unused rows hold the number of pairs, unused blocks -1; both
    arrays have the length that the worst routing needs, so that a CUDA graph can be replayed with other contents.
    """
    import numpy as np

    flat = placed.reshape(-1)
    most = min(len(flat), experts) + len(flat) // block_m
    pair_of_row = np.full(most * block_m, len(flat), dtype=np.int32)
    expert_of_block = np.full(most, -1, dtype=np.int32)
    order = np.argsort(flat, kind="stable")
    block = 0
    for expert in np.unique(flat[flat >= 0]):
        pairs = order[np.searchsorted(flat[order], expert) : np.searchsorted(flat[order], expert, side="right")]
        for start in range(0, len(pairs), block_m):
            part = pairs[start : start + block_m]
            pair_of_row[block * block_m : block * block_m + len(part)] = part
            expert_of_block[block] = expert
            block += 1
    return torch.from_numpy(pair_of_row), torch.from_numpy(expert_of_block)
