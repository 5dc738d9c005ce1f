"""ceil(fraction * integer), exactly, for an fp32 fraction below 1: the thresholds of min-p and top-p (spec section 6).
"""

import triton
import triton.language as tl

EVERYTHING = tl.constexpr(1 << 62)  # a target that no sum of weights or count reaches


@triton.jit
def ceil_product(fraction, whole):
    """ceil(fraction * whole) as int64, for an fp32 fraction with 0 < fraction < 1 and an int64 with 0 <= whole <= 2^61.

    The fraction is M / 2^s with an integer M below 2^24. The product M * whole has up to 85 bits and is held as `upper`
    * 2^32 + `lower`.
    """
    bits = fraction.to(tl.int32, bitcast=True).to(tl.int64)
    exponent = bits >> 23
    significand = tl.where(exponent == 0, bits & 0x7FFFFF, (bits & 0x7FFFFF) | 0x800000)
    shift = 150 - tl.maximum(exponent, 1)
    lower = significand * (whole & 0xFFFFFFFF)
    upper = significand * (whole >> 32) + (lower >> 32)
    lower = lower & 0xFFFFFFFF
    below = tl.minimum(shift, 31)
    near = (upper << (32 - below)) + ((lower + (1 << below) - 1) >> below)
    beyond = tl.minimum(tl.maximum(shift - 32, 0), 62)
    left_over = ((upper & ((tl.full([], 1, tl.int64) << beyond) - 1)) | lower) != 0
    far = (upper >> beyond) + left_over.to(tl.int64)
    return tl.where(shift < 32, near, far)


@triton.jit
def top_p_target(top_p, total):
    """The weight that the kept prefix must reach, given the weight `total` of which top-p takes its share: 1 where only
    the first token is wanted, and out of reach where top-p is off (spec section 6).
    """
    inside = (top_p > 0.0) & (top_p < 1.0)
    product = ceil_product(tl.where(inside, top_p, 0.5), total)
    return tl.where(inside, product, tl.where(top_p >= 1.0, tl.full([], EVERYTHING, tl.int64), 1))
