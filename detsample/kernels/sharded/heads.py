"""Round 1: what a rank tells of its shard of a row, and logits that are brought together where that costs least."""

import triton
import triton.language as tl

from detsample.kernels.contract.order import key_of
from detsample.kernels.sampling.candidates import NO_CODE, code_of
from detsample.kernels.sampling.rows import STATUS_EMPTY, STATUS_INF, STATUS_NAN
from detsample.kernels.sampling.tiles import TILE

ONE = tl.constexpr(0)  # how the first tokens are given: `tokens` has the first one of each row,
LISTS = tl.constexpr(1)  # or the first ones of all rows one after the other, from `row_offsets` on,
ALL = tl.constexpr(2)  # or all columns are among the first ones


@triton.jit(do_not_specialize=["row_stride", "columns", "start", "told"], do_not_specialize_on_alignment=["logits"])
def tell_heads(
    logits, row_stride, columns, start, told, drawn_status, row_offsets, tokens, message,
    GIVEN: tl.constexpr, SLOTS: tl.constexpr,
):  # fmt: skip
    """Writes the status of a shard's logits and the codes of its first `told` tokens, in any order. Grid (rows)."""
    row = tl.program_id(0).to(tl.int64)
    slot = tl.arange(0, SLOTS)
    there = slot < columns
    column = slot
    if GIVEN == ONE:
        column = tl.load(tokens + row).to(tl.int32) + slot
        there = (slot == 0) & (column >= 0)
    elif GIVEN == LISTS:
        first = tl.load(row_offsets + row)
        there = (slot < told) & (slot < tl.load(row_offsets + row + 1) - first)
        column = tl.load(tokens + first + slot, mask=there, other=0)
    x = tl.load(logits + row * row_stride + column, mask=there, other=float("-inf")).to(tl.float32)
    if GIVEN == ALL:
        bad = tl.where(x != x, STATUS_NAN, 0) | tl.where(x == float("inf"), STATUS_INF, 0)
        finite = tl.max((tl.abs(x) < float("inf")).to(tl.int32), axis=0)
        status = tl.max(bad & STATUS_NAN, axis=0) | tl.max(bad & STATUS_INF, axis=0)
        status = status | tl.where(finite > 0, 0, STATUS_EMPTY)
    else:
        status = tl.load(drawn_status + row)
    message += row * (1 + told)
    tl.store(message, status.to(tl.int64))
    code = tl.where(x > float("-inf"), code_of(key_of(x), column + start), NO_CODE)
    tl.store(message + 1 + slot, code, mask=slot < told)


@triton.jit(
    do_not_specialize=["row_stride", "columns", "allowed_stride", "result_stride"],
    do_not_specialize_on_alignment=["logits", "allowed", "result"],
)
def copy_rows(logits, row_stride, columns, allowed, allowed_stride, result, result_stride, WORD: tl.constexpr):
    """Copies rows of logits; if `allowed` has words of WORD bits, and not 0, with -inf for tokens whose bit is not
    set. Grid (rows, tiles).
    """
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * TILE + tl.arange(0, TILE)
    x = tl.load(logits + row * row_stride + column, mask=column < columns, other=0.0)
    if WORD > 0:
        word = tl.load(allowed + row * allowed_stride + column // WORD, mask=column < columns, other=0)
        x = tl.where((word >> (column % WORD).to(word.dtype)) & 1 != 0, x, float("-inf"))
    tl.store(result + row * result_stride + column, x, mask=column < columns)
