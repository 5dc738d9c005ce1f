"""Bounds that no score exceeds, at a fraction of a score's cost: they tell which tokens may win.

A score is `G - a`, noise less gap, and the gap is measured from the row's largest logit M, which `summarize` does not
know yet. So a bound is measured from an anchor A: `fl(fl(fl(x - A) * r) + g)`, with `g` a bound of the noise and `r`
one over the temperature. `summarize` has the anchor 0, later kernels have M itself. Between the two measures lies the
row's *shift* `(M - A) * r`, and a score is compared with the bound less the shift.

Why `may_beat` never misses a token that could win, in temperatures and with u = 2^-24. Noise lies between -3.81 and
45.06 (spec section 7). The token of M is kept and has the gap 0, so its score is at least -3.81, and only tokens with
a gap below 49 can win. Let d = (M - x) * r be exact; the gap a has two roundings, so d < 49.1 and
a >= d - 2.1 * 49.1 u. The exact (x - A) * r is shift - d, at most |shift| + 49.1 in size, and what `score_bound` makes
of it has three roundings: two of numbers of that size and one of the sum with g, which is within -0.1 and 45.2. The
shift itself has two, and subtracting it one, of a number below 100. The roundings of `gumbel_bound` lose less than
2^-15, that of the score to fp32 50 u. All in all bound - shift >= score - (5 |shift| u + 500 u + 2^-15), and the margin
of 2^-12 + |shift| * 2^-20 = 2^-12 + 16 |shift| u is more. Nothing on the way overflows where |shift| is at most 2^20,
except for tokens so far below M that they cannot win, whose bound may be -inf.
"""

import triton
import triton.language as tl

from detsample.kernels.contract.fixed_point import from_units
from detsample.kernels.contract.philox import TOKEN_HIGH, philox
from detsample.kernels.sampling.tiles import LANES

LN2_TIMES_2_POW_MINUS_23 = tl.constexpr(8.262958294867817e-08)
LN2_TIMES_159 = tl.constexpr(110.2104017090313)
FARTHEST = tl.constexpr(1048576.0)  # 2^20: beyond such a shift bounds would have a margin above 1, and are not used
HOPELESS = tl.constexpr(50.0)  # no token with a larger gap can win


@triton.jit
def gumbel_bound(high):
    """An fp32 number that no noise with this high word exceeds by more than 2^-15.

    Two inequalities give it: -ln(-ln(1-u)) <= -ln u, and log2(1 + f) >= f on [0, 1]. By the second, the bits of the
    fp32 number `high`, read as an integer, are a lower bound of its logarithm (Mitchell's logarithm). Where `high` is
    0, u may be as small as 2^-65, which is 2^-33 in units of the high word. The bound is at most 0.06 above -ln u. It
    uses no hardware function, so the interpreter and every GPU look at the same tokens.
    """
    value = tl.maximum(high.to(tl.float32), 1.1641532182693481e-10)
    return value.to(tl.int32, bitcast=True).to(tl.float32) * -LN2_TIMES_2_POW_MINUS_23 + LN2_TIMES_159


@triton.jit
def score_bound(x, anchor, scale, high):
    """Numbers that the scores of tokens with these high words do not exceed, measured from `anchor`; -inf for logits of
    -inf.
    """
    return (x - anchor) * scale + gumbel_bound(high)


@triton.jit
def tile_bound(x0, x1, x2, x3, start, anchor, scale, seed, position):
    """For each lane of a tile, [LANES], a number that the scores of its four tokens do not exceed, measured from
    `anchor`.
    """
    quads = ((start >> 2) + tl.arange(0, LANES)).to(tl.uint32)
    w0, w1, w2, w3 = philox(seed, quads, position, TOKEN_HIGH)
    b0 = score_bound(x0, anchor, scale, w0)
    b1 = score_bound(x1, anchor, scale, w1)
    b2 = score_bound(x2, anchor, scale, w2)
    b3 = score_bound(x3, anchor, scale, w3)
    return tl.maximum(tl.maximum(b0, b1), tl.maximum(b2, b3))


@triton.jit
def may_beat(bound, score, shift):
    """Whether a group with this bound could hold a score of at least `score`, which must be the score of a kept token.
    """
    margin = 0.000244140625 + tl.abs(shift) * 9.5367431640625e-07
    return (bound > float("-inf")) & (bound - shift + margin >= from_units(score))
