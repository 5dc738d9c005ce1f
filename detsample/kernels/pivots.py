"""Rough sums of weights, and four values around which a row's boundary may lie, guessed from a sample.

Rough means: in fp32 and with the hardware's exp2. What reaches a value is only a guess, which exact sums prove right or
wrong later. The sum over the row is known to within `total_between`, and decides what it cannot get wrong.
"""

import triton
import triton.language as tl

from detsample.kernels.candidates import MOST_K
from detsample.kernels.rows import JOINT

PIVOTS = tl.constexpr(4)
SAMPLE = tl.constexpr(512)
BISECTIONS = tl.constexpr(10)
RUNGS = tl.constexpr(8)  # fp32 numbers that a row keeps (the pivots and the reference; later a bracket, see `aim`), and
# that a part keeps (what reaches each pivot, then all)

HIGHEST = tl.constexpr(59.0)  # by so many doublings may the largest weight exceed the reference's in a sum of use

LOG2E = tl.constexpr(1.4426950408889634)
FLT_MAX = tl.constexpr(3.4028234663852886e38)


@triton.jit
def is_in_doubt(top_k, top_p):
    """Whether the boundary may lie among thousands of tokens: top-p without top-k, or a large top-k."""
    return ((top_k == 0) & (top_p < 1.0)) | (top_k > MOST_K)


@triton.jit
def is_weighed(mode, top_k, top_p):
    """Whether a row's weights are wanted roughly: where top-p takes its share of all tokens, or of as good as all."""
    return (top_p < 1.0) & ((top_k == 0) | ((top_k <= MOST_K) & ((mode & JOINT) != 0)))


@triton.jit
def wanted_share(top_k, top_p, vocab):
    """The share of the row, in tokens where top-k is on and in weight otherwise, that its kept prefix is expected to
    hold.
    """
    by_count = (top_k.to(tl.float64) / vocab.to(tl.float64)).to(tl.float32)
    return tl.where(top_k > 0, by_count, tl.maximum(top_p, 0.0))


@triton.jit
def rate_of(scale, by_weight):
    """What rough weights are exponentials of, a unit of logits: 0 where tokens are counted, not weighed."""
    return tl.where(by_weight, tl.minimum(scale * LOG2E, FLT_MAX), 0.0)


@triton.jit
def rough_weight(x, reference, rate):
    """The weight of tokens relative to one with the logit `reference`, nearly. Of what cannot be drawn it is 0 where
    tokens are weighed, and means nothing where they are counted: a condition here would cost `scan` a third more.
    """
    return tl.exp2(tl.minimum((x - reference) * rate, 60.0))


@triton.jit
def rough_root(x):
    """The square root of fp32 numbers to about 4%, by halving the exponent."""
    return ((x.to(tl.int32, bitcast=True) >> 1) + 0x1FBD1DF5).to(tl.float32, bitcast=True)


@triton.jit
def quotient(x, y):
    """x / y, in fp64 since no fp32 division is the same everywhere."""
    return (x.to(tl.float64) / tl.where(y > 0.0, y, 1.0).to(tl.float64)).to(tl.float32)


@triton.jit
def rough_log(x):
    """ln of positive normal fp32 numbers, to about 3e-7 of it: x is m * 2^e with m around 1, and ln m is
    2 artanh((m - 1) / (m + 1)). A quarter of the instructions of the exact logarithm, which guesses have no use for.
    """
    bits = x.to(tl.int32, bitcast=True)
    exponent = (bits - 0x3F3504F3) >> 23  # sqrt(1/2): m lies between it and sqrt(2)
    m = (bits - (exponent << 23)).to(tl.float32, bitcast=True)
    s = quotient(m - 1.0, m + 1.0)
    square = s * s
    series = 1.0 + square * (0.33333334 + square * (0.2 + square * 0.14285715))
    return exponent.to(tl.float32) * 0.6931472 + 2.0 * s * series


@triton.jit
def shares_around(share, whole, squares):
    """[PIVOTS] shares to both sides of the wanted one, the smallest first.

    They are spread in the logit of the share, ln(s / (1 - s)), which is nearly straight in the value for bulk and tails
    of a row alike. A sample of weights is worth as many tokens as the square of their sum is squares of them.
    """
    inside = tl.minimum(tl.maximum(share, 0.0001), 0.9999)
    rarer = tl.minimum(inside, 1.0 - inside)
    variance = quotient(squares, whole * whole) + 0.01 + quotient(rarer * 0.0 + 1.0, rarer * (2.0 * SAMPLE))
    pivot = tl.arange(0, PIVOTS)
    away = tl.where(pivot < 2, tl.where(pivot == 0, -2.2, -0.6), tl.where(pivot == 2, 0.6, 2.2))
    odds = inside * tl.exp2(away * tl.minimum(rough_root(variance), 1.0) * LOG2E)
    return quotient(odds, 1.0 - inside + odds)


