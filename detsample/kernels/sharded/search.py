"""The search for the last token of a prefix: a few bits of its sort key a round, then of this rank's column with that key.

A round has two kernels. `count_digits` adds up, for each value of the next bits, the tokens of a shard that agree with the
bits known so far. `narrow` takes what all ranks have added up and chooses the value behind which the goal is reached.
Tokens with the same key have the same weight, and those of lower ranks come first. So when the key is known, every rank
knows how many of its own tokens with that key belong to the prefix, and finds the last of them without the others.
"""

import triton
import triton.language as tl

from detsample.kernels.contract.weight import gap, weight
from detsample.kernels.sampling.rows import PARAMETER_NAMES
from detsample.kernels.sampling.tiles import LANES, TILE
from detsample.kernels.sharded.rows import (
    BEFORE,
    BY_WEIGHT,
    FOUND,
    GOAL,
    LOW,
    MOST_INT32,
    PREFIX,
    STATE,
    clear,
    columns_of_part,
    effective_parameters,
    largest_logit,
    load_columns,
    order_of,
)

NOT_SPECIALIZED = [
    "row_stride", "columns", "start", "vocab", "rows", "ranks", "told", "given", *PARAMETER_NAMES, "shift", "bits"
]


@triton.jit(do_not_specialize=NOT_SPECIALIZED, do_not_specialize_on_alignment=["logits"])
def count_digits(
    logits, row_stride, columns, start, vocab, rows, ranks, told, given,
    temperature_ptr, temperature_stride, temperature_bits, top_k_ptr, top_k_stride, top_k_scalar,
    top_p_ptr, top_p_stride, top_p_bits, min_p_ptr, min_p_stride, min_p_bits,
    seed_ptr, seed_stride, seed_low, seed_high, position_ptr, position_stride, position_low, position_high,
    heads, state, message, shift, bits,
    OF_COLUMNS: tl.constexpr, DIGITS: tl.constexpr, SHIFTED: tl.constexpr, RANKS: tl.constexpr, SLOTS: tl.constexpr,
):  # fmt: skip
    """Adds the number and the weight of a shard's tokens to those of their digit, `bits` wide from the bit `shift` on; if
    OF_COLUMNS, of the columns with the key that was found. Grid (rows, parts).
    """
    row = tl.program_id(0).to(tl.int64)
    state += row * STATE
    goal, by_weight, low = tl.load(state + GOAL), tl.load(state + BY_WEIGHT), tl.load(state + LOW)
    if goal > 0:
        _, _, scale, _, _, _, _, _ = effective_parameters(
            row, vocab, given,
            temperature_ptr, temperature_stride, temperature_bits, top_k_ptr, top_k_stride, top_k_scalar,
            top_p_ptr, top_p_stride, top_p_bits, min_p_ptr, min_p_stride, min_p_bits,
            seed_ptr, seed_stride, seed_low, seed_high, position_ptr, position_stride, position_low, position_high,
        )  # fmt: skip
        largest = largest_logit(heads, row, rows, ranks, told, RANKS, SLOTS)
        key = MOST_INT32 - tl.load(state + FOUND + by_weight * PREFIX + 2)
        message += row * 2 * DIGITS
        first, end = columns_of_part(start, columns, tl.num_programs(1), tl.program_id(1))
        for begin in range(first, end, TILE):
            x = load_columns(logits + row * row_stride, begin, columns, SHIFTED)
            place = order_of(x)
            inside = x > float("-inf")
            if OF_COLUMNS:
                inside = inside & (place == key)
                place = begin + tl.arange(0, LANES)[:, None].to(tl.int64) * 4 + tl.arange(0, 4)[None, :]
            inside = inside & ((place >> (shift + bits)) == low)
            digit = (place >> shift) & ((1 << bits) - 1)
            if tl.max(tl.max(inside.to(tl.int32), axis=1), axis=0) > 0:
                one = inside.to(tl.int64)
                tl.atomic_add(message + digit, one, mask=inside, sem="relaxed")
                if OF_COLUMNS == 0:
                    w = weight(gap(x, largest, scale))
                    tl.atomic_add(message + DIGITS + digit, w, mask=inside, sem="relaxed")


@triton.jit(do_not_specialize=["rows", "ranks", "own_rank", "bits"])
def narrow(
    rows, ranks, own_rank, bits, told_digits, state, message,
    OF_COLUMNS: tl.constexpr, LAST: tl.constexpr, DIGITS: tl.constexpr,
):  # fmt: skip
    """Chooses the next digit from what all ranks told, and clears this rank's message. With the LAST digit it writes the
    prefix, or if OF_COLUMNS its last column. Grid (rows).
    """
    row = tl.program_id(0).to(tl.int64)
    state += row * STATE
    goal, by_weight, low = tl.load(state + GOAL), tl.load(state + BY_WEIGHT), tl.load(state + LOW)
    found = state + FOUND + by_weight * PREFIX
    if goal > 0:
        before, weight_before = tl.load(state + BEFORE), tl.load(state + BEFORE + 1)
        digit = tl.arange(0, DIGITS)
        numbers, weights, lower = tl.zeros([DIGITS], tl.int64), tl.zeros([DIGITS], tl.int64), tl.zeros([DIGITS], tl.int64)
        for rank in range(ranks):
            of_rank = told_digits + (rank * rows + row) * 2 * DIGITS
            here = tl.load(of_rank + digit)
            numbers += here
            weights += tl.load(of_rank + DIGITS + digit)
            lower += tl.where(rank < own_rank, here, 0)
        weighs = (by_weight > 0) & (OF_COLUMNS == 0)
        reached = tl.cumsum(tl.where(weighs, weights, numbers), axis=0) + tl.where(weighs, weight_before, before)
        step = tl.minimum(tl.sum((reached < goal).to(tl.int32), axis=0), DIGITS - 1)
        before += tl.sum(tl.where(digit < step, numbers, 0), axis=0)
        weight_before += tl.sum(tl.where(digit < step, weights, 0), axis=0)
        low = (low << bits) | step.to(tl.int64)
        if LAST & OF_COLUMNS:
            tl.store(found + 3, low)
        elif LAST:
            ties = tl.sum(tl.where(digit == step, numbers, 0), axis=0)
            each = tl.sum(tl.where(digit == step, weights, 0), axis=0) // tl.maximum(ties, 1)
            taken = tl.where(
                by_weight > 0, (goal - weight_before + each - 1) // tl.maximum(each, 1), goal - before
            )
            own = tl.load(told_digits + (own_rank * rows + row) * 2 * DIGITS + digit)
            mine = tl.sum(tl.where(digit == step, own, 0), axis=0)
            earlier = tl.sum(tl.where(digit == step, lower, 0), axis=0)
            mine = tl.minimum(tl.maximum(taken - earlier, 0), mine)
            tl.store(found, before + taken)
            tl.store(found + 1, weight_before + taken * each)
            tl.store(found + 2, MOST_INT32 - low)
            tl.store(found + 3, tl.full([], -1, tl.int64))
            # The same search goes on for the column, by number and without weights.
            tl.store(state + GOAL, mine)
            low, before, weight_before = low * 0, low * 0, low * 0
        tl.store(state + LOW, low)
        tl.store(state + BEFORE, before)
        tl.store(state + BEFORE + 1, weight_before)
    tl.debug_barrier()  # every lane has read what a group of one rank may have gathered in place
    clear(message + row * 2 * DIGITS, DIGITS)
