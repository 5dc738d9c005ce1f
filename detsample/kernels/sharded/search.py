"""The search for the last token of a prefix: between two places of the order, some bits of the distance in each round.

A round has two kernels. `count_digits` adds up the tokens of a shard for each of DIGIT_VALUES equal parts of the places
in question. `narrow` takes what all ranks have added up, and chooses the part in which the goal is reached. When one
place is left, its tokens have the same logit and so the same weight, and those of lower ranks come first. So every
rank knows how many of its own belong to the prefix.
"""

import triton
import triton.language as tl

from detsample.kernels.contract.order import LAST_TOKEN, key_of
from detsample.kernels.contract.weight import gap, weight
from detsample.kernels.sampling.rows import PARAMETER_NAMES
from detsample.kernels.sampling.tiles import TILE
from detsample.kernels.sharded.rows import (
    BASE,
    BEFORE,
    BY_WEIGHT,
    DIGIT_VALUES,
    FOUND,
    GOAL,
    MOST_INT32,
    PREFIX,
    STATE,
    WIDTH,
    clear,
    columns_of_part,
    effective_parameters,
    largest_logit,
    load_columns,
    place_of,
)

SCANNED = tl.constexpr(4096)  # columns that are looked at together where only some of equal tokens belong to the prefix
NOT_SPECIALIZED = ["row_stride", "columns", "start", "vocab", "rows", "ranks", "told", "given", *PARAMETER_NAMES]


@triton.jit
def shift_of(width):
    """How many bits of a place within `width` places are below a digit."""
    shift = width * 0
    for bit in tl.static_range(32):
        shift += tl.where(((width - 1) >> bit) >= DIGIT_VALUES, 1, 0)
    return shift


@triton.jit(do_not_specialize=NOT_SPECIALIZED, do_not_specialize_on_alignment=["logits"])
def count_digits(
    logits, row_stride, columns, start, vocab, rows, ranks, told, given,
    temperature_ptr, temperature_stride, temperature_bits, top_k_ptr, top_k_stride, top_k_scalar,
    top_p_ptr, top_p_stride, top_p_bits, min_p_ptr, min_p_stride, min_p_bits,
    seed_ptr, seed_stride, seed_low, seed_high, position_ptr, position_stride, position_low, position_high,
    heads, state, message,
    SHIFTED: tl.constexpr, RANKS: tl.constexpr, SLOTS: tl.constexpr,
):  # fmt: skip
    """Adds the number and the weight of a shard's tokens to those of their digit. Grid (rows, parts)."""
    row = tl.program_id(0).to(tl.int64)
    state += row * STATE
    base, width = tl.load(state + BASE), tl.load(state + WIDTH)
    if tl.load(state + GOAL) > 0:
        _, _, scale, _, _, _, _, _ = effective_parameters(
            row, vocab, given,
            temperature_ptr, temperature_stride, temperature_bits, top_k_ptr, top_k_stride, top_k_scalar,
            top_p_ptr, top_p_stride, top_p_bits, min_p_ptr, min_p_stride, min_p_bits,
            seed_ptr, seed_stride, seed_low, seed_high, position_ptr, position_stride, position_low, position_high,
        )  # fmt: skip
        largest = largest_logit(heads, row, rows, ranks, told, RANKS, SLOTS)
        shift = shift_of(width)
        message += row * 2 * DIGIT_VALUES
        first, end = columns_of_part(start, columns, tl.num_programs(1), tl.program_id(1))
        for begin in range(first, end, TILE):
            x = load_columns(logits + row * row_stride, begin, columns, SHIFTED)
            place = place_of(key_of(x)) - base
            inside = (place >= 0) & (place < width) & (x > float("-inf"))
            if tl.max(tl.max(inside.to(tl.int32), axis=1), axis=0) > 0:
                digit = (place >> shift) & (DIGIT_VALUES - 1)
                w = weight(gap(x, largest, scale))
                tl.atomic_add(message + digit, inside.to(tl.int64), mask=inside, sem="relaxed")
                tl.atomic_add(message + DIGIT_VALUES + digit, w, mask=inside, sem="relaxed")


