"""What an interval of values holds, exactly, and whether that is enough to know where the row's boundary is.

The programs of a row add their integer sums with atomics, in any order. The last one to arrive judges the interval.
Either the boundary lies in it and all its tokens are listed, or the row gets another interval and is put on the list of
missed rows.
"""

import triton
import triton.language as tl

from detsample.kernels.contract.fraction import top_p_target
from detsample.kernels.contract.order import INF_KEY, key_of, value_of
from detsample.kernels.contract.weight import gap, weight
from detsample.kernels.sampling.boundary.guess import (
    SPREAD_AGAIN,
    interval_keys,
    interval_of_list,
    interval_of_sample,
    spread_tokens,
)
from detsample.kernels.sampling.boundary.pivots import FLT_MAX, rate_of
from detsample.kernels.sampling.candidates import LIST
from detsample.kernels.sampling.compaction import TILES_MARKED, list_marked, mark_tile, no_marks, number_marked
from detsample.kernels.sampling.rows import (
    ABOVE,
    ABOVE_COUNT,
    AROUND,
    ARRIVED,
    COUNT,
    INTERVAL,
    LISTED,
    MEASURES,
    MIN_P_FIRST,
    MINIMUM,
    MODE,
    REACHED,
    REACHED_COUNT,
    RECORD,
    RETRIES,
    SUMS,
    TOP_K,
    TOP_KEY,
    TOTAL,
    add_to_sum,
    end_of,
    join_words,
    list_row,
    read_field,
    read_floats,
    read_interval,
    read_sum,
)
from detsample.kernels.sampling.tiles import (
    LANES,
    PASSING,
    TILE,
    load_tile,
    next_tile,
)


@triton.jit
def sum_around(row_logits, vocab, first_tile, last_tile, scale, largest, low, high, listing, listed, list_token):
    """(weight of all tokens; weight and number of those that reach `high`; the same for `low`), over some tiles. If
    `listing`, the tokens in between are listed, as long as the list has room.
    """
    total = tl.zeros([LANES], tl.int64)
    above, reached = tl.zeros([LANES], tl.int64), tl.zeros([LANES], tl.int64)
    above_count, between = tl.zeros([LANES], tl.int32), tl.zeros([LANES], tl.int32)
    end = tl.minimum(last_tile * TILE, vocab)
    ahead = load_tile(row_logits, first_tile * TILE, end, PASSING)
    for first in range(first_tile, last_tile, TILES_MARKED):
        tiles = tl.minimum(last_tile - first, TILES_MARKED)
        marks = no_marks()
        start = first * TILE
        for _ in range(tiles):
            x, ahead = next_tile(ahead, row_logits, start + TILE, end, PASSING)
            w = weight(gap(x, largest, scale))
            total += tl.sum(w, axis=1)
            above += tl.sum(tl.where(x >= high, w, 0), axis=1)
            above_count += tl.sum((x >= high).to(tl.int32), axis=1)
            reached += tl.sum(tl.where(x >= low, w, 0), axis=1)
            marks = mark_tile(marks, (x >= low) & (x < high))
            start += TILE
        if listing:
            # This is judged by what this program has listed, not by the list's length. Other programs change that, so
            # warps would read different numbers, and some would miss the barriers below (wrong sums, seen on an H100).
            if tl.sum(between, axis=0) <= LIST:
                list_marked(marks, first * TILE, tiles, listed, list_token)
        between += number_marked(marks)
    above_count = tl.sum(above_count, axis=0)
    return (
        tl.sum(total, axis=0), tl.sum(above, axis=0), above_count,
        tl.sum(reached, axis=0), above_count + tl.sum(between, axis=0),
    )  # fmt: skip


@triton.jit
def is_settled(above, reached, goal, count, low_key, end_key):
    """Whether the boundary lies in the interval, and its tokens are either all listed or all equal."""
    return (above < goal) & (goal <= reached) & ((count <= LIST) | (low_key.to(tl.int64) + 1 >= end_key))


@triton.jit
def share_of(part, whole):
    """part / whole as fp32. The division is made in fp64, because no fp32 division is the same everywhere."""
    return (part.to(tl.float64) / tl.maximum(whole, 1).to(tl.float64)).to(tl.float32)


@triton.jit
def units_of(measure, top_k):
    """A number of tokens as it is, and a weight in units of the largest logit's, 2^40, as fp32."""
    return (measure.to(tl.float64) * tl.where(top_k == 0, 9.094947017729282e-13, 1.0)).to(tl.float32)


