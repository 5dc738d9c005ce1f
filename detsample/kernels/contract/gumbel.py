"""Gumbel noise of a token (spec section 7)."""

import triton
import triton.language as tl

from detsample.kernels.contract.logarithm import LN2_Q48, split_log
from detsample.kernels.contract.philox import TOKEN_HIGH, TOKEN_LOW, token_word

H0 = tl.constexpr(1073741824)
H1 = tl.constexpr(447392303)
H2 = tl.constexpr(268445247)
H3 = tl.constexpr(186859199)
H4 = tl.constexpr(146340794)
H5 = tl.constexpr(71131795)
H6 = tl.constexpr(323062286)
H7 = tl.constexpr(-711103555)
H8 = tl.constexpr(1743860480)
H9 = tl.constexpr(-1975990430)
H10 = tl.constexpr(1190561710)


@triton.jit
def log_of_quotient(v):
    """ln(-ln(1-u) / u) in units of 2^-32 for u = v / 2^31 below 1/2."""
    acc = ((v * H10) >> 31) + H9
    acc = ((acc * v) >> 31) + H8
    acc = ((acc * v) >> 31) + H7
    acc = ((acc * v) >> 31) + H6
    acc = ((acc * v) >> 31) + H5
    acc = ((acc * v) >> 31) + H4
    acc = ((acc * v) >> 31) + H3
    acc = ((acc * v) >> 31) + H2
    acc = ((acc * v) >> 31) + H1
    acc = ((acc * v) >> 31) + H0
    return (acc * v) >> 30


@triton.jit
def gumbel(high, low):
    """G(s) in units of 2^-32, int64, for the 64-bit uniform with these two uint32 halves."""
    s = (high.to(tl.uint64) << 32) | low.to(tl.uint64)
    small = (high >> 31) == 0
    t = tl.where(small, s, s ^ 0xFFFFFFFFFFFFFFFF)
    exponent, rest = split_log((t << 1) + 1)
    negated_log = (((65 - exponent) * LN2_Q48) >> 16) - rest
    # Where u >= 1/2 the quotient below is not used: v is kept in range all the same.
    v = (high >> 1).to(tl.int64) & 0x3FFFFFFF
    of_small = negated_log - log_of_quotient(v)
    exponent, rest = split_log(negated_log.to(tl.uint64))
    of_large = -((((exponent - 32) * LN2_Q48) >> 16) + rest)
    return tl.where(small, of_small, of_large)


@triton.jit
def token_gumbel(seed, token, position):
    """The exact noise of tokens, int64 in units of 2^-32."""
    high = token_word(seed, token, position, TOKEN_HIGH)
    low = token_word(seed, token, position, TOKEN_LOW)
    return gumbel(high, low)
