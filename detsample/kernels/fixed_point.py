"""Scores and logarithms are int64 in units of 2^-32 (spec sections 7 to 9): from fp32, and back."""

import triton
import triton.language as tl

UNIT = tl.constexpr(2.3283064365386963e-10)  # 2^-32
LARGEST = tl.constexpr(1073741824.0)  # 2^30: where the scale of scores ends


@triton.jit
def fixed_point(z):
    """Z: fp32 numbers, clamped to the scale, in units of 2^-32."""
    clamped = tl.minimum(tl.maximum(z, -LARGEST), LARGEST)
    return (clamped * 4294967296.0).to(tl.int64)


@triton.jit
def from_units(units):
    """The fp32 number that is nearest to so many units."""
    return units.to(tl.float32) * UNIT