@triton.jit
def values_reached(x, measure, goals, lowest, highest):
    """[PIVOTS] values that about `goals` worth of the measure reach, by bisection."""
    low = tl.full([PIVOTS], 0.0, tl.float32) + lowest
    high = tl.full([PIVOTS], 0.0, tl.float32) + highest
    for _ in range(BISECTIONS):
        middle = low * 0.5 + high * 0.5
        reached = tl.sum(tl.where(x[:, None] >= middle[None, :], measure[:, None], 0.0), axis=0) >= goals
        low = tl.where(reached, middle, low)
        high = tl.where(reached, high, middle)
    return low


@triton.jit
def pivots_of_sample(row_logits, vocab, rate, share):
    """(reference, [PIVOTS] falling values): the sample's largest logit, and values of which about `share` of the
    sample's measure reaches the middle ones.
    """
    token = (tl.arange(0, SAMPLE).to(tl.int64) * vocab) // SAMPLE
    x = tl.load(row_logits + token).to(tl.float32)
    drawable = x > float("-inf")
    reference = tl.max(tl.where(drawable, x, -FLT_MAX), axis=0)
    lowest = tl.min(tl.where(drawable, x, reference), axis=0)
    measure = tl.where(drawable, rough_weight(x, reference, rate), 0.0)
    whole = tl.sum(measure, axis=0)
    goals = shares_around(share, whole, tl.sum(measure * measure, axis=0)) * whole
    return reference, values_reached(x, measure, goals, lowest, reference)


@triton.jit
def total_between(whole, reference, top, rate, chain):
    """(lowest, highest, whether they mean something): int64s between which the exact sum of a row's weights lies, given
    the rough one, `whole`, of weights relative to the logit `reference`; `top` is the row's largest logit. Each lane of
    `scan` has added up `chain` quads.

    Relative errors, with u = 2^-24. A weight is exp2 of y = fl(fl(x - reference) * rate), and y is at most h, that of
    `top`. Its two roundings change a weight by at most 2 |y| u ln 2 < 1.4 |y| u; where y is below -h and below -30, the
    weight is nothing beside that of the reference. The same for `top`, by which the sum is divided. The roundings of
    the rate and of log2(e) stretch all gaps alike, by 2 u: a sum changes by that of its mean gap, which is at most
    ln(2^21): 30 u. The hardware's exp2 is within 8 u, twice. Adding positive numbers costs u an addition: `chain` and
    two in a lane, less than 40 from lanes to parts to the row. The exact weights are of gaps with two roundings, 30 u
    again by the mean gap, are within 4 u, and within half a unit or, where they vanish, one unit of 2^-40 a token: 2^21
    tokens have 32 u. In all less than (154 + chain + 2.8 max(h, 30)) u.
    """
    above = (top - reference) * rate
    total = whole.to(tl.float64) * 1099511627776.0 / tl.exp2(tl.minimum(above, HIGHEST)).to(tl.float64)
    error = total * (160.0 + chain + 2.8 * tl.maximum(above, 30.0)).to(tl.float64) * 5.9604644775390625e-08
    lowest = tl.maximum((total - error).to(tl.int64), 1)
    return lowest, (total + error).to(tl.int64) + 1, (above <= HIGHEST) & (rate < FLT_MAX) & (whole > 0.0)


@triton.jit
def pick(values, number):
    """One of a few fp32 values, as a scalar."""
    return tl.sum(tl.where(tl.arange(0, values.shape[0]) == number, values, 0.0), axis=0)


@triton.jit
def reaching(x, w, pivot):
    """[LANES]: the rough weight of each quad's tokens that reach the pivot."""
    return tl.sum(tl.where(x >= pivot, w, 0.0), axis=1)


@triton.jit
def reaching_lower(x, w, pivot):
    """The same, said the other way round: of four conditions alike the compiler packs two into bits and takes them out
    again one by one, eight instructions a logit (sm_90, Triton 3.6).
    """
    return tl.sum(tl.where(x < pivot, 0.0, w), axis=1)
