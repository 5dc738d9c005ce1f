"""Kernel 2, grid (rows, parts): sums of weights over the row, which need its largest logit first, hence a second look.

For each part: the weight of all tokens, and of those that min-p keeps with their number and smallest key. Integer sums, so parts can
be added in any order. A row needs this for its log probability where no top-k is on, for top-p alone, for min-p alone and for log_z.
"""

import triton
import triton.language as tl

from detsample.kernels.order import key_of, value_of
from detsample.kernels.rows import (
    MIN_WEIGHT,
    PENDING,
    STATUS,
    TOP_K,
    WANT_LOG_Z,
    WANT_LOGPROBS,
    read_field,
    read_floats,
)
from detsample.kernels.tiles import MOST_SEGMENTS, TILE, load_span
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


@triton.jit(do_not_specialize=["row_stride", "vocab", "segment_tiles", "segments_of_part", "parts", "want"])
def mass(
    logits, row_stride, vocab, segment_tiles, segments_of_part, parts, want,
    records, part_key, part_mass, part_min_mass, part_min_count, part_min_key,
    ALIGNED: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    if ALIGNED:
        row_stride = tl.multiple_of(row_stride, 16)
    row_logits = logits + row * row_stride
    if needs_mass(records, row, want):
        scale, _ = read_floats(records, row)
        largest = scaled_logit(value_of(largest_key(part_key, row, parts)), scale)
        min_weight = read_field(records, row, MIN_WEIGHT)
        total = tl.zeros([TILE], tl.int64)
        kept = tl.zeros([TILE], tl.int64)
        count = tl.zeros([TILE], tl.int32)
        smallest = tl.full([TILE], NO_KEY, tl.int32)
        part_tokens = segments_of_part * segment_tiles * TILE
        last = tl.minimum((part + 1) * part_tokens, vocab)
        for start in range(part * part_tokens, last, TILE):
            x = load_span(row_logits, start, vocab)
            w = weight(largest - scaled_logit(x, scale))
            total += w
            keep = (w >= min_weight) & (x > float("-inf"))
            kept += tl.where(keep, w, 0)
            count += keep.to(tl.int32)
            smallest = tl.minimum(smallest, tl.where(keep, key_of(x), NO_KEY))
        at = row * parts + part
        tl.store(part_mass + at, tl.sum(total, axis=0))
        tl.store(part_min_mass + at, tl.sum(kept, axis=0))
        tl.store(part_min_count + at, tl.sum(count, axis=0))
        tl.store(part_min_key + at, tl.min(smallest, axis=0))
