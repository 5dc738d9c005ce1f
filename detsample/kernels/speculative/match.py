"""Accepts the tokens of drafted chains while they are what was drawn (spec section 15)."""

import triton
import triton.language as tl

from detsample.kernels.sampling.outcome import quiet_nan
from detsample.kernels.speculative.rows import STATUS_LENGTH, drafted_length, foreign_tokens, rows_of_request


@triton.jit(
    do_not_specialize=[
        "vocab", "rows", "width", "extra", "given", "count_stride", "count_scalar", "offset_stride",
        "draft_row_stride", "draft_stride",
    ]
)  # fmt: skip
def match(
    vocab, rows, width, extra, given, counts, count_stride, count_scalar, row_offsets, offset_stride, row_owner,
    drafts, draft_row_stride, draft_stride, drawn, drawn_status, drawn_logprobs,
    token_ids, num_accepted, status, logprobs,
    WIDTH: tl.constexpr, FLAT: tl.constexpr, LOGPROBS: tl.constexpr,
):  # fmt: skip
    """Accepts the drafted tokens of each request while they equal the tokens that were drawn, and writes these
    (spec section 15).

    Grid (requests). A request's status is that of the row that was reached, joined with what is wrong with the request
    itself.
    """
    request = tl.program_id(0).to(tl.int64)
    slot = tl.arange(0, WIDTH)
    first, count, reason = rows_of_request(
        request, width, rows, extra, given, counts, count_stride, count_scalar, row_offsets, offset_stride,
        row_owner, slot, FLAT,
    )  # fmt: skip
    drafted = slot < tl.where(reason == STATUS_LENGTH, 0, count - 1)
    at = request * draft_row_stride + slot.to(tl.int64) * draft_stride
    draft = tl.load(drafts + at, mask=drafted, other=0).to(tl.int64)
    length = drafted_length(draft, drafted, slot)
    drafted = slot < length
    reason |= foreign_tokens(draft, drafted, vocab)

    mine = slot < tl.where(reason == 0, length + 1, 0)
    token = tl.load(drawn + first + slot, mask=mine, other=-1)
    why = tl.load(drawn_status + first + slot, mask=mine, other=0)
    agree = mine & drafted & (draft == token) & (why == 0)
    accepted = tl.min(tl.where(agree, WIDTH, slot), axis=0)  # the first slot that does not agree; the last never does
    said = mine & (slot <= accepted)
    reason |= tl.sum(tl.where(slot == accepted, why, 0), axis=0)

    at = request * width + slot
    tl.store(token_ids + at, tl.where(said, token, -1), mask=slot < width)
    tl.store(num_accepted + request, accepted)
    tl.store(status + request, reason)
    if LOGPROBS:
        logprob = tl.load(drawn_logprobs + first + slot, mask=said, other=0.0)
        tl.store(logprobs + at, tl.where(said, logprob, quiet_nan()), mask=slot < width)
