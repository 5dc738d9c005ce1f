"""The integer logarithm (spec section 7, SPLIT and LOGQ): Q32 results from 64-bit integers, no floating point."""

import triton
import triton.language as tl

LN2_Q48 = tl.constexpr(195103586505167)
SQRT2_Q31 = tl.constexpr(3037000499)

Q0 = tl.constexpr(2147483648)
Q1 = tl.constexpr(-1073741831)
Q2 = tl.constexpr(715827829)
Q3 = tl.constexpr(-536869550)
Q4 = tl.constexpr(429500373)
Q5 = tl.constexpr(-357993763)
Q6 = tl.constexpr(306742235)
Q7 = tl.constexpr(-266521740)
Q8 = tl.constexpr(237140951)
Q9 = tl.constexpr(-234035186)
Q10 = tl.constexpr(228418008)
Q11 = tl.constexpr(-125534836)


@triton.jit
def drop_bits(rest, exponent, WIDTH: tl.constexpr):
    """One step of the binary search for the leading bit."""
    large = (rest >> WIDTH) != 0
    return tl.where(large, rest >> WIDTH, rest), exponent + tl.where(large, WIDTH, 0)


@triton.jit
def floor_log2(n):
    """floor(log2 n) of a positive uint64, as int64. Triton has no count of leading zeros that every backend knows."""
    rest = n
    exponent = (n & 0).to(tl.int64)
    for step in tl.static_range(6):
        rest, exponent = drop_bits(rest, exponent, 32 >> step)
    return exponent


@triton.jit
def split_log(n):
    """(e, r) with ln n = e ln 2 + r / 2^32, for a positive uint64 (SPLIT)."""
    exponent = floor_log2(n)
    t = ((n << (63 - exponent).to(tl.uint64)) >> 32).to(tl.int64)
    upper = t > SQRT2_Q31
    exponent += tl.where(upper, 1, 0)
    f = tl.where(upper, t >> 1, t) - 2147483648
    acc = ((f * Q11) >> 31) + Q10
    acc = ((acc * f) >> 31) + Q9
    acc = ((acc * f) >> 31) + Q8
    acc = ((acc * f) >> 31) + Q7
    acc = ((acc * f) >> 31) + Q6
    acc = ((acc * f) >> 31) + Q5
    acc = ((acc * f) >> 31) + Q4
    acc = ((acc * f) >> 31) + Q3
    acc = ((acc * f) >> 31) + Q2
    acc = ((acc * f) >> 31) + Q1
    acc = ((acc * f) >> 31) + Q0
    return exponent, (acc * f) >> 30


@triton.jit
def ln_of_weight(weight):
    """LN: ln(weight / 2^40) in units of 2^-32, for a positive int64."""
    exponent, rest = split_log(weight.to(tl.uint64))
    return (((exponent - 40) * LN2_Q48) >> 16) + rest
