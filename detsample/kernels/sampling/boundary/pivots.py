"""Rough sums of weights, and four values around which the boundary of a row may lie, guessed from a sample.

Rough means: in fp32, with the hardware's exp2. The sums of what reaches a value are only guesses, which exact sums
later prove right or wrong. The sum over the whole row is known to within `total_between`, and decides only what it
cannot get wrong.
"""

import triton
import triton.language as tl

from detsample.kernels.sampling.candidates import MOST_K, MOST_K_LISTED
from detsample.kernels.sampling.rows import JOINT
from detsample.kernels.sampling.tiles import forbid

PIVOTS = tl.constexpr(4)
ANCHOR = tl.constexpr(2)  # the number of the pivot from which the boundary is looked for
SAMPLE = tl.constexpr(512)
FLAT = tl.constexpr(32.0)  # a row whose sample is as wide as so many equal tokens keeps thousands by a large top-p
BISECTIONS = tl.constexpr(8)
RUNGS = tl.constexpr(8)  # fp32 numbers that a row keeps (the pivots, then the reference) and that a part keeps (what
# reaches each pivot, then all)

HIGHEST = tl.constexpr(59.0)  # in a useful sum the largest weight is at most 2 to this power times the reference's

LOG2E = tl.constexpr(1.4426950408889634)
FLT_MAX = tl.constexpr(3.4028234663852886e38)


@triton.jit
def is_in_doubt(top_k, top_p):
    """Whether the boundary may lie among thousands of tokens: with top-p but without top-k, or with a large top-k."""
    return ((top_k == 0) & (top_p < 1.0)) | (top_k > MOST_K_LISTED)


@triton.jit
def is_weighed(mode, top_k, top_p):
    """Whether a row's rough weight is wanted: if top-p takes its share of all tokens, or of nearly all."""
    return (top_p < 1.0) & ((top_k == 0) | ((top_k <= MOST_K) & ((mode & JOINT) != 0)))


@triton.jit
def rate_of(scale, by_weight):
    """The factor between gaps of logits and the exponents of rough weights, exp2(rate * gap); 0 if tokens are counted
    and not weighed.
    """
    return tl.where(by_weight, tl.minimum(scale * LOG2E, FLT_MAX), 0.0)


@triton.jit
def rough_weight(x, reference, rate):
    """The weight of tokens, roughly, relative to a token with the logit `reference`. For tokens that cannot be drawn it
    is 0 if tokens are weighed, and means nothing if they are counted: a condition here would make `summarize` a third
    slower.
    """
    return tl.exp2(tl.minimum((x - reference) * rate, 60.0))


@triton.jit
def rough_root(x):
    """The square root of fp32 numbers to about 4%, by halving the exponent."""
    return ((x.to(tl.int32, bitcast=True) >> 1) + 0x1FBD1DF5).to(tl.float32, bitcast=True)


@triton.jit
def quotient(x, y):
    """x / y as fp32. The division is made in fp64, because no fp32 division is the same everywhere."""
    return (x.to(tl.float64) / tl.where(y > 0.0, y, 1.0).to(tl.float64)).to(tl.float32)