@triton.jit
def column_of_tie(row_logits, columns, key, number):
    """The column of this shard's tie with this number, from 1, among the tokens with a key."""
    found = tl.full([], -1, tl.int32)
    seen = tl.zeros([], tl.int32)
    start = 0
    while (found < 0) & (start < columns):
        column = start + tl.arange(0, SCANNED)
        x = tl.load(row_logits + column, mask=column < columns, other=float("-inf")).to(tl.float32)
        tied = key_of(x) == key
        place = tl.cumsum(tied.to(tl.int32), axis=0) + seen
        found = tl.max(tl.where(tied & (place == number), column, -1), axis=0)
        seen += tl.sum(tied.to(tl.int32), axis=0)
        start += SCANNED
    return found


@triton.jit(
    do_not_specialize=["row_stride", "columns", "rows", "ranks", "own_rank"], do_not_specialize_on_alignment=["logits"]
)
def narrow(logits, row_stride, columns, rows, ranks, own_rank, told_digits, state, message, LAST: tl.constexpr):
    """Chooses the next digit from what all ranks told, and clears this rank's message; with the LAST digit, writes
    the prefix. Grid (rows).
    """
    row = tl.program_id(0).to(tl.int64)
    state += row * STATE
    goal, by_weight, width = tl.load(state + GOAL), tl.load(state + BY_WEIGHT), tl.load(state + WIDTH)
    if goal > 0:
        base, before, weight_before = tl.load(state + BASE), tl.load(state + BEFORE), tl.load(state + BEFORE + 1)
        digit = tl.arange(0, DIGIT_VALUES)
        numbers, weights = tl.zeros([DIGIT_VALUES], tl.int64), tl.zeros([DIGIT_VALUES], tl.int64)
        lower = tl.zeros([DIGIT_VALUES], tl.int64)
        for rank in range(ranks):
            of_rank = told_digits + (rank * rows + row) * 2 * DIGIT_VALUES
            here = tl.load(of_rank + digit)
            numbers += here
            weights += tl.load(of_rank + DIGIT_VALUES + digit)
            lower += tl.where(rank < own_rank, here, 0)
        reached = tl.cumsum(tl.where(by_weight > 0, weights, numbers), axis=0)
        reached += tl.where(by_weight > 0, weight_before, before)
        step = tl.minimum(tl.sum((reached < goal).to(tl.int32), axis=0), DIGIT_VALUES - 1)
        before += tl.sum(tl.where(digit < step, numbers, 0), axis=0)
        weight_before += tl.sum(tl.where(digit < step, weights, 0), axis=0)
        shift = shift_of(width)
        behind = step.to(tl.int64) << shift
        base += behind
        tl.store(state + BASE, base)
        tl.store(state + WIDTH, tl.minimum((behind * 0 + 1) << shift, width - behind))
        tl.store(state + BEFORE, before)
        tl.store(state + BEFORE + 1, weight_before)
        if LAST:
            ties = tl.sum(tl.where(digit == step, numbers, 0), axis=0)
            each = tl.sum(tl.where(digit == step, weights, 0), axis=0) // tl.maximum(ties, 1)
            by_each = (goal - weight_before + each - 1) // tl.maximum(each, 1)
            taken = tl.where(by_weight > 0, by_each, goal - before)
            own = tl.load(told_digits + (own_rank * rows + row) * 2 * DIGIT_VALUES + digit)
            mine = tl.sum(tl.where(digit == step, own, 0), axis=0)
            taken_here = taken - tl.sum(tl.where(digit == step, lower, 0), axis=0)
            key = (-base + MOST_INT32).to(tl.int32)
            column = tl.where(taken_here >= mine, LAST_TOKEN, -1)
            if (taken_here > 0) & (taken_here < mine):
                column = column_of_tie(logits + row * row_stride, columns, key, taken_here)
            found = state + FOUND + by_weight * PREFIX
            tl.store(found, before + taken)
            tl.store(found + 1, weight_before + taken * each)
            tl.store(found + 2, key.to(tl.int64))
            tl.store(found + 3, column.to(tl.int64))
    tl.debug_barrier()  # every lane has read what a group of one rank may have gathered in place
    clear(message + row * 2 * DIGIT_VALUES)
