"""ceil(fraction * integer), exactly, for an fp32 fraction below 1 (spec section 6)."""

import triton
import triton.language as tl


@triton.jit
def ceil_product(fraction, whole):
    """ceil(fraction * whole), int64; 0 < fraction < 1 in fp32, 0 <= whole <= 2^61 in int64.

    fraction is M / 2^s with M below 2^24: the product of up to 85 bits is held as `upper` * 2^32 + `lower`.
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
