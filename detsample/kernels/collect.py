"""Kernel 4, grid (rows, parts): lists the tokens among which the boundary lies, for rows that `narrow` left.

The measures at the pivots tell exactly between which two keys the boundary is, and `narrow` left a key that it does
not lie below. The few thousand tokens in between are what `wide` then looks at. The list's order is that of the
programs' arrival and is never relied on.
"""

import triton
import triton.language as tl

from detsample.kernels.candidates import CAPACITY, top_p_target
from detsample.kernels.mass import largest_key
from detsample.kernels.order import LOWEST_KEY, key_of
from detsample.kernels.pivots import PIVOTS
from detsample.kernels.rows import (
    ABOVE_COUNT,
    ABOVE_MASS,
    INTERVAL,
    LISTED,
    PENDING,
    RECORD,
    STATUS,
    THRESHOLD,
    TOP_K,
    join_words,
    read_field,
    read_floats,
)
from detsample.kernels.tiles import MOST_SEGMENTS, TILE, load_span

LIST = tl.constexpr(8192)  # tokens that a row's list holds
UNLISTED = tl.constexpr(0x7FFFFFFF)  # in place of a number: more than any row has


@triton.jit
def sum_measures(pointer, row, parts):
    """[PIVOTS]: the parts' measures, added."""
    part = tl.arange(0, MOST_SEGMENTS)
    at = (row * parts + part[:, None]) * PIVOTS + tl.arange(0, PIVOTS)[None, :]
    return tl.sum(tl.load(pointer + at, mask=part[:, None] < parts, other=0), axis=0)


@triton.jit(do_not_specialize=["row_stride", "vocab", "segment_tiles", "segments_of_part", "parts"])
def collect(
    logits, row_stride, vocab, segment_tiles, segments_of_part, parts,
    records, part_key, part_count, part_mass, pivot_key, part_pivot_count, part_pivot_mass, list_token,
    ALIGNED: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    if ALIGNED:
        row_stride = tl.multiple_of(row_stride, 16)
    row_logits = logits + row * row_stride
    top_k = read_field(records, row, TOP_K)
    _, top_p = read_floats(records, row)
    in_doubt = ((top_k == 0) & (top_p < 1.0)) | (top_k > CAPACITY)
    if in_doubt & (read_field(records, row, STATUS) == PENDING):
        pivots = tl.load(pivot_key + row * PIVOTS + tl.arange(0, PIVOTS))
        counts = sum_measures(part_pivot_count, row, parts)
        masses = sum_measures(part_pivot_mass, row, parts)
        at = tl.arange(0, MOST_SEGMENTS)
        total = tl.sum(tl.load(part_mass + row * parts + at, mask=at < parts, other=0), axis=0)
        drawable = tl.sum(tl.load(part_count + row * parts + at, mask=at < parts, other=0), axis=0)
        reached = tl.where(top_k > 0, counts >= tl.minimum(top_k, drawable), masses >= top_p_target(top_p, total))
        threshold = read_field(records, row, THRESHOLD).to(tl.int32)
        low = tl.maximum(threshold, tl.max(tl.where(reached, pivots, LOWEST_KEY), axis=0))
        top_key = largest_key(part_key, row, parts)
        high = tl.minimum(top_key + 1, tl.min(tl.where(reached, 0x7FFFFFFF, pivots), axis=0))
        above_count = tl.max(tl.where(reached, 0, counts), axis=0)
        above_mass = tl.max(tl.where(reached, 0, masses), axis=0)
        record = records + row * RECORD
        if part == 0:
            tl.store(record + INTERVAL, join_words(low, high))
            tl.store(record + ABOVE_COUNT, above_count.to(tl.int64))
            tl.store(record + ABOVE_MASS, above_mass)
        if low == LOWEST_KEY:  # below all pivots: most of the row
            if part == 0:
                tl.store(record + LISTED, tl.full([], UNLISTED, tl.int64))
        else:
            part_tokens = segments_of_part * segment_tiles * TILE
            for start in range(part * part_tokens, tl.minimum((part + 1) * part_tokens, vocab), TILE):
                key = key_of(load_span(row_logits, start, vocab, TILE))
                inside = (key >= low) & (key < high)
                chosen = inside.to(tl.int32)
                here = tl.sum(chosen, axis=0)
                if here > 0:
                    before = tl.atomic_add(record + LISTED, here.to(tl.int64))
                    place = before + tl.cumsum(chosen, axis=0) - 1
                    tl.store(list_token + row * LIST + place, start + tl.arange(0, TILE), mask=inside & (place < LIST))