@triton.jit
def shares_around(share, whole, squares):
    """[PIVOTS] shares on both sides of the wanted one, the smallest first. The distances are in the logit of the share,
    ln(s / (1 - s)), and in deviations of what the sample says of it.

    A sample in which tokens have different weights is worth as many equal tokens as the square of the sum of its
    weights, divided by the sum of their squares.
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
    """[PIVOTS] values that about `goals` of the measure reaches, by bisection."""
    low = tl.full([PIVOTS], 0.0, tl.float32) + lowest
    high = tl.full([PIVOTS], 0.0, tl.float32) + highest
    for _ in range(BISECTIONS):
        middle = low * 0.5 + high * 0.5
        reached = tl.sum(tl.where(x[:, None] >= middle[None, :], measure[:, None], 0.0), axis=0) >= goals
        low = tl.where(reached, middle, low)
        high = tl.where(reached, high, middle)
    return low


@triton.jit
def sample_of_row(row_logits, vocab, rate):
    """(values, measure, largest, whole, squares): SAMPLE logits of a row, what each counts for, and the largest; the
    sum of what they count for, and the sum of the squares.
    """
    token = (tl.arange(0, SAMPLE).to(tl.int64) * vocab) // SAMPLE
    x = forbid(tl.load(row_logits[0] + token), row_logits, token, token < vocab).to(tl.float32)
    drawable = x > float("-inf")
    reference = tl.max(tl.where(drawable, x, -FLT_MAX), axis=0)
    measure = tl.where(drawable, rough_weight(x, reference, rate), 0.0)
    whole, squares = tl.sum(measure, axis=0), tl.sum(measure * measure, axis=0)
    return tl.where(drawable, x, reference), measure, reference, whole, squares


@triton.jit
def pivots_of_sample(x, measure, largest, whole, squares, share):
    """[PIVOTS] falling values: about `share` of the sample's measure reaches the middle ones."""
    goals = shares_around(share, whole, squares) * whole
    return values_reached(x, measure, goals, tl.min(x, axis=0), largest)


@triton.jit
def total_between(whole, reference, top, rate, chain):
    """(lowest, highest): int64 numbers between which exact sums of weights lie, of a row's tokens or of those that
    reach some value. They mean something if `is_known`.

    They are computed from rough sums, `whole`, whose weights are relative to the logit `reference`. `top` is the row's
    largest logit. Each lane of `summarize` has added up `chain` quads.

    These are the relative errors, with u = 2^-24. A weight is exp2 of y = fl(fl(x - reference) * rate), and y is at
    most h, that of `top`. The two roundings of y change a weight by at most 2 |y| u ln 2 < 1.4 |y| u. Where y is below
    -h and below -30, the weight is negligible beside that of the reference. The same holds for `top`, by which the sum
    is divided. The roundings of the rate and of log2(e) stretch all gaps by the same factor, by 2 u. This changes a sum
    as it would change its mean gap, which is at most ln(2^21): 30 u. The hardware's exp2 is within 8 u, twice. Each
    addition of positive numbers costs u: there are `chain` and two in a lane, and less than 40 from lanes to parts to
    the row. The exact weights are of gaps with two roundings, which is 30 u again by the mean gap; they are within 4 u;
    and they are within half a unit or, where they vanish, one unit of 2^-40 for each token, which is 32 u for 2^21
    tokens. All in all this is less than (154 + chain + 2.8 max(h, 30)) u.
    """
    above = (top - reference) * rate
    total = whole.to(tl.float64) * 1099511627776.0 / tl.exp2(tl.minimum(above, HIGHEST)).to(tl.float64)
    error = total * (160.0 + chain + 2.8 * tl.maximum(above, 30.0)).to(tl.float64) * 5.9604644775390625e-08
    return tl.maximum((total - error).to(tl.int64), 1), (total + error).to(tl.int64) + 1


@triton.jit
def is_known(whole, reference, top, rate):
    """Whether the rough sum `whole` of a row means something: not if a weight is too large, or all are too small."""
    return ((top - reference) * rate <= HIGHEST) & (rate < FLT_MAX) & (whole > 0.0)


@triton.jit
def pick(values, number):
    """One of a few fp32 values, as a scalar."""
    return tl.sum(tl.where(tl.arange(0, values.shape[0]) == number, values, 0.0), axis=0)


@triton.jit
def reaching(x, w, pivot):
    """For each quad, [LANES], the rough weight of its tokens that reach the pivot."""
    return tl.sum(tl.where(x >= pivot, w, 0.0), axis=1)


@triton.jit
def reaching_lower(x, w, pivot):
    """The same as `reaching`, with the condition turned round. Of four equal conditions the compiler would pack two
    into bits and take them out again one by one, which is eight instructions a logit (sm_90, Triton 3.6).
    """
    return tl.sum(tl.where(x < pivot, 0.0, w), axis=1)
