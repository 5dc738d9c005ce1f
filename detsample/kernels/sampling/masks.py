"""Kernel 5, on request: the kept sets as bools, as bits or as CSR, made from each row's boundary (spec section 10).

Logits are read only where they may be kept: where the maximum of their group, which `summarize` left, reaches the
boundary.
"""

import triton
import triton.language as tl

from detsample.kernels.contract.order import NAN_KEY, value_of
from detsample.kernels.sampling.rows import read_boundary
from detsample.kernels.sampling.tiles import (
    LANES,
    QUADS_BITS,
    TILE,
    forbid,
    groups_of_segment,
    logits_of_row,
)

MASKED = tl.constexpr(4096)  # how many tokens of one segment a program takes: four tiles
QUADS_MASKED = tl.constexpr(1024)


@triton.jit
def span_of_program(vocab, segment_tiles):
    """The tokens that this program takes, in a grid (rows, spans of a segment, segments): the first token, the end, and
    the number of the span within the row.
    """
    segment = tl.program_id(2)
    start = segment * segment_tiles * TILE + tl.program_id(1) * MASKED
    end = tl.minimum(tl.minimum(start + MASKED, (segment + 1) * segment_tiles * TILE), vocab)
    return start, end, segment * tl.num_programs(1) + tl.program_id(1)


@triton.jit
def first_key_from(boundary_key, boundary_token, start):
    """The smallest key that a row keeps from the token `start` on, not counting the boundary token itself. For a row
    that keeps nothing it is the key of NaN, which no logit reaches.
    """
    return tl.where(boundary_token < start, tl.minimum(boundary_key, NAN_KEY - 1) + 1, boundary_key)


@triton.jit
def load_reaching(row_logits, maxima, start, end, first_key, quads):
    """The logits of a span as fp32 [QUADS_MASKED, 4]. Logits are not read, and are -inf here, where the maximum of
    their group is below `first_key`; they are -inf from the token `end` on, too.
    """
    quad = tl.arange(0, QUADS_MASKED)
    group = tl.program_id(2) * groups_of_segment(quads) + ((quad % LANES) >> tl.where(quads == 1, 0, QUADS_BITS))
    reaches = (tl.load(maxima + group) >= first_key)[:, None]
    token = start + quad[:, None] * 4 + tl.arange(0, 4)[None, :]
    if start + MASKED == end:
        x = tl.load(row_logits[0] + token, mask=reaches, other=float("-inf"))
    else:
        x = tl.load(row_logits[0] + token, mask=reaches & (token < end), other=float("-inf"))
    return forbid(x, row_logits, token, reaches & (token < end)).to(tl.float32)


@triton.jit
def kept_of_span(row_logits, records, row, group_key, pitch, quads, start, end):
    """Whether the row keeps each token of a span, as bools of shape [QUADS_MASKED, 4]."""
    boundary_key, boundary_token = read_boundary(records, row)
    first_key = first_key_from(boundary_key, boundary_token, start)
    x = load_reaching(row_logits, group_key + row * pitch, start, end, first_key, quads)
    least = value_of(first_key)
    if (boundary_token >= start) & (boundary_token < end):
        token = start + tl.arange(0, QUADS_MASKED)[:, None] * 4 + tl.arange(0, 4)[None, :]
        x = tl.where((x == least) & (token > boundary_token), float("-inf"), x)
    return x >= least


NOT_SPECIALIZED = ["row_stride", "allowed_stride", "vocab", "pitch", "quads", "segment_tiles"]


@triton.jit
def store_bools(row_mask, start, end, keep):
    """Stores which tokens of a span are kept, as one bool for each token."""
    token = start + tl.arange(0, MASKED)
    tl.store(row_mask + token, tl.reshape(keep, [MASKED]), mask=token < end)


