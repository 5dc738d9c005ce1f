"""What the kernels of a sharded row share: its parameters, its first tokens, and what ranks tell of it.

`heads` holds what all ranks told in the first round, int64 [ranks, rows, 1 + told]: the status of a rank's logits, and
the codes of its first tokens (candidates.py), with token ids of the whole vocabulary.
"""

import triton
import triton.language as tl

from detsample.kernels.contract.order import value_of
from detsample.kernels.sampling.candidates import NO_CODE, key_of_code
from detsample.kernels.sampling.rows import (
    STATUS_EMPTY,
    inverse_temperature,
    minimum_weight,
    parameter_status,
    row_parameters,
)
from detsample.kernels.sampling.tiles import LANES, TILE, forbid

SUMS = tl.constexpr(6)  # int64 words that each part of a rank tells of a row. These are the words:
TOTAL = tl.constexpr(0)  # weight and number of all tokens
COUNT = tl.constexpr(1)
HEAVY = tl.constexpr(2)  # weight and number of those that min-p keeps
HEAVY_COUNT = tl.constexpr(3)
BEST = tl.constexpr(4)  # the best score of the kept tokens, and the code of the token that has it
BEST_CODE = tl.constexpr(5)


@triton.jit
def effective_parameters(
    row, vocab, given, temperature_ptr, temperature_stride, temperature_bits, top_k_ptr, top_k_stride, top_k_scalar,
    top_p_ptr, top_p_stride, top_p_bits, min_p_ptr, min_p_stride, min_p_bits,
    seed_ptr, seed_stride, seed_low, seed_high, position_ptr, position_stride, position_low, position_high,
):  # fmt: skip
    """(status, greedy, scale, top_k, top_p, min_weight, seed, position). A greedy row keeps one token and is not cut
    otherwise; top_k is 0 if it is off.
    """
    temperature, top_k, top_p, min_p, seed, position = row_parameters(
        row, given, temperature_ptr, temperature_stride, temperature_bits, top_k_ptr, top_k_stride, top_k_scalar,
        top_p_ptr, top_p_stride, top_p_bits, min_p_ptr, min_p_stride, min_p_bits,
        seed_ptr, seed_stride, seed_low, seed_high, position_ptr, position_stride, position_low, position_high,
    )  # fmt: skip
    status = parameter_status(temperature, top_p, min_p, position)
    greedy = temperature == 0.0
    top_k = tl.where((top_k > 0) & (top_k < vocab), top_k, 0)
    return (
        status, greedy, inverse_temperature(temperature), tl.where(greedy, 1, top_k), tl.where(greedy, 1.0, top_p),
        tl.where(greedy, 0, minimum_weight(min_p)), seed, position,
    )  # fmt: skip


@triton.jit
def row_status(heads, row, rows, ranks, told, RANKS: tl.constexpr):
    """The status of a row's logits, from that of each shard: bad if one is bad, and empty if all are."""
    rank = tl.arange(0, RANKS)
    of_rank = tl.load(heads + (rank * rows + row) * (1 + told), mask=rank < ranks, other=STATUS_EMPTY).to(tl.int32)
    bad = tl.max(of_rank & 1, axis=0) | tl.max(of_rank & 2, axis=0)
    return bad | tl.min(of_rank & STATUS_EMPTY, axis=0)


@triton.jit
def load_heads(heads, row, rows, ranks, told, place, SLOTS: tl.constexpr):
    """The codes at some places among RANKS x SLOTS, and NO_CODE where no token was told."""
    rank, slot = place // SLOTS, place % SLOTS
    return tl.load(
        heads + (rank * rows + row) * (1 + told) + 1 + slot, mask=(rank < ranks) & (slot < told), other=NO_CODE
    )


@triton.jit
def largest_logit(heads, row, rows, ranks, told, RANKS: tl.constexpr, SLOTS: tl.constexpr):
    """M, the largest logit of the whole row."""
    code = load_heads(heads, row, rows, ranks, told, tl.arange(0, RANKS * SLOTS), SLOTS)
    return value_of(key_of_code(tl.max(code, axis=0)))


@triton.jit
def load_columns(row_logits, start, columns, SHIFTED: tl.constexpr):
    """The logits of one tile, [LANES, 4], as fp32; -inf outside the row. If SHIFTED, `start` may be negative: tiles
    begin where a token id is a multiple of four, so that neighbours share a counter.
    """
    column = start + tl.arange(0, LANES)[:, None] * 4 + tl.arange(0, 4)[None, :]
    inside = (column >= 0) & (column < columns)
    if SHIFTED:
        x = tl.load(row_logits[0] + column, mask=inside, other=float("-inf"))
    elif start + TILE <= columns:
        x = tl.load(row_logits[0] + column)
    else:
        x = tl.load(row_logits[0] + column, mask=inside, other=float("-inf"))
    return forbid(x, row_logits, column, inside).to(tl.float32)


@triton.jit
def columns_of_part(start, columns, parts, part):
    """(first column, end) of this part's tiles. The first tile of a row begins up to three columns before it."""
    shift = start & 3
    tiles = (columns + shift + TILE - 1) // TILE
    each = (tiles + parts - 1) // parts
    first = part * each * TILE - shift
    return first, tl.minimum(first + each * TILE, columns)
