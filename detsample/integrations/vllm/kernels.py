"""The kernel behind a draw: one launch in place of the three that a framework needs for it."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

BLOCK = tl.constexpr(256)


@triton.jit(do_not_specialize=["rows"])
def _settle(token_ids, status, invalid, tokens, rows):
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = index < rows
    tl.store(tokens + index, tl.maximum(tl.load(token_ids + index, mask=inside), 0), mask=inside)
    bits = tl.load(status + index, mask=inside, other=0)
    tl.store(invalid + index, tl.load(invalid + index, mask=inside) | bits, mask=inside & (bits != 0))


def settle_tokens(token_ids: Any, status: Any, invalid: Any, tokens: Any) -> None:
    """Write a draw's tokens as vLLM takes them, 0 in place of -1, and collect the status bits of its rows.

    Parameters
    ----------
    token_ids : [R] int64
    status : [R] int32
    invalid : [>= R] int32
        Gets the bits of `status` as well.
    tokens : [R] int32 or int64
        Written to. Each of the four starts on 16 bytes, so that there is one kernel for a type of tokens.
    """
    rows = len(token_ids)
    _settle[(-(-rows // BLOCK.value),)](token_ids, status, invalid, tokens, rows, num_warps=4)
