"""Kernel 1, grid (rows, parts): reads every logit once, and leaves what tells later kernels where to look.

For each group of tokens it leaves the key of the largest logit. For rows that are wide, and whose kept set is likely to
hold the best score of all, it also leaves a bound that no score of the group exceeds, and -inf for others; there is
time to compute it while the row is read. For each part of a row it leaves the largest key, how many of its tokens can
be drawn and, for rows with top-p alone or a large top-k, rough sums. Part 0 also writes the row's record, and the zeros
that later kernels add to.
"""

import triton
import triton.language as tl

from detsample.kernels.contract.order import key_of
from detsample.kernels.sampling.boundary.pivots import (
    FLAT,
    PIVOTS,
    RUNGS,
    is_in_doubt,
    is_weighed,
    pick,
    pivots_of_sample,
    rate_of,
    reaching,
    reaching_lower,
    rough_weight,
    sample_of_row,
)
from detsample.kernels.sampling.dependent_launch import wait_for_earlier
from detsample.kernels.sampling.rows import (
    AIMED,
    BOUNDED,
    BY_SHARE,
    COUNTERS,
    FLOATS,
    GREEDY,
    INTERVAL,
    MIN_P_FIRST,
    MIN_WEIGHT,
    MODE,
    NO_INTERVAL,
    PARAMETER_NAMES,
    PENDING,
    POSITION,
    RECORD,
    RETRIES,
    SEED,
    STATUS,
    SUMS,
    TOP_K,
    WANT_KEPT,
    WANT_TOKEN,
    inverse_temperature,
    join_words,
    minimum_weight,
    order_mode,
    parameter_status,
    row_parameters,
)
from detsample.kernels.sampling.score_bounds import tile_bound
from detsample.kernels.sampling.tiles import (
    LANES,
    PASSING,
    TILE,
    groups_of_segment,
    load_tile,
    logits_of_row,
    next_tile,
    split_quads,
    store_groups,
)


@triton.jit
def largest_of_quad(x0, x1, x2, x3):
    """The largest logit of each quad, [LANES]. A NaN anywhere in a quad gives NaN, so that invalid rows are found at no
    extra cost.
    """
    all_nans: tl.constexpr = tl.PropagateNan.ALL
    upper = tl.maximum(x0, x1, propagate_nan=all_nans)
    return tl.maximum(upper, tl.maximum(x2, x3, propagate_nan=all_nans), propagate_nan=all_nans)


@triton.jit
def drawable(x):
    """1 for tokens that can be drawn, which are those above -inf, and 0 for others, as int32."""
    return (x > float("-inf")).to(tl.int32)


@triton.jit
def start_record(records, row, seed, position, top_k, min_weight, scale, top_p, status, mode):
    """Writes what later kernels need of a row's parameters into its record. The fields that `settle` writes are left
    alone.
    """
    record = records + row * RECORD
    tl.store(record + SEED, seed)
    tl.store(record + POSITION, position)
    tl.store(record + TOP_K, top_k)
    tl.store(record + MIN_WEIGHT, min_weight)
    tl.store(record + FLOATS, join_words(scale.to(tl.int32, bitcast=True), top_p.to(tl.int32, bitcast=True)))
    tl.store(record + STATUS, (status | PENDING).to(tl.int64))
    tl.store(record + MODE, mode.to(tl.int64))
    tl.store(record + INTERVAL + 1 + tl.arange(0, RETRIES), tl.full([RETRIES], NO_INTERVAL, tl.int64))


@triton.jit
def start_sums(sums, missed, row):
    """Writes the zeros that later kernels add to."""
    each = tl.arange(0, 32)
    tl.store(sums + row * SUMS + each, tl.zeros([32], tl.int64), mask=each < SUMS)
    if row == 0:
        tl.store(missed + tl.arange(0, COUNTERS), tl.zeros([COUNTERS], tl.int32))


@triton.jit
def store_rungs(rungs, rough0, rough1, rough2, rough3):
    """Stores the rough sums of a part, of what reaches each pivot, from one value for each lane."""
    tl.store(rungs, tl.sum(rough0, axis=0))
    tl.store(rungs + 1, tl.sum(rough1, axis=0))
    tl.store(rungs + 2, tl.sum(rough2, axis=0))
    tl.store(rungs + 3, tl.sum(rough3, axis=0))


NOT_SPECIALIZED = [
    "row_stride", "allowed_stride", "vocab", "quads", "segment_tiles", "segments", "segments_of_part", "parts",
    "stretches", "segments_of_stretch", "want", "filter_order", "given",
    *PARAMETER_NAMES, "pitch",
]  # fmt: skip