@triton.jit
def judge(
    row_logits, vocab, records, sums, missed, list_token, row, rows, attempt, scale, top_p, low_key, high_key, top_key
):  # fmt: skip
    """Decides about a row: either it is settled, or it gets another interval, and its number goes on the list of missed
    rows.
    """
    top_k = read_field(records, row, TOP_K)
    around = attempt * MEASURES + AROUND
    above_count = read_sum(sums, row, around + ABOVE_COUNT)
    reached_count = read_sum(sums, row, around + REACHED_COUNT)
    whole = read_field(records, row, COUNT)
    above, reached, goal = above_count, reached_count, tl.minimum(top_k, whole)
    if top_k == 0:
        whole = read_sum(sums, row, TOTAL)
        above = read_sum(sums, row, around + ABOVE)
        reached = read_sum(sums, row, around + REACHED)
        goal = top_p_target(top_p, whole)
        if (read_field(records, row, MODE) & MIN_P_FIRST) != 0:
            goal = top_p_target(top_p, read_sum(sums, row, MINIMUM))
    count = reached_count - above_count
    end_key = end_of(high_key, top_key)
    if is_settled(above, reached, goal, count, low_key, end_key) == 0:
        if (above < goal) & (goal <= reached):
            listed = tl.minimum(read_sum(sums, row, around + LISTED), LIST).to(tl.int32)
            first_key, next_key = interval_of_list(
                row_logits, list_token, listed, share_of(goal - above, reached - above), count, low_key, end_key,
                rate_of(scale, top_k == 0), attempt + 1 == RETRIES,
            )  # fmt: skip
            interval = interval_keys(first_key.to(tl.int32), next_key.to(tl.int32), top_k)
        elif (above >= goal) & (above_count <= LIST):  # what lies above the interval fits a list
            interval = join_words(high_key, low_key * 0 + INF_KEY)
        else:
            # The boundary is on one side of the interval, and from the interval's end on the row is known.
            too_high = above >= goal
            end = value_of(tl.where(too_high, high_key, low_key))
            least, most = tl.where(too_high, end, -FLT_MAX), tl.where(too_high, FLT_MAX, end)
            high, low = interval_of_sample(
                spread_tokens(row_logits, vocab, attempt + 1, SPREAD_AGAIN), vocab, value_of(top_key), least, most, end,
                units_of(goal - tl.where(too_high, above, reached), top_k), rate_of(scale, top_k == 0),
            )  # fmt: skip
            high = tl.where(too_high, tl.where(high > end, high, float("inf")), tl.minimum(high, end))
            low = tl.where(too_high, low, tl.where(low < end, low, -FLT_MAX))
            interval = interval_keys(key_of(low), key_of(high), top_k)
        tl.store(records + row * RECORD + INTERVAL + attempt + 1, interval)
        list_row(missed, row, rows, attempt + 1)


@triton.jit
def measure(
    row_logits, vocab, first_tile, last_tile, programs, records, sums, missed, list_token, row, rows, attempt
):  # fmt: skip
    """Adds the sums of some tiles for the interval number `attempt`, and lists its tokens. The last of the row's
    `programs` to get here judges the interval.
    """
    scale, top_p = read_floats(records, row)
    low_key, high_key = read_interval(records, row, attempt)
    top_key = read_field(records, row, TOP_KEY).to(tl.int32)
    largest = value_of(top_key)
    around = attempt * MEASURES + AROUND
    # Tokens of one value need no list.
    listing = low_key.to(tl.int64) + 1 < end_of(high_key, top_key)
    total, above, above_count, reached, reached_count = sum_around(
        row_logits, vocab, first_tile, last_tile, scale, largest, value_of(low_key), value_of(high_key), listing,
        sums + row * SUMS + around + LISTED, list_token,
    )  # fmt: skip
    if attempt == 0:
        add_to_sum(sums, row, TOTAL, total)
    add_to_sum(sums, row, around + ABOVE, above)
    add_to_sum(sums, row, around + ABOVE_COUNT, above_count)
    add_to_sum(sums, row, around + REACHED, reached)
    add_to_sum(sums, row, around + REACHED_COUNT, reached_count)
    tl.debug_barrier()
    arrived = tl.atomic_add(sums + row * SUMS + around + ARRIVED, 1, sem="acq_rel")
    if (arrived == programs - 1) & (attempt < RETRIES):
        judge(
            row_logits, vocab, records, sums, missed, list_token, row, rows, attempt, scale, top_p, low_key, high_key,
            top_key,
        )  # fmt: skip
