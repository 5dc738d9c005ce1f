"""A look at all columns of a shard once the row's largest logit is known: exact sums of weights, and the best score."""

import triton
import triton.language as tl

from detsample.kernels.contract.order import LAST_TOKEN, key_of, within
from detsample.kernels.contract.weight import gap, weight
from detsample.kernels.sampling.candidates import NO_CODE, code_of, token_of_code
from detsample.kernels.sampling.draw import NO_SCORE, better_of, exact_score
from detsample.kernels.sampling.rows import PARAMETER_NAMES
from detsample.kernels.sampling.score_bounds import may_beat, tile_bound
from detsample.kernels.sampling.tiles import LANES, TILE, split_quads
from detsample.kernels.sharded.rows import (
    BEST,
    BEST_CODE,
    COUNT,
    DRAWS,
    HEAVY,
    HEAVY_COUNT,
    LAST_COLUMN,
    LAST_KEY,
    STATE,
    SUMS,
    TOTAL,
    columns_of_part,
    effective_parameters,
    largest_logit,
    load_columns,
    row_status,
)


@triton.jit
def best_of_tile(x, kept, token, largest, scale, seed, position, best, best_code):
    """The better of the best so far and the best kept token of a tile, by exact scores: (score, code)."""
    score = tl.where(kept, exact_score(gap(x, largest, scale), seed, token, position), NO_SCORE)
    top = tl.max(tl.reshape(score, [TILE]), axis=0)
    winner = tl.min(tl.reshape(tl.where(score == top, token, LAST_TOKEN), [TILE]), axis=0)
    code = tl.max(tl.reshape(tl.where(kept & (token == winner), code_of(key_of(x), token), NO_CODE), [TILE]), axis=0)
    best, token = better_of(best, token_of_code(best_code), top, winner)
    return best, tl.where(token == winner, code, best_code)


NOT_SPECIALIZED = ["row_stride", "columns", "start", "vocab", "rows", "ranks", "told", "given", *PARAMETER_NAMES]


@triton.jit(do_not_specialize=NOT_SPECIALIZED, do_not_specialize_on_alignment=["logits"])
def look(
    logits, row_stride, columns, start, vocab, rows, ranks, told, given,
    temperature_ptr, temperature_stride, temperature_bits, top_k_ptr, top_k_stride, top_k_scalar,
    top_p_ptr, top_p_stride, top_p_bits, min_p_ptr, min_p_stride, min_p_bits,
    seed_ptr, seed_stride, seed_low, seed_high, position_ptr, position_stride, position_low, position_high,
    heads, state, message,
    SUM: tl.constexpr, DRAW: tl.constexpr, TO_LAST: tl.constexpr, SHIFTED: tl.constexpr,
    RANKS: tl.constexpr, SLOTS: tl.constexpr,
):  # fmt: skip
    """Writes the SUMS of each part of a shard. Grid (rows, parts).

    If DRAW, the best score is of the tokens that min-p keeps or, if TO_LAST, of those up to the last kept token, in the
    rows that ask for it.
    """
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    status, greedy, scale, top_k, top_p, min_weight, seed, position = effective_parameters(
        row, vocab, given, temperature_ptr, temperature_stride, temperature_bits, top_k_ptr, top_k_stride, top_k_scalar,
        top_p_ptr, top_p_stride, top_p_bits, min_p_ptr, min_p_stride, min_p_bits,
        seed_ptr, seed_stride, seed_low, seed_high, position_ptr, position_stride, position_low, position_high,
    )  # fmt: skip
    status |= row_status(heads, row, rows, ranks, told, RANKS)
    largest = largest_logit(heads, row, rows, ranks, told, RANKS, SLOTS)
    draws = greedy == 0
    last_key, last_column = tl.full([], 0, tl.int32), tl.full([], 0, tl.int32)
    if TO_LAST:
        draws = tl.load(state + row * STATE + DRAWS) != 0
        last_key = tl.load(state + row * STATE + LAST_KEY).to(tl.int32)
        last_column = tl.load(state + row * STATE + LAST_COLUMN).to(tl.int32)

    total, heavy_weight = tl.zeros([LANES], tl.int64), tl.zeros([LANES], tl.int64)
    count, heavy_count = tl.zeros([LANES], tl.int32), tl.zeros([LANES], tl.int32)
    best = tl.full([], NO_SCORE, tl.int64)
    best_code = tl.full([], NO_CODE, tl.int64)
    if (status == 0) & (SUM | draws):
        first, end = columns_of_part(start, columns, tl.num_programs(1), part)
        row_logits = logits + row * row_stride
        for begin in range(first, end, TILE):
            x = load_columns(row_logits, begin, columns, SHIFTED)
            drawable = x > float("-inf")
            kept = drawable
            if SUM:
                w = weight(gap(x, largest, scale))
                kept = drawable & (w >= min_weight)
                total += tl.sum(w, axis=1)
                count += tl.sum(drawable.to(tl.int32), axis=1)
                heavy_weight += tl.sum(tl.where(kept, w, 0), axis=1)
                heavy_count += tl.sum(kept.to(tl.int32), axis=1)
            if DRAW:
                column = begin + tl.arange(0, LANES)[:, None] * 4 + tl.arange(0, 4)[None, :]
                if TO_LAST:
                    kept = drawable & within(key_of(x), column, last_key, last_column)
                x0, x1, x2, x3 = split_quads(tl.where(kept, x, float("-inf")))
                bound = tile_bound(x0, x1, x2, x3, start + begin, largest, scale, seed, position)
                if draws & may_beat(tl.max(bound, axis=0), best, 0.0):
                    best, best_code = best_of_tile(
                        x, kept, column + start, largest, scale, seed, position, best, best_code
                    )
    message += (row * tl.num_programs(1) + part) * SUMS
    tl.store(message + TOTAL, tl.sum(total, axis=0))
    tl.store(message + COUNT, tl.sum(count, axis=0).to(tl.int64))
    tl.store(message + HEAVY, tl.sum(heavy_weight, axis=0))
    tl.store(message + HEAVY_COUNT, tl.sum(heavy_count, axis=0).to(tl.int64))
    tl.store(message + BEST, best)
    tl.store(message + BEST_CODE, best_code)


@triton.jit(do_not_specialize=["columns"])
def count_mask(mask, columns, counts):
    """Counts the tokens of a mask of bools [rows, columns]. Grid (rows)."""
    row = tl.program_id(0).to(tl.int64)
    count = tl.zeros([TILE], tl.int32)
    for start in range(0, columns, TILE):
        column = start + tl.arange(0, TILE)
        count += tl.load(mask + row * columns + column, mask=column < columns, other=0).to(tl.int32)
    tl.store(counts + row, tl.sum(count, axis=0))
