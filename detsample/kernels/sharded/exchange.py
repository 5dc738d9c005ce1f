"""Rows that are exchanged: each rank gets some of the rows whole, draws them, and tells the others of them.

Of `rows` rows each rank draws `each`, which is their number divided by that of the ranks, rounded up. Where it does not
divide evenly, the last ranks draw some of the rows of those before them as well, so that all draw equally many.
"""

import triton
import triton.language as tl

from detsample.kernels.contract.order import LAST_TOKEN, NAN_KEY
from detsample.kernels.sampling.rows import fp32_from_bits, join_words, read_boundary, write_boundary
from detsample.kernels.sampling.tiles import TILE, load_tokens, logits_of_row

DRAWN = tl.constexpr(4)  # int64 words that are told of a row: token, num_kept and status, logprob and log_z, boundary
BLOCK = tl.constexpr(128)  # rows of a program


@triton.jit
def first_row(rank, rows, each):
    """The first of the rows that a rank draws."""
    return tl.minimum(rank * each, rows - each)


@triton.jit(
    do_not_specialize=["row_stride", "allowed_stride", "columns", "rows", "each", "result_stride", "result_start"],
    do_not_specialize_on_alignment=["logits", "allowed", "result"],
)
def copy_rows(
    logits, row_stride, allowed, allowed_stride, columns, rows, each, result, result_stride, result_start,
    ALLOWED: tl.constexpr,
):  # fmt: skip
    """Copies the rows of each rank, one rank after the other, to a place in rows of a result. Grid (copies, tiles)."""
    copy = tl.program_id(0).to(tl.int64)
    row = first_row(copy // each, rows, each) + copy % each
    column = tl.program_id(1) * TILE + tl.arange(0, TILE)
    inside = column < columns
    x = load_tokens(logits_of_row(logits, row, row_stride, allowed, allowed_stride, False, ALLOWED), column, inside)
    tl.store(result + copy * result_stride + result_start + column, x, mask=inside)


@triton.jit(do_not_specialize=["each"])
def tell_drawn(token_ids, num_kept, status, logprobs, log_z, records, each, message):
    """Writes what is known of the rows that this rank has drawn. Grid (blocks of rows)."""
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = row < each
    message += row * DRAWN
    counts = join_words(tl.load(num_kept + row, mask=there), tl.load(status + row, mask=there))
    logs = join_words(
        tl.load(logprobs + row, mask=there).to(tl.int32, bitcast=True),
        tl.load(log_z + row, mask=there).to(tl.int32, bitcast=True),
    )
    boundary_key, boundary_token = read_boundary(records, tl.where(there, row, 0))
    tl.store(message, tl.load(token_ids + row, mask=there), mask=there)
    tl.store(message + 1, counts, mask=there)
    tl.store(message + 2, logs, mask=there)
    tl.store(message + 3, join_words(boundary_token, boundary_key), mask=there)


@triton.jit(do_not_specialize=["start", "rows", "each"])
def take_drawn(told, start, rows, each, records, maxima, token_ids, num_kept, status, logprobs, log_z):
    """Writes the results of all rows from what all ranks have told, and boundaries among this rank's columns, from
    token `start` on. Grid (rows).
    """
    row = tl.program_id(0).to(tl.int64)
    if row == 0:  # masks are made of whole rows: every group of tokens may reach the boundary
        tl.store(maxima + tl.arange(0, 32), tl.full([32], NAN_KEY, tl.int32))
    rank = row // each
    told += (rank * each + row - first_row(rank, rows, each)) * DRAWN
    counts, logs, boundary = tl.load(told + 1), tl.load(told + 2), tl.load(told + 3)
    tl.store(token_ids + row, tl.load(told))
    tl.store(num_kept + row, counts.to(tl.int32))
    tl.store(status + row, (counts >> 32).to(tl.int32))
    tl.store(logprobs + row, fp32_from_bits(logs))
    tl.store(log_z + row, fp32_from_bits(logs >> 32))
    token = boundary.to(tl.int32)
    column = tl.where(token == LAST_TOKEN, token, tl.maximum(token - start, -1))
    write_boundary(records, row, (boundary >> 32).to(tl.int32), column)