@triton.jit(do_not_specialize=NOT_SPECIALIZED, do_not_specialize_on_alignment=["logits", "allowed"])
def summarize(
    logits, row_stride, allowed, allowed_stride,
    vocab, quads, segment_tiles, segments, segments_of_part, parts, stretches, segments_of_stretch,
    want, filter_order, given,
    temperature_ptr, temperature_stride, temperature_bits, top_k_ptr, top_k_stride, top_k_scalar,
    top_p_ptr, top_p_stride, top_p_bits, min_p_ptr, min_p_stride, min_p_bits,
    seed_ptr, seed_stride, seed_low, seed_high, position_ptr, position_stride, position_low, position_high,
    records, sums, missed, group_key, pitch, group_bound, part_key, part_counts, row_pivots, part_rungs,
    ALIGNED: tl.constexpr, OVERLAP: tl.constexpr, ALLOWED: tl.constexpr,
):  # fmt: skip
    """Reads every logit once and writes the summaries that later kernels start from (spec sections 2 to 5).

    Grid (rows, parts).
    """
    wait_for_earlier(OVERLAP)
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    row_logits = logits_of_row(logits, row, row_stride, allowed, allowed_stride, ALIGNED, ALLOWED)
    first_segment = part * segments_of_part
    last_segment = tl.minimum(first_segment + segments_of_part, segments)
    start = first_segment * segment_tiles * TILE
    end = tl.minimum(last_segment * segment_tiles * TILE, vocab)
    ahead = load_tile(row_logits, start, end, PASSING)

    temperature, top_k, top_p, min_p, seed, position = row_parameters(
        row, given, temperature_ptr, temperature_stride, temperature_bits, top_k_ptr, top_k_stride, top_k_scalar,
        top_p_ptr, top_p_stride, top_p_bits, min_p_ptr, min_p_stride, min_p_bits,
        seed_ptr, seed_stride, seed_low, seed_high, position_ptr, position_stride, position_low, position_high,
    )  # fmt: skip
    status = parameter_status(temperature, top_p, min_p, position)
    greedy = (temperature == 0.0) | (status != 0)  # later kernels find nothing to do for an invalid row
    scale = inverse_temperature(temperature)
    top_k = tl.where((top_k > 0) & (top_k < vocab), top_k, 0)
    top_k = tl.where(greedy, 1, top_k)
    min_weight = tl.where(greedy, 0, minimum_weight(min_p))
    top_p = tl.where(greedy, 1.0, top_p)
    mode = order_mode(filter_order, top_k, top_p, min_weight)
    weighed = is_weighed(mode, top_k, top_p)
    in_doubt = is_in_doubt(top_k, top_p)
    rate = rate_of(scale, weighed)
    reference = tl.full([], 0.0, tl.float32)
    pivots = tl.full([PIVOTS], float("-inf"), tl.float32)
    flat = top_p >= 1.0
    if weighed:
        values, measure, reference, whole, squares = sample_of_row(row_logits, vocab, rate)
        flat = in_doubt & (whole * whole >= squares * FLAT)
        if flat:
            pivots = pivots_of_sample(values, measure, reference, whole, squares, top_p)
        if part == 0:
            tl.store(row_pivots + row * RUNGS + tl.arange(0, PIVOTS), pivots)
            tl.store(row_pivots + row * RUNGS + PIVOTS, reference)
    # A share p of the weight holds the row's best score with the probability p: worth it from a half on. Rows that are
    # not flat are drawn from a list.
    likely = (top_k == 0) & (min_weight == 0) & (top_p >= 0.5) & flat
    bounds_here = likely & (status == 0) & ((want & WANT_TOKEN) != 0)
    flat = flat & weighed
    drawn_first = flat & bounds_here & ((want & WANT_KEPT) == 0)

    if part == 0:
        mode |= tl.where(greedy, GREEDY, 0) | tl.where(bounds_here, BOUNDED, 0) | tl.where(in_doubt, AIMED, 0)
        mode |= tl.where(weighed & ((mode & MIN_P_FIRST) == 0), BY_SHARE, 0)
        start_record(records, row, seed, position, top_k, min_weight, scale, top_p, status, mode)
        start_sums(sums, missed, row)

    p0, p1, p2, p3 = pick(pivots, 0), pick(pivots, 1), pick(pivots, 2), pick(pivots, 3)
    rough0, rough1 = tl.zeros([LANES], tl.float32), tl.zeros([LANES], tl.float32)
    rough2, rough3 = tl.zeros([LANES], tl.float32), tl.zeros([LANES], tl.float32)
    rough = tl.zeros([LANES], tl.float32)

    part_largest = tl.full([LANES], float("-inf"), tl.float32)
    group_bound += row * stretches * groups_of_segment(quads)
    count = tl.zeros([LANES], tl.int32)
    bound = tl.full([LANES], float("-inf"), tl.float32)
    for segment in range(first_segment, last_segment):
        largest = tl.full([LANES], float("-inf"), tl.float32)
        for _ in range(segment_tiles):
            x, ahead = next_tile(ahead, row_logits, start + TILE, end, PASSING)
            x0, x1, x2, x3 = split_quads(x)
            largest = tl.maximum(largest, largest_of_quad(x0, x1, x2, x3), propagate_nan=tl.PropagateNan.ALL)
            count += drawable(x0) + drawable(x1) + drawable(x2) + drawable(x3)
            if bounds_here:
                bound = tl.maximum(bound, tile_bound(x0, x1, x2, x3, start, 0.0, scale, seed, position))
            if weighed:
                w = rough_weight(x, reference, rate)
                rough += tl.sum(w, axis=1)
                if flat:
                    rough2 += reaching_lower(x, w, p2)  # the pivot number ANCHOR, from which guesses start
                if drawn_first:
                    rough0 += reaching(x, w, p0)
                    rough1 += reaching(x, w, p1)
                    rough3 += reaching_lower(x, w, p3)
            start += TILE
        store_groups(group_key + row * pitch, segment, key_of(largest), quads)
        ends = ((segment + 1) % segments_of_stretch == 0) | (segment + 1 == last_segment)
        if ends:
            store_groups(group_bound, segment // segments_of_stretch, bound, quads)
            bound = tl.full([LANES], float("-inf"), tl.float32)
        part_largest = tl.maximum(part_largest, largest, propagate_nan=tl.PropagateNan.ALL)
    if weighed:
        part_rungs += (row * parts + part) * RUNGS
        tl.store(part_rungs + PIVOTS, tl.sum(rough, axis=0))
        if flat:
            store_rungs(part_rungs, rough0, rough1, rough2, rough3)
    tl.store(part_key + row * parts + part, tl.max(key_of(part_largest), axis=0))
    tl.store(part_counts + row * parts + part, tl.sum(count, axis=0))
