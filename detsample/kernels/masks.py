"""Kernel 6, on request: the kept set as bools, as bits or as CSR, made from each row's boundary (spec section 10).

Of the logits only those are read whose group, by the maximum that `scan` left, reaches the boundary.
"""

import triton
import triton.language as tl

from detsample.kernels.order import key_of, within
from detsample.kernels.rows import read_boundary
from detsample.kernels.tiles import LANES, TILE, load_lanes, logits_of_row, maxima_of_tile

MASKED = tl.constexpr(4096)  # tokens a program takes
WORDS = tl.constexpr(32)  # words of 32 bits for the tokens of a tile


@triton.jit
def kept_of_tile(row_logits, vocab, records, row, group_key, pitch, quads, segment_tiles, start):
    """Which of the tokens of a tile the row keeps, [LANES, 4]."""
    boundary_key, boundary_token = read_boundary(records, row)
    reaches = maxima_of_tile(group_key + row * pitch, start // TILE, quads, segment_tiles) >= boundary_key
    x = load_lanes(row_logits, start, vocab, reaches)
    token = start + tl.arange(0, LANES)[:, None] * 4 + tl.arange(0, 4)[None, :]
    return (x > float("-inf")) & within(key_of(x), token, boundary_key, boundary_token)


NOT_SPECIALIZED = ["row_stride", "vocab", "pitch", "quads", "segment_tiles"]


@triton.jit
def store_bools(row_mask, start, vocab, keep):
    token = start + tl.arange(0, TILE)
    tl.store(row_mask + token, tl.reshape(keep, [TILE]), mask=token < vocab)


@triton.jit
def store_bits(row_mask, start, vocab, keep):
    bits = tl.reshape(keep.to(tl.int32), [WORDS, 32]) << tl.arange(0, 32)[None, :]
    word = start // 32 + tl.arange(0, WORDS)
    tl.store(row_mask + word, tl.sum(bits, axis=1), mask=word * 32 < vocab)


@triton.jit(do_not_specialize=[*NOT_SPECIALIZED, "mask_stride"], do_not_specialize_on_alignment=["logits"])
def dense_mask(
    logits, row_stride, vocab, records, group_key, pitch, quads, segment_tiles, mask, mask_stride,
    AS_BITS: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    """Rows of bools, or of words with 32 bits each."""
    row = tl.program_id(0).to(tl.int64)
    row_logits = logits_of_row(logits, row, row_stride, ALIGNED)
    row_mask = mask + row * mask_stride
    first = tl.program_id(1) * MASKED
    for tile in tl.static_range(MASKED // TILE):
        start = first + tile * TILE
        if start < vocab:
            keep = kept_of_tile(row_logits, vocab, records, row, group_key, pitch, quads, segment_tiles, start)
            if AS_BITS:
                store_bits(row_mask, start, vocab, keep)
            else:
                store_bools(row_mask, start, vocab, keep)


@triton.jit(do_not_specialize=["rows"])
def csr_offsets(rows, num_kept, row_offsets):
    """One program: the running sums of num_kept, one more than there are rows."""
    before = tl.full([], 0, tl.int64)
    tl.store(row_offsets, before)
    for start in range(0, rows, TILE):
        row = start + tl.arange(0, TILE)
        count = tl.load(num_kept + row, mask=row < rows, other=0).to(tl.int64)
        tl.store(row_offsets + row + 1, before + tl.cumsum(count, axis=0), mask=row < rows)
        before += tl.sum(count, axis=0)


@triton.jit(do_not_specialize=NOT_SPECIALIZED, do_not_specialize_on_alignment=["logits"])
def csr_tokens(
    logits, row_stride, vocab, records, group_key, pitch, quads, segment_tiles, row_offsets, kept,
    ALIGNED: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    row_logits = logits_of_row(logits, row, row_stride, ALIGNED)
    at = tl.load(row_offsets + row)
    for start in range(0, vocab, TILE):
        tile = kept_of_tile(row_logits, vocab, records, row, group_key, pitch, quads, segment_tiles, start)
        keep = tl.reshape(tile, [TILE]).to(tl.int32)
        here = tl.sum(keep, axis=0)
        if here > 0:
            place = at + tl.cumsum(keep, axis=0) - 1
            tl.store(kept + place, start + tl.arange(0, TILE), mask=keep > 0)
        at += here


@triton.jit(do_not_specialize=["rows", "capacity"])
def csr_tail(rows, capacity, row_offsets, kept):
    """-1 behind the last kept token."""
    place = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    behind = (place >= tl.load(row_offsets + rows)) & (place < capacity)
    tl.store(kept + place, tl.full([TILE], -1, tl.int32), mask=behind)
