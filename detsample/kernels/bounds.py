"""Bounds that no score exceeds, at a fraction of a score's cost: they tell which tokens may win."""

import triton
import triton.language as tl

from detsample.kernels.fixed_point import LARGEST, from_units
from detsample.kernels.philox import TOKEN_HIGH, philox
from detsample.kernels.tiles import LANES

LN2_TIMES_2_POW_MINUS_23 = tl.constexpr(8.262958294867817e-08)
LN2_TIMES_159 = tl.constexpr(110.2104017090313)


@triton.jit
def gumbel_bound(high):
    """An fp32 number that no noise with this high word exceeds by more than the margin in `may_beat`.

    -ln(-ln(1-u)) <= -ln u, and log2(1 + f) >= f on [0, 1], so the bits of the fp32 `high`, read as an integer,
    are a lower bound of its logarithm (Mitchell's logarithm). u may be as small as 2^-65 when `high` is 0,
    which is 2^-33 in units of the high word. The bound is at most 0.06 above -ln u. No hardware function: the
    interpreter and every GPU filter alike.
    """
    value = tl.maximum(high.to(tl.float32), 1.1641532182693481e-10)
    return value.to(tl.int32, bitcast=True).to(tl.float32) * -LN2_TIMES_2_POW_MINUS_23 + LN2_TIMES_159


@triton.jit
def score_bound(x, scale, high):
    """A bound of the scores of tokens with these high words. The scale of scores ends at -2^30 (spec section 8)."""
    return tl.maximum(x * scale, -LARGEST) + gumbel_bound(high)


@triton.jit
def tile_bound(x0, x1, x2, x3, start, scale, seed, position):
    """[LANES]: a bound of the scores of each quad's tokens."""
    quads = ((start >> 2) + tl.arange(0, LANES)).to(tl.uint32)
    w0, w1, w2, w3 = philox(seed, quads, position, TOKEN_HIGH)
    b0 = score_bound(x0, scale, w0)
    b1 = score_bound(x1, scale, w1)
    b2 = score_bound(x2, scale, w2)
    b3 = score_bound(x3, scale, w3)
    return tl.maximum(tl.maximum(b0, b1), tl.maximum(b2, b3))


@triton.jit
def may_beat(bound, score):
    """Whether a group with this bound could hold a score of at least `score`.

    Bounds are fp32: 2^-12 + |bound| / 2^20 covers what their four roundings, those of `gumbel_bound` and that
    of the score to fp32 can lose, about |bound| / 2^22 + 2^-16.
    """
    margin = 0.000244140625 + tl.abs(bound) * 9.5367431640625e-07
    return (bound > float("-inf")) & (bound + margin >= from_units(score))
