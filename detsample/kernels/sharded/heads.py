"""Round 1: what a rank tells of its shard of a row."""

import triton
import triton.language as tl

from detsample.kernels.contract.order import key_of
from detsample.kernels.sampling.candidates import NO_CODE, code_of
from detsample.kernels.sampling.rows import STATUS_EMPTY, STATUS_INF, STATUS_NAN
from detsample.kernels.sampling.tiles import load_tokens, logits_of_row

ONE = tl.constexpr(0)  # how the first tokens are given: `tokens` has the first one of each row,
LISTS = tl.constexpr(1)  # or the first ones of all rows one after the other, from `row_offsets` on,
ALL = tl.constexpr(2)  # or all columns are among the first ones


@triton.jit(
    do_not_specialize=["row_stride", "allowed_stride", "columns", "start", "told"],
    do_not_specialize_on_alignment=["logits", "allowed"],
)
def tell_heads(
    logits, row_stride, allowed, allowed_stride, columns, start, told, drawn_status, row_offsets, tokens, message,
    GIVEN: tl.constexpr, ALLOWED: tl.constexpr, SLOTS: tl.constexpr,
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
    x = load_tokens(logits_of_row(logits, row, row_stride, allowed, allowed_stride, False, ALLOWED), column, there)
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
