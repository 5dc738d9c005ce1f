"""Kernel 3, grid (rows, parts): a second guess, for rows where that of `mass` missed the boundary or listed too much.

What the row weighs above and below the first interval is known exactly by now, so the second guess starts from close
by; launched once more, the third. Rows that need none leave at once; where all miss, `wide` searches the whole row.
"""

import triton
import triton.language as tl

from detsample.kernels.candidates import LIST, top_p_target
from detsample.kernels.mass import largest_key, sum_around, sum_parts, write_interval
from detsample.kernels.order import value_of
from detsample.kernels.pivots import RUNGS, interval_again, rate_of
from detsample.kernels.rows import (
    ABOVE,
    DRAWABLE,
    GREEDY,
    INTERVAL,
    LISTS,
    MIN_WEIGHT,
    MODE,
    NO_INTERVAL,
    PENDING,
    POSITION,
    REACHED,
    RECORD,
    SEED,
    STATUS,
    SUMS,
    TOP_K,
    WANT_TOKEN,
    read_field,
    read_floats,
)
from detsample.kernels.scan import is_in_doubt
from detsample.kernels.tiles import MOST_SEGMENTS, groups_of_segment
from detsample.kernels.weight import scaled_logit


@triton.jit
def share_of(part, whole):
    return (part.to(tl.float64) / tl.maximum(whole, 1).to(tl.float64)).to(tl.float32)


NOT_SPECIALIZED = [
    "row_stride", "vocab", "quads", "segment_tiles", "segments", "segments_of_part", "parts", "want", "attempt",
]  # fmt: skip


@triton.jit(do_not_specialize=NOT_SPECIALIZED)
def retry(
    logits, row_stride, vocab, quads, segment_tiles, segments, segments_of_part, parts, want, attempt,
    records, group_bound, part_key, part_masses, part_counts, listed, list_token, row_pivots, part_rungs,
    ALIGNED: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    if ALIGNED:
        row_stride = (row_stride // 16) * 16
    row_logits = logits + row * row_stride
    scale, top_p = read_floats(records, row)
    top_k = read_field(records, row, TOP_K)
    before = attempt - 1
    interval = tl.load(records + row * RECORD + INTERVAL + before)
    pending = (read_field(records, row, STATUS) == PENDING) & (interval != NO_INTERVAL)
    if is_in_doubt(top_k, top_p) & pending:
        unlimited = top_k == 0
        whole = sum_parts(part_counts, row, parts, DRAWABLE).to(tl.int64)
        above_at = ABOVE + 2 * before
        reached_at = REACHED + 2 * before
        above = sum_parts(part_counts, row, parts, above_at).to(tl.int64)
        reached = sum_parts(part_counts, row, parts, reached_at).to(tl.int64)
        goal = tl.minimum(top_k, whole)
        if unlimited:
            whole = sum_parts(part_masses, row, parts, DRAWABLE)
            above = sum_parts(part_masses, row, parts, above_at)
            reached = sum_parts(part_masses, row, parts, reached_at)
            goal = top_p_target(top_p, whole)
        low_key, high_key = interval.to(tl.int32), (interval >> 32).to(tl.int32)
        hit = (above < goal) & (goal <= reached)
        settled = hit & ((tl.load(listed + row * LISTS + before) <= LIST) | (low_key.to(tl.int64) + 1 >= high_key))
        if settled == 0:
            top = value_of(largest_key(part_key, row, parts))
            largest = scaled_logit(top, scale)
            min_weight = read_field(records, row, MIN_WEIGHT)
            mode = read_field(records, row, MODE)
            high, low = interval_again(
                row_pivots + row * RUNGS, part_rungs, row, parts, rate_of(scale, unlimited), share_of(goal, whole), top,
                value_of(high_key), value_of(low_key), share_of(above, whole), share_of(reached, whole),
                sum_parts(part_counts, row, parts, reached_at).to(tl.int64), MOST_SEGMENTS,
            )  # fmt: skip
            by_min_p = unlimited & (min_weight > 0)
            bounds_here = (high < float("inf")) & (by_min_p == 0) & ((want & WANT_TOKEN) != 0)
            if part == 0:
                write_interval(records, row, attempt, low, high, bounds_here, tl.where(by_min_p, mode, mode & GREEDY))
            first_segment = part * segments_of_part
            last_segment = tl.minimum(first_segment + segments_of_part, segments)
            _, mass_above, count_above, mass_reached, count_reached = sum_around(
                row_logits, vocab, first_segment, last_segment, quads, segment_tiles, scale, largest, low, high,
                bounds_here, read_field(records, row, SEED), read_field(records, row, POSITION),
                group_bound + row * segments * groups_of_segment(quads),
                listed + row * LISTS + attempt, list_token + row * LIST,
            )  # fmt: skip
            at = (row * parts + part) * SUMS
            tl.store(part_masses + at + ABOVE + 2 * attempt, mass_above)
            tl.store(part_masses + at + REACHED + 2 * attempt, mass_reached)
            tl.store(part_counts + at + ABOVE + 2 * attempt, count_above)
            tl.store(part_counts + at + REACHED + 2 * attempt, count_reached)
