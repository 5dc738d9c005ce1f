"""Products of 64-bit integers as two words, and the logarithm of such a product (spec section 17)."""

import triton
import triton.language as tl

from detsample.kernels.contract.logarithm import LN2_Q48, floor_log2, split_log


@triton.jit
def product(a, b):
    """(high, low) of the product of two uint64, each uint64."""
    a0 = a & 0xFFFFFFFF
    a1 = a >> 32
    b0 = b & 0xFFFFFFFF
    b1 = b >> 32
    lowest = a0 * b0
    crossed = a1 * b0
    middle = a0 * b1 + (lowest >> 32)
    carried = (middle & 0xFFFFFFFF) + (crossed & 0xFFFFFFFF)
    high = a1 * b1 + (middle >> 32) + (crossed >> 32) + (carried >> 32)
    return high, (carried << 32) | (lowest & 0xFFFFFFFF)


@triton.jit
def below(a_high, a_low, b_high, b_low):
    """Whether a < b, for numbers given as two uint64 words."""
    return (a_high < b_high) | ((a_high == b_high) & (a_low < b_low))


@triton.jit
def difference(a_high, a_low, b_high, b_low):
    """(high, low) of a - b modulo 2^128, for numbers given as two uint64 words."""
    return a_high - b_high - (a_low < b_low).to(tl.uint64), a_low - b_low


@triton.jit
def ln_of_wide(high, low):
    """LNW: the logarithm, int64 in units of 2^-32, of positive numbers below 2^127. It depends on their leading 64 bits
    only.
    """
    large = high != 0
    dropped = tl.where(large, floor_log2(tl.where(large, high, 1)) + 1, 0)
    up = tl.where(large, 64 - dropped, 0).to(tl.uint64)
    down = dropped.to(tl.uint64)
    leading = tl.where(large, (high << up) | (low >> down), low)
    exponent, rest = split_log(leading)
    return (((exponent + dropped) * LN2_Q48) >> 16) + rest
