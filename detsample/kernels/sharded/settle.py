"""The kept set of a sharded row from what all ranks have told, and the row's results."""

import triton
import triton.language as tl

from detsample.kernels.contract.fraction import top_p_target
from detsample.kernels.contract.order import LAST_TOKEN, LOWEST_KEY, NAN_KEY, value_of
from detsample.kernels.contract.weight import gap
from detsample.kernels.sampling.candidates import (
    BATCH,
    NO_CODE,
    draw_from_candidates,
    key_of_code,
    token_of_code,
    weight_of_key,
)
from detsample.kernels.sampling.draw import NO_SCORE
from detsample.kernels.sampling.outcome import log_kept_mass, log_probability, write_invalid, write_outcome
from detsample.kernels.sampling.rows import ORDER_JOINT, ORDER_MIN_P_FIRST, PARAMETER_NAMES, write_boundary
from detsample.kernels.sampling.settling import lowest_key_of
from detsample.kernels.sharded.rows import (
    BEST,
    BEST_CODE,
    COUNT,
    HEAVY,
    HEAVY_COUNT,
    SUMS,
    TOTAL,
    effective_parameters,
    load_heads,
    row_status,
)

MOST_INT64 = tl.constexpr(0x7FFFFFFFFFFFFFFF)


@triton.jit
def merge_heads(heads, row, rows, ranks, told, scale, RANKS: tl.constexpr, SLOTS: tl.constexpr):
    """(code, known, weight, rank, weight before) of the first tokens of all shards, and the largest logit.

    A token's place in the row is known if every shard has told all its tokens that may come before it.
    """
    place = tl.arange(0, RANKS * SLOTS)
    code = load_heads(heads, row, rows, ranks, told, place, SLOTS)
    # A shard that had fewer tokens than it could tell has told all: then its least code is NO_CODE.
    least = tl.where((place // SLOTS < ranks) & (place % SLOTS >= told), MOST_INT64, code)
    floor = tl.max(tl.min(tl.reshape(least, [RANKS, SLOTS]), axis=1), axis=0)
    known = (code >= floor) & (code > NO_CODE)
    largest = value_of(key_of_code(tl.max(code, axis=0)))
    rank = tl.zeros([RANKS * SLOTS], tl.int32)
    before = tl.zeros([RANKS * SLOTS], tl.int64)
    for start in range(0, RANKS * SLOTS, BATCH):
        other = load_heads(heads, row, rows, ranks, told, start + tl.arange(0, BATCH), SLOTS)
        precedes = other[None, :] > code[:, None]
        rank += tl.sum(precedes.to(tl.int32), axis=1)
        own = weight_of_key(key_of_code(other), scale, largest)
        before += tl.sum(tl.where(precedes, own[None, :], 0), axis=1)
    weight = tl.where(known, weight_of_key(key_of_code(code), scale, largest), 0)
    return code, known, weight, rank, before, largest


@triton.jit
def first_of(code, known, weight, rank, count, start):
    """(weight, key, column) of the first `count` tokens: their weight, the key of the last one, and its column."""
    chosen = known & (rank < count)
    last = tl.sum(tl.where(known & (rank == count - 1), code, 0), axis=0)
    column = token_of_code(last) - start
    return tl.sum(tl.where(chosen, weight, 0), axis=0), key_of_code(last), tl.maximum(column, -1)


@triton.jit
def sum_told(message, row, rows, ranks, parts, WORD: tl.constexpr, PARTS: tl.constexpr):
    """The sum of one word over all parts of all ranks."""
    place = tl.arange(0, PARTS)
    part = ((place // parts).to(tl.int64) * rows + row) * parts + place % parts
    return tl.sum(tl.load(message + part * SUMS + WORD, mask=place < ranks * parts, other=0), axis=0)


@triton.jit
def best_told(message, row, rows, ranks, parts, PARTS: tl.constexpr):
    """The code of the token with the best score in all parts of all ranks; of equal scores, of the lowest token."""
    place = tl.arange(0, PARTS)
    part = ((place // parts).to(tl.int64) * rows + row) * parts + place % parts
    there = place < ranks * parts
    score = tl.load(message + part * SUMS + BEST, mask=there, other=NO_SCORE)
    code = tl.load(message + part * SUMS + BEST_CODE, mask=there, other=NO_CODE)
    best = score == tl.max(score, axis=0)
    winner = tl.min(tl.where(best, token_of_code(code), LAST_TOKEN), axis=0)
    return tl.max(tl.where(best & (token_of_code(code) == winner), code, NO_CODE), axis=0)


NOT_SPECIALIZED = [
    "start", "vocab", "rows", "ranks", "told", "filter_order", "given", *PARAMETER_NAMES, "parts"
]


@triton.jit(do_not_specialize=NOT_SPECIALIZED)
def settle(
    start, vocab, rows, ranks, told, filter_order, given,
    temperature_ptr, temperature_stride, temperature_bits, top_k_ptr, top_k_stride, top_k_scalar,
    top_p_ptr, top_p_stride, top_p_bits, min_p_ptr, min_p_stride, min_p_bits,
    seed_ptr, seed_stride, seed_low, seed_high, position_ptr, position_stride, position_low, position_high,
    heads, sums, parts, records, maxima, token_ids, num_kept, row_statuses, logprobs, log_z,
    SUMMED: tl.constexpr, TOLD_BEST: tl.constexpr, DRAW: tl.constexpr,
    RANKS: tl.constexpr, SLOTS: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Finds the kept set of each row, and writes the results. Grid (rows).

    The token is drawn from the first tokens if these are all that is kept, otherwise it is the best that was told.
    """
    row = tl.program_id(0).to(tl.int64)
    if row == 0:  # masks are made of whole rows: every group of tokens may reach the boundary
        tl.store(maxima + tl.arange(0, 32), tl.full([32], NAN_KEY, tl.int32))
    status, greedy, scale, top_k, top_p, min_weight, seed, position = effective_parameters(
        row, vocab, given, temperature_ptr, temperature_stride, temperature_bits, top_k_ptr, top_k_stride, top_k_scalar,
        top_p_ptr, top_p_stride, top_p_bits, min_p_ptr, min_p_stride, min_p_bits,
        seed_ptr, seed_stride, seed_low, seed_high, position_ptr, position_stride, position_low, position_high,
    )  # fmt: skip
    status |= row_status(heads, row, rows, ranks, told, RANKS)
    if status != 0:
        write_invalid(records, token_ids, num_kept, row_statuses, logprobs, log_z, row, status)
    else:
        code, known, weight, rank, before, largest = merge_heads(heads, row, rows, ranks, told, scale, RANKS, SLOTS)
        known_count = tl.sum(known.to(tl.int32), axis=0).to(tl.int64)
        known_weight = tl.sum(weight, axis=0)
        total, tokens = known_weight, known_count
        heavy_weight, heavy_count = known_weight, tl.sum((known & (weight >= min_weight)).to(tl.int64), axis=0)
        if SUMMED:
            total = sum_told(sums, row, rows, ranks, parts, TOTAL, PARTS)
            tokens = sum_told(sums, row, rows, ranks, parts, COUNT, PARTS)
            heavy_weight = sum_told(sums, row, rows, ranks, parts, HEAVY, PARTS)
            heavy_count = sum_told(sums, row, rows, ranks, parts, HEAVY_COUNT, PARTS)

        # What top-k keeps: the first tokens, or all.
        count = tl.where(top_k > 0, tl.minimum(top_k, tokens), tokens)
        kept, last_key, last_column = first_of(code, known, weight, rank, count, start)
        if count > known_count:
            kept, last_key, last_column = total, value_key(LOWEST_KEY), value_key(LAST_TOKEN)
        shared = tl.where(filter_order == ORDER_JOINT, total, kept)
        # Min-p.
        if heavy_count < count:
            count = heavy_count
            kept, last_key, last_column = first_of(code, known, weight, rank, count, start)
            if count > known_count:
                kept, last_column = heavy_weight, value_key(LAST_TOKEN)
                last_key = lowest_key_of(scale, largest, key_of_code(tl.max(code, axis=0)), min_weight)
        shared = tl.where(filter_order == ORDER_MIN_P_FIRST, kept, shared)
        # Top-p: calls with it have a top-k, so that the first tokens are all that may be kept.
        target = top_p_target(top_p, shared)
        if (target <= kept) & (target <= known_weight):
            count = tl.sum((known & (before < target)).to(tl.int64), axis=0)
            kept, last_key, last_column = first_of(code, known, weight, rank, count, start)

        winner = tl.full([], NO_CODE, tl.int64)
        if DRAW:
            if count <= known_count:
                token = draw_from_candidates(known & (rank < count), code, scale, largest, seed, position)
                winner = tl.sum(tl.where(known & (token_of_code(code) == token), code, 0), axis=0)
            elif TOLD_BEST:
                winner = best_told(sums, row, rows, ranks, parts, PARTS)
        logprob = log_probability(gap(value_of(key_of_code(winner)), largest, scale), kept)
        share = tl.where(greedy, 0.0, log_kept_mass(kept, total))
        write_outcome(
            records, token_ids, num_kept, row_statuses, logprobs, log_z, row, status, token_of_code(winner), count,
            logprob, share,
        )  # fmt: skip
        write_boundary(records, row, last_key, last_column)


@triton.jit
def value_key(key):
    """A constant key or column as a value."""
    return tl.full([], key, tl.int32)
