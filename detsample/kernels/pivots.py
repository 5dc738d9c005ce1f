"""Where a boundary probably is: four keys around it, guessed from a sample of the row or from its groups' maxima.

Only speed hangs on the guess. `mass` measures the row at these keys, and the exact measures say between which
two the boundary lies.
"""

import triton
import triton.language as tl

from detsample.kernels.order import LOWEST_KEY, MINUS_INF_KEY, key_of, value_of
from detsample.kernels.weight import scaled_logit, weight

PIVOTS = tl.constexpr(4)
SAMPLE = tl.constexpr(2048)
BISECTIONS = tl.constexpr(12)


@triton.jit
def rough_root(x):
    """The square root of fp32 numbers to about 4%, by halving the exponent."""
    return ((x.to(tl.int32, bitcast=True) >> 1) + 0x1FBD1DF5).to(tl.float32, bitcast=True)


@triton.jit
def keys_reached(keys, measure, goals):
    """[PIVOTS] keys that, of the given ones, about `goals` worth of `measure` reach, by bisection between values."""
    low = value_of(tl.min(tl.where(measure > 0, keys, 0x7FFFFFFF), axis=0))
    high = value_of(tl.max(keys, axis=0))
    lowest = tl.full([PIVOTS], 0.0, tl.float32) + tl.minimum(low, high)
    highest = tl.full([PIVOTS], 0.0, tl.float32) + high
    for _ in range(BISECTIONS):
        middle = lowest * 0.5 + highest * 0.5
        reaches = keys[:, None] >= key_of(middle)[None, :]
        reached = tl.sum(tl.where(reaches, measure[:, None], 0), axis=0) >= goals
        lowest = tl.where(reached, middle, lowest)
        highest = tl.where(reached, highest, middle)
    return tl.maximum(key_of(lowest), LOWEST_KEY)  # whoever reaches a pivot can be drawn


@triton.jit
def shares_around(share, measure, whole):
    """[PIVOTS]: shares that lie 3.2 and 0.7 standard deviations of the sample's own share to both sides of the wanted
    one. A sample of weights is worth as many tokens as the square of their sum is squares of them.
    """
    squares = tl.sum(measure.to(tl.int64) * measure.to(tl.int64), axis=0).to(tl.float32)
    deviation = rough_root(share * (1.0 - share)) * rough_root(squares)
    pivot = tl.arange(0, PIVOTS)
    away = tl.where((pivot & 1) == 0, 0.7, 3.2)
    goals = share * whole + tl.where(pivot < 2, away, -away) * deviation
    return tl.minimum(tl.maximum(goals, 0.0), whole).to(tl.int32)


@triton.jit
def sample_keys(row_logits, vocab):
    """[SAMPLE] keys of tokens at equal distances."""
    token = (tl.arange(0, SAMPLE).to(tl.int64) * vocab) // SAMPLE
    return key_of(tl.load(row_logits + token).to(tl.float32))


@triton.jit
def pivots_of_sample(keys, scale, largest, share, by_weight):
    """[PIVOTS] keys around the one that `share` of the sample's weight, or of its tokens, reaches."""
    weights = weight(largest - scaled_logit(value_of(keys), scale))
    # Weights in units of 2^-18 of the largest: their sum fits 32 bits, and a guess needs no more.
    measure = tl.where(keys > MINUS_INF_KEY, tl.where(by_weight, (weights >> 22).to(tl.int32), 1), 0)
    whole = tl.sum(measure, axis=0).to(tl.float32)
    return keys_reached(keys, measure, shares_around(share, measure, whole))


@triton.jit
def pivots_of_groups(group_keys):
    """[PIVOTS] keys that 10, 40, 75 and 95 of 100 groups' maxima reach: about 0.1, 0.5, 1.4 and 3 tokens a group.

    For rows in which so few tokens weigh so much that a sample misses most of them.
    """
    measure = (group_keys > MINUS_INF_KEY).to(tl.int32)
    pivot = tl.arange(0, PIVOTS)
    share = tl.where(pivot < 2, tl.where(pivot == 0, 0.1, 0.4), tl.where(pivot == 2, 0.75, 0.95))
    return keys_reached(group_keys, measure, (share * tl.sum(measure, axis=0).to(tl.float32)).to(tl.int32))


@triton.jit
def pivot_at(pivots, NUMBER: tl.constexpr):
    """One of the pivots, as a scalar."""
    return tl.sum(tl.where(tl.arange(0, PIVOTS) == NUMBER, pivots, 0), axis=0)
