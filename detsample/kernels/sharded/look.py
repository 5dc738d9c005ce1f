"""A look at all columns of a shard once the row's largest logit is known: exact sums of weights, and the best score."""

import triton
import triton.language as tl

from detsample.kernels.contract.order import LAST_TOKEN, LOWEST_KEY, key_of, value_of
from detsample.kernels.contract.weight import gap, weight
from detsample.kernels.sampling.candidates import NO_CODE, code_of
from detsample.kernels.sampling.draw import NO_SCORE, best_of, better_of, exact_score
from detsample.kernels.sampling.rows import PARAMETER_NAMES
from detsample.kernels.sampling.score_bounds import may_beat, tile_bound
from detsample.kernels.sampling.settling import lowest_key_of
from detsample.kernels.sampling.tiles import LANES, TILE, load_tokens, logits_of_row, split_quads
from detsample.kernels.sharded.rows import (
    BEST,
    BEST_CODE,
    COUNT,
    HEAVY,
    HEAVY_COUNT,
    SUMS,
    TOTAL,
    columns_of_part,
    effective_parameters,
    largest_logit,
    load_columns,
    row_status,
)

MEMBERS = tl.constexpr(64)  # how many tokens of a lane are scored at a time


@triton.jit
def draw_from_lanes(
    row_logits, first, end, start, bounds, largest, scale, seed, position, least
):  # fmt: skip
    """(score, code) of the best token from the least kept logit on in a part of a row. Each lane has the tokens of one
    quad of every tile, and a bound of their scores; lanes are evaluated exactly until none is left that may hold the
    best.
    """
    lane = tl.arange(0, LANES)
    best = tl.full([], NO_SCORE, tl.int64)
    winner = tl.full([], LAST_TOKEN, tl.int32)
    best_code = tl.full([], NO_CODE, tl.int64)
    top = tl.max(bounds, axis=0)
    while may_beat(top, best, 0.0):
        chosen = tl.min(tl.where(bounds == top, lane, LANES), axis=0)
        for begin in range(first, end, MEMBERS // 4 * TILE):
            member = tl.arange(0, MEMBERS)
            column = begin + (member >> 2) * TILE + chosen * 4 + (member & 3)
            x = load_tokens(row_logits, column, (column >= 0) & (column < end))
            kept = (x > float("-inf")) & (x >= least)
            score = tl.where(kept, exact_score(gap(x, largest, scale), seed, column + start, position), NO_SCORE)
            here, token = best_of(score, column + start)
            own = kept & (column + start == token)
            code = tl.max(tl.where(own, code_of(key_of(x), column + start), NO_CODE), axis=0)
            best, better = better_of(best, winner, here, token)
            best_code = tl.where(better == winner, best_code, code)
            winner = better
        bounds = tl.where(lane == chosen, float("-inf"), bounds)
        top = tl.max(bounds, axis=0)
    return best, best_code


NOT_SPECIALIZED = [
    "row_stride", "allowed_stride", "columns", "start", "vocab", "rows", "ranks", "told", "given", *PARAMETER_NAMES
]


@triton.jit(do_not_specialize=NOT_SPECIALIZED, do_not_specialize_on_alignment=["logits", "allowed"])
def look(
    logits, row_stride, allowed, allowed_stride, columns, start, vocab, rows, ranks, told, given,
    temperature_ptr, temperature_stride, temperature_bits, top_k_ptr, top_k_stride, top_k_scalar,
    top_p_ptr, top_p_stride, top_p_bits, min_p_ptr, min_p_stride, min_p_bits,
    seed_ptr, seed_stride, seed_low, seed_high, position_ptr, position_stride, position_low, position_high,
    heads, message,
    SUM: tl.constexpr, DRAW: tl.constexpr, SHIFTED: tl.constexpr, ALLOWED: tl.constexpr,
    RANKS: tl.constexpr, SLOTS: tl.constexpr,
):  # fmt: skip
    """Writes the SUMS of each part of a shard. Grid (rows, parts).

    If SUM, the weight of all tokens is wanted in rows with min-p, too. If DRAW, the best score is that of the tokens
    that min-p keeps.
    """
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    status, greedy, scale, _top_k, _top_p, min_weight, seed, position = effective_parameters(
        row, vocab, given, temperature_ptr, temperature_stride, temperature_bits, top_k_ptr, top_k_stride, top_k_scalar,
        top_p_ptr, top_p_stride, top_p_bits, min_p_ptr, min_p_stride, min_p_bits,
        seed_ptr, seed_stride, seed_low, seed_high, position_ptr, position_stride, position_low, position_high,
    )  # fmt: skip
    status |= row_status(heads, row, rows, ranks, told, RANKS)
    largest = largest_logit(heads, row, rows, ranks, told, RANKS, SLOTS)
    last_key = tl.full([], LOWEST_KEY, tl.int32)
    if min_weight > 0:
        last_key = lowest_key_of(scale, largest, key_of(largest), min_weight)
    least = value_of(last_key)
    weighs = SUM | (min_weight == 0)

    total, heavy_weight = tl.zeros([LANES], tl.int64), tl.zeros([LANES], tl.int64)
    count, heavy_count = tl.zeros([LANES], tl.int32), tl.zeros([LANES], tl.int32)
    best = tl.full([], NO_SCORE, tl.int64)
    best_code = tl.full([], NO_CODE, tl.int64)
    bounds = tl.full([LANES], float("-inf"), tl.float32)
    if status == 0:
        first, end = columns_of_part(start, columns, tl.num_programs(1), part)
        row_logits = logits_of_row(logits, row, row_stride, allowed, allowed_stride, False, ALLOWED)
        for begin in range(first, end, TILE):
            x = load_columns(row_logits, begin, columns, SHIFTED)
            heavy = x >= least
            some = tl.max(tl.max(heavy.to(tl.int32), axis=1), axis=0) > 0
            count += tl.sum((x > float("-inf")).to(tl.int32), axis=1)
            if weighs | some:
                w = weight(gap(x, largest, scale))
                total += tl.sum(w, axis=1)
                heavy_weight += tl.sum(tl.where(heavy, w, 0), axis=1)
                heavy_count += tl.sum(heavy.to(tl.int32), axis=1)
            if DRAW:
                if (greedy == 0) & some:
                    x0, x1, x2, x3 = split_quads(tl.where(heavy, x, float("-inf")))
                    bound = tile_bound(x0, x1, x2, x3, start + begin, largest, scale, seed, position)
                    bounds = tl.maximum(bounds, bound)
        if DRAW:
            best, best_code = draw_from_lanes(
                row_logits, first, end, start, bounds, largest, scale, seed, position, least
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
