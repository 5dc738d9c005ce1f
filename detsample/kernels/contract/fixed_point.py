"""Scores and logarithms are int64 in units of 2^-32 (spec sections 7 to 9): conversions from fp32 and back."""

import triton
import triton.language as tl

UNIT = tl.constexpr(2.3283064365386963e-10)  # 2^-32
LARGEST = tl.constexpr(1073741824.0)  # 2^30: where the scale of scores ends


@triton.jit
def fixed_point(z):
    """fp32 numbers in units of 2^-32 as int64, after clamping them to [-2^30, 2^30]; Z(a) of spec section 8 for a gap.
    """
    clamped = tl.minimum(tl.maximum(z, -LARGEST), LARGEST)
    return (clamped * 4294967296.0).to(tl.int64)


@triton.jit
def from_units(units):
    """The fp32 number nearest to an int64 number of units of 2^-32; of two equally near ones the even one."""
    return units.to(tl.float32) * UNIT
