"""Kernel 2, grid (rows, parts): sums of weights over the row, which need its largest logit first, hence a second look.

For each part: the weight of all tokens; where min-p is on, also the weight, the number and the smallest key of
the tokens it keeps, and bounds of their scores, group by group, as `scan` leaves them for other rows; where the
boundary seems to lie among thousands of tokens, what reaches each of four pivots around it. Integer sums, so
parts can be added in any order. A row needs this for its log probability where no top-k is on, for a large
top-k, for top-p alone, for min-p alone and for log_z.
"""

import triton
import triton.language as tl

from detsample.kernels.candidates import CAPACITY
from detsample.kernels.order import MINUS_INF_KEY, key_of, value_of
from detsample.kernels.pivots import PIVOTS, pivot_at, pivots_of_groups, pivots_of_sample, sample_keys
from detsample.kernels.rows import (
    BOUNDED,
    MIN_WEIGHT,
    MODE,
    PENDING,
    POSITION,
    SEED,
    STATUS,
    TOP_K,
    WANT_LOG_Z,
    WANT_LOGPROBS,
    read_field,
    read_floats,
)
from detsample.kernels.scan import tile_bound
from detsample.kernels.tiles import (
    GROUPS,
    LANES,
    MOST_GROUPS,
    MOST_SEGMENTS,
    TILE,
    fold_groups,
    load_span,
    load_tile,
    split_quads,
)
from detsample.kernels.weight import scaled_logit, weight

FEW_OF_SAMPLE = tl.constexpr(32)
NO_KEY = tl.constexpr(0x7FFFFFFF)


@triton.jit
def largest_key(part_key, row, parts):
    """The key of the row's largest logit, from what `scan` left."""
    part = tl.arange(0, MOST_SEGMENTS)
    return tl.max(tl.load(part_key + row * parts + part, mask=part < parts, other=-2147483648), axis=0)


@triton.jit
def needs_mass(records, row, want):
    """Whether `mass` sums this row: exactly the rows for which somebody reads the sums."""
    _, top_p = read_floats(records, row)
    unlimited = read_field(records, row, TOP_K) == 0
    filtered = (top_p < 1.0) | (read_field(records, row, MIN_WEIGHT) > 0)
    for_cut = (unlimited & (filtered | ((want & WANT_LOGPROBS) != 0))) | (read_field(records, row, TOP_K) > CAPACITY)
    return (for_cut | ((want & WANT_LOG_Z) != 0)) & (read_field(records, row, STATUS) == PENDING)


@triton.jit
def wanted_share(top_k, top_p, vocab):
    """The share of the row, in tokens where top-k is on and in weight otherwise, that its kept prefix is
    expected to hold.
    """
    return tl.where(top_k > 0, (top_k.to(tl.float64) / vocab.to(tl.float64)).to(tl.float32), tl.maximum(top_p, 0.0))


@triton.jit
def sum_all(row_logits, first, last, vocab, scale, largest):
    """The weight of the tokens from `first` on, before `last`."""
    total = tl.zeros([TILE], tl.int64)
    for start in range(first, last, TILE):
        total += weight(largest - scaled_logit(load_span(row_logits, start, vocab, TILE), scale))
    return tl.sum(total, axis=0)


@triton.jit
def reaching(key, w, pivot):
    """For each quad how many of its tokens reach the pivot, and their weight."""
    reaches = key >= pivot
    return tl.sum(reaches.to(tl.int32), axis=1), tl.sum(tl.where(reaches, w, 0), axis=1)


@triton.jit
def measure_around(row_logits, first, last, vocab, scale, largest, pivots, counts, masses):
    """The weight of the same tokens; stores how many of them reach each pivot and what those weigh."""
    p0, p1, p2, p3 = pivot_at(pivots, 0), pivot_at(pivots, 1), pivot_at(pivots, 2), pivot_at(pivots, 3)
    count0, count1 = tl.zeros([LANES], tl.int32), tl.zeros([LANES], tl.int32)
    count2, count3 = tl.zeros([LANES], tl.int32), tl.zeros([LANES], tl.int32)
    mass0, mass1 = tl.zeros([LANES], tl.int64), tl.zeros([LANES], tl.int64)
    mass2, mass3 = tl.zeros([LANES], tl.int64), tl.zeros([LANES], tl.int64)
    total = tl.zeros([LANES], tl.int64)
    for start in range(first, last, TILE):
        x = load_tile(row_logits, start, vocab)
        w = weight(largest - scaled_logit(x, scale))
        key = key_of(x)
        total += tl.sum(w, axis=1)
        c0, m0 = reaching(key, w, p0)
        c1, m1 = reaching(key, w, p1)
        c2, m2 = reaching(key, w, p2)
        c3, m3 = reaching(key, w, p3)
        count0, count1, count2, count3 = count0 + c0, count1 + c1, count2 + c2, count3 + c3
        mass0, mass1, mass2, mass3 = mass0 + m0, mass1 + m1, mass2 + m2, mass3 + m3
    tl.store(counts, tl.sum(count0, axis=0))
    tl.store(counts + 1, tl.sum(count1, axis=0))
    tl.store(counts + 2, tl.sum(count2, axis=0))
    tl.store(counts + 3, tl.sum(count3, axis=0))
    tl.store(masses, tl.sum(mass0, axis=0))
    tl.store(masses + 1, tl.sum(mass1, axis=0))
    tl.store(masses + 2, tl.sum(mass2, axis=0))
    tl.store(masses + 3, tl.sum(mass3, axis=0))
    return tl.sum(total, axis=0)