@triton.jit
def store_bits(row_mask, start, end, keep):
    """Stores which tokens of a span are kept, as 32-bit words with the lowest token in the lowest bit."""
    four = tl.sum(tl.where(keep, 1 << tl.arange(0, 4)[None, :], 0), axis=1)
    words = tl.sum(tl.reshape(four, [MASKED // 32, 8]) << (4 * tl.arange(0, 8)[None, :]), axis=1)
    word = start // 32 + tl.arange(0, MASKED // 32)
    tl.store(row_mask + word, words, mask=word * 32 < end)


@triton.jit(do_not_specialize=[*NOT_SPECIALIZED, "mask_stride"], do_not_specialize_on_alignment=["logits", "allowed"])
def dense_mask(
    logits, row_stride, allowed, allowed_stride, vocab, records, group_key, pitch, quads, segment_tiles,
    mask, mask_stride,
    AS_BITS: tl.constexpr, ALIGNED: tl.constexpr, ALLOWED: tl.constexpr,
):  # fmt: skip
    """Writes the kept sets as bools, or as 32-bit words if AS_BITS (spec section 10).

    Grid (rows, spans of a segment, segments).
    """
    row = tl.program_id(0).to(tl.int64)
    row_logits = logits_of_row(logits, row, row_stride, allowed, allowed_stride, ALIGNED, ALLOWED)
    row_mask = mask + row * mask_stride
    start, end, _span = span_of_program(vocab, segment_tiles)
    keep = kept_of_span(row_logits, records, row, group_key, pitch, quads, start, end)
    if AS_BITS:
        store_bits(row_mask, start, end, keep)
    else:
        store_bools(row_mask, start, end, keep)


@triton.jit(do_not_specialize=["rows"])
def csr_offsets(rows, num_kept, row_offsets):
    """Writes the row offsets of a CSR mask: the running sums of `num_kept`, starting at 0. Grid (1)."""
    before = tl.full([], 0, tl.int64)
    tl.store(row_offsets, before)
    for start in range(0, rows, TILE):
        row = start + tl.arange(0, TILE)
        count = tl.load(num_kept + row, mask=row < rows, other=0).to(tl.int64)
        tl.store(row_offsets + row + 1, before + tl.cumsum(count, axis=0), mask=row < rows)
        before += tl.sum(count, axis=0)


@triton.jit(do_not_specialize=NOT_SPECIALIZED, do_not_specialize_on_alignment=["logits", "allowed"])
def csr_counts(
    logits, row_stride, allowed, allowed_stride, vocab, records, group_key, pitch, quads, segment_tiles, span_counts,
    ALIGNED: tl.constexpr, ALLOWED: tl.constexpr,
):  # fmt: skip
    """Counts how many tokens each program of `csr_tokens` will write, so that every program can know where its own
    begin. The grid is that of `csr_tokens`.
    """
    row = tl.program_id(0).to(tl.int64)
    row_logits = logits_of_row(logits, row, row_stride, allowed, allowed_stride, ALIGNED, ALLOWED)
    start, end, span = span_of_program(vocab, segment_tiles)
    keep = kept_of_span(row_logits, records, row, group_key, pitch, quads, start, end)
    count = tl.sum(tl.sum(keep.to(tl.int32), axis=1), axis=0)
    tl.store(span_counts + row * (tl.num_programs(1) * tl.num_programs(2)) + span, count)


@triton.jit
def number_before(counts, end):
    """The sum of the first `end` counts of a row."""
    before = tl.zeros([LANES], tl.int32)
    for start in range(0, end, LANES):
        place = start + tl.arange(0, LANES)
        before += tl.load(counts + place, mask=place < end, other=0)
    return tl.sum(before, axis=0)


@triton.jit(do_not_specialize=NOT_SPECIALIZED, do_not_specialize_on_alignment=["logits", "allowed"])
def csr_tokens(
    logits, row_stride, allowed, allowed_stride, vocab, records, group_key, pitch, quads, segment_tiles,
    span_counts, row_offsets, kept,
    ALIGNED: tl.constexpr, ALLOWED: tl.constexpr,
):  # fmt: skip
    """Writes the ids of the kept tokens, ascending within each row (spec section 10).

    Grid (rows, spans of a segment, segments).
    """
    row = tl.program_id(0).to(tl.int64)
    start, end, span = span_of_program(vocab, segment_tiles)
    counts = span_counts + row * (tl.num_programs(1) * tl.num_programs(2))
    if tl.load(counts + span) > 0:
        row_logits = logits_of_row(logits, row, row_stride, allowed, allowed_stride, ALIGNED, ALLOWED)
        tiles = kept_of_span(row_logits, records, row, group_key, pitch, quads, start, end)
        keep = tl.reshape(tiles, [MASKED]).to(tl.int32)
        place = tl.load(row_offsets + row) + number_before(counts, span) + tl.cumsum(keep, axis=0) - 1
        tl.store(kept + place, start + tl.arange(0, MASKED), mask=keep > 0)


@triton.jit(do_not_specialize=["rows", "capacity"])
def csr_tail(rows, capacity, row_offsets, kept):
    """Writes -1 behind the last kept token, up to the capacity of the list. Grid (tiles of the list)."""
    place = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    behind = (place >= tl.load(row_offsets + rows)) & (place < capacity)
    tl.store(kept + place, tl.full([TILE], -1, tl.int32), mask=behind)
