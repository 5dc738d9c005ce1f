"""Kept sets as bits: 32 tokens a word, the lowest bit first (spec section 10)."""

import triton
import triton.language as tl


@triton.jit
def kept_tokens(row_mask, token, inside):
    """Whether each token is in a row's kept set; false for tokens that are not `inside` the row."""
    word = tl.load(row_mask + (token >> 5), mask=inside, other=0)
    return ((word >> (token & 31).to(tl.int32)) & 1) != 0