@triton.jit
def sum_min_p(
    row_logits, vocab, first_segment, last_segment, segment_tiles, scale, largest, min_weight,
    bounds_here, seed, position, group_bound,
):  # fmt: skip
    """The weight of all tokens of some segments, and of those that weigh at least `min_weight` the weight, the
    number and the smallest key; stores bounds of the latter's scores. Tiles that keep nothing pay for no noise.
    """
    total = tl.zeros([LANES, 4], tl.int64)
    kept = tl.zeros([LANES, 4], tl.int64)
    count = tl.zeros([LANES, 4], tl.int32)
    smallest = tl.full([LANES, 4], NO_KEY, tl.int32)
    for segment in range(first_segment, last_segment):
        bound = tl.full([LANES], float("-inf"), tl.float32)
        start = segment * segment_tiles * TILE
        for _ in range(segment_tiles):
            x = load_tile(row_logits, start, vocab)
            w = weight(largest - scaled_logit(x, scale))
            total += w
            keep = (w >= min_weight) & (x > float("-inf"))
            if tl.max(tl.max(keep.to(tl.int32), axis=1), axis=0) > 0:
                kept += tl.where(keep, w, 0)
                count += keep.to(tl.int32)
                smallest = tl.minimum(smallest, tl.where(keep, key_of(x), NO_KEY))
                if bounds_here:
                    x0, x1, x2, x3 = split_quads(tl.where(keep, x, float("-inf")))
                    bound = tl.maximum(bound, tile_bound(x0, x1, x2, x3, start, scale, seed, position))
            start += TILE
        if bounds_here:
            tl.store(group_bound + segment * GROUPS + tl.arange(0, GROUPS), fold_groups(bound))
    total = tl.sum(tl.sum(total, axis=1), axis=0)
    kept = tl.sum(tl.sum(kept, axis=1), axis=0)
    count = tl.sum(tl.sum(count, axis=1), axis=0)
    return total, kept, count, tl.min(tl.min(smallest, axis=1), axis=0)


@triton.jit(do_not_specialize=["row_stride", "vocab", "segment_tiles", "segments", "segments_of_part", "parts", "want"])
def mass(
    logits, row_stride, vocab, segment_tiles, segments, segments_of_part, parts, want,
    records, group_key, group_bound, part_key, part_mass, part_min_mass, part_min_count, part_min_key,
    pivot_key, part_pivot_count, part_pivot_mass,
    ALIGNED: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    if ALIGNED:
        row_stride = tl.multiple_of(row_stride, 16)
    row_logits = logits + row * row_stride
    if needs_mass(records, row, want):
        scale, top_p = read_floats(records, row)
        largest = scaled_logit(value_of(largest_key(part_key, row, parts)), scale)
        min_weight = read_field(records, row, MIN_WEIGHT)
        seed = read_field(records, row, SEED)
        position = read_field(records, row, POSITION)
        top_k = read_field(records, row, TOP_K)
        unlimited = top_k == 0
        bounds_here = ((read_field(records, row, MODE) & BOUNDED) != 0) & unlimited & (min_weight > 0)

        pivots = tl.zeros([PIVOTS], tl.int32)
        in_doubt = (unlimited & (top_p < 1.0)) | (top_k > CAPACITY)
        if in_doubt:
            sample = sample_keys(row_logits, vocab)
            pivots = pivots_of_sample(sample, scale, largest, wanted_share(top_k, top_p, vocab), unlimited)
            if tl.sum((sample >= tl.min(pivots, axis=0)).to(tl.int32), axis=0) <= FEW_OF_SAMPLE:
                group = tl.arange(0, MOST_GROUPS)
                keys = group_key + row * segments * GROUPS + group
                pivots = pivots_of_groups(tl.load(keys, mask=group < segments * GROUPS, other=MINUS_INF_KEY))
        if part == 0:
            tl.store(pivot_key + row * PIVOTS + tl.arange(0, PIVOTS), pivots)

        at = row * parts + part
        first_segment = part * segments_of_part
        last_segment = tl.minimum(first_segment + segments_of_part, segments)
        first = first_segment * segment_tiles * TILE
        last = tl.minimum(last_segment * segment_tiles * TILE, vocab)
        total = tl.full([], 0, tl.int64)
        if min_weight > 0:
            total, kept, count, smallest = sum_min_p(
                row_logits, vocab, first_segment, last_segment, segment_tiles, scale, largest, min_weight,
                bounds_here, seed, position, group_bound + row * segments * GROUPS,
            )  # fmt: skip
            tl.store(part_min_mass + at, kept)
            tl.store(part_min_count + at, count)
            tl.store(part_min_key + at, smallest)
        if in_doubt:
            counts, masses = part_pivot_count + at * PIVOTS, part_pivot_mass + at * PIVOTS
            total = measure_around(row_logits, first, last, vocab, scale, largest, pivots, counts, masses)
        if (min_weight == 0) & (in_doubt == 0):
            total = sum_all(row_logits, first, last, vocab, scale, largest)
        tl.store(part_mass + at, total)
