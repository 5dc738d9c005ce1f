"""The integer weight of a token (spec section 5)."""

import triton
import triton.language as tl

LARGEST_GAP = tl.constexpr(31.999998092651367)  # the fp32 below 32
GAP_UNITS = tl.constexpr(134217728.0)  # 2^27
LOG2E_Q31 = tl.constexpr(0xB8AA3B29)

C0 = tl.constexpr(0.7071067690849304)  # fp32 3f3504f3
C1 = tl.constexpr(-0.49012911319732666)  # fp32 befaf234
C2 = tl.constexpr(0.16986575722694397)  # fp32 3e2df14a
C3 = tl.constexpr(-0.03924674913287163)  # fp32 bd20c133
C4 = tl.constexpr(0.0068012988194823265)  # fp32 3bdedd6e
C5 = tl.constexpr(-0.0009475182159803808)  # fp32 ba7862df
C6 = tl.constexpr(0.000108511267171707)  # fp32 38e3908b


@triton.jit
def gap(x, largest, scale):
    """a: how far the logits `x` are below `largest`, times `scale`, which is one over the temperature (spec section 4).
    It is never NaN, because `largest` is not infinite and `scale` is not 0; it is infinite for a logit of -inf.
    """
    return (largest - x) * scale


@triton.jit
def weight(a):
    """W(a) as int64, for gaps a >= 0: close to 2^40 exp(-a), by the steps of spec section 5."""
    units = (tl.minimum(a, LARGEST_GAP) * GAP_UNITS).to(tl.uint32)
    y = ((units.to(tl.uint64) * LOG2E_Q31) >> 35).to(tl.int32)
    t = ((y & 0x7FFFFF) | 0x3F800000).to(tl.float32, bitcast=True) - 1.5
    h = t * C6 + C5
    h = h * t + C4
    h = h * t + C3
    h = h * t + C2
    h = h * t + C1
    h = h * t + C0
    significand = h.to(tl.int32, bitcast=True) - 0x3E800000
    return (((significand.to(tl.int64) << 17) >> (y >> 23).to(tl.int64)) + 1) >> 1
