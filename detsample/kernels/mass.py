"""Kernel 2, grid (rows, parts): sums of weights over the row, which need its largest logit first, hence a second look.

For each part: the weight of all tokens; where min-p is on, also the weight, the number and the smallest key of the tokens it keeps, and
bounds of their scores, group by group, as `scan` leaves them for other rows. Integer sums, so parts can be added in any order. A row
needs this for its log probability where no top-k is on, for top-p alone, for min-p alone and for log_z.
"""

import triton
import triton.language as tl

from detsample.kernels.order import key_of, value_of
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
from detsample.kernels.tiles import GROUPS, LANES, MOST_SEGMENTS, TILE, fold_groups, load_tile, split_quads
from detsample.kernels.weight import scaled_logit, weight

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
    for_cut = unlimited & (filtered | ((want & WANT_LOGPROBS) != 0))
    return (for_cut | ((want & WANT_LOG_Z) != 0)) & (read_field(records, row, STATUS) == PENDING)


@triton.jit(do_not_specialize=["row_stride", "vocab", "segment_tiles", "segments", "segments_of_part", "parts", "want"])
def mass(
    logits, row_stride, vocab, segment_tiles, segments, segments_of_part, parts, want,
    records, group_bound, part_key, part_mass, part_min_mass, part_min_count, part_min_key,
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
        unlimited = read_field(records, row, TOP_K) == 0
        bounds_here = ((read_field(records, row, MODE) & BOUNDED) != 0) & unlimited & (min_weight > 0)
        total = tl.zeros([LANES, 4], tl.int64)
        kept = tl.zeros([LANES, 4], tl.int64)
        count = tl.zeros([LANES, 4], tl.int32)
        smallest = tl.full([LANES, 4], NO_KEY, tl.int32)
        first_segment = part * segments_of_part
        for segment in range(first_segment, tl.minimum(first_segment + segments_of_part, segments)):
            bound = tl.full([LANES], float("-inf"), tl.float32)
            start = segment * segment_tiles * TILE
            for _ in range(segment_tiles):
                x = load_tile(row_logits, start, vocab)
                w = weight(largest - scaled_logit(x, scale))
                total += w
                if min_weight > 0:
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
                group = (row * segments + segment) * GROUPS + tl.arange(0, GROUPS)
                tl.store(group_bound + group, fold_groups(bound))
        at = row * parts + part
        tl.store(part_mass + at, tl.sum(tl.sum(total, axis=1), axis=0))
        tl.store(part_min_mass + at, tl.sum(tl.sum(kept, axis=1), axis=0))
        tl.store(part_min_count + at, tl.sum(tl.sum(count, axis=1), axis=0))
        tl.store(part_min_key + at, tl.min(tl.min(smallest, axis=1), axis=0))
