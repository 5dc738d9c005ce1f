"""Kernel 6, on request: the kept set as bools, as bits or as CSR, made from each row's boundary (spec section 10)."""

import triton
import triton.language as tl

from detsample.kernels.order import key_of, within
from detsample.kernels.rows import read_boundary
from detsample.kernels.tiles import TILE, load_span, logits_of_row

WORDS = tl.constexpr(32)  # words of 32 bits for the tokens of a tile


@triton.jit
def kept_tokens(row_logits, vocab, records, row, start):
    """Which of the TILE tokens from `start` on the row keeps."""
    boundary_key, boundary_token = read_boundary(records, row)
    x = load_span(row_logits, start, vocab, TILE)
    return (x > float("-inf")) & within(key_of(x), start + tl.arange(0, TILE), boundary_key, boundary_token)


@triton.jit(do_not_specialize=["row_stride", "vocab"], do_not_specialize_on_alignment=["logits"])
def bool_mask(logits, row_stride, vocab, records, mask, ALIGNED: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    start = tl.program_id(1) * TILE
    row_logits = logits_of_row(logits, row, row_stride, ALIGNED)
    keep = kept_tokens(row_logits, vocab, records, row, start)
    token = start + tl.arange(0, TILE)
    tl.store(mask + row * vocab + token, keep, mask=token < vocab)


@triton.jit(do_not_specialize=["row_stride", "vocab", "words"], do_not_specialize_on_alignment=["logits"])
def bit_mask(logits, row_stride, vocab, words, records, mask, ALIGNED: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    row_logits = logits_of_row(logits, row, row_stride, ALIGNED)
    keep = kept_tokens(row_logits, vocab, records, row, part * TILE)
    bits = tl.reshape(keep.to(tl.int32), [WORDS, 32]) << tl.arange(0, 32)[None, :]
    word = part * WORDS + tl.arange(0, WORDS)
    tl.store(mask + row * words + word, tl.sum(bits, axis=1), mask=word < words)


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


@triton.jit(do_not_specialize=["row_stride", "vocab"], do_not_specialize_on_alignment=["logits"])
def csr_tokens(logits, row_stride, vocab, records, row_offsets, kept, ALIGNED: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    row_logits = logits_of_row(logits, row, row_stride, ALIGNED)
    at = tl.load(row_offsets + row)
    for start in range(0, vocab, TILE):
        keep = kept_tokens(row_logits, vocab, records, row, start).to(tl.int32)
        place = at + tl.cumsum(keep, axis=0) - 1
        tl.store(kept + place, start + tl.arange(0, TILE), mask=keep > 0)
        at += tl.sum(keep, axis=0)


@triton.jit(do_not_specialize=["rows", "capacity"])
def csr_tail(rows, capacity, row_offsets, kept):
    """-1 behind the last kept token."""
    place = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    behind = (place >= tl.load(row_offsets + rows)) & (place < capacity)
    tl.store(kept + place, tl.full([TILE], -1, tl.int32), mask=behind)
