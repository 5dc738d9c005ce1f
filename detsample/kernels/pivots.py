"""Where a boundary probably is: four keys around it, guessed from a sample of the row.

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
def shares_around(share):
    """[PIVOTS]: shares that lie 3.2 and 0.7 standard deviations of the sample's own share to both sides of the
    wanted one.
    """
    deviation = rough_root(share * (1.0 - share)) * 0.02209709  # 1 / sqrt(SAMPLE)
    pivot = tl.arange(0, PIVOTS)
    away = tl.where((pivot & 1) == 0, 0.7, 3.2)
    return tl.minimum(tl.maximum(share + tl.where(pivot < 2, away, -away) * deviation, 0.0), 1.0)


@triton.jit
def sample_keys(row_logits, vocab):
    """[SAMPLE] keys of tokens at equal distances."""
    token = (tl.arange(0, SAMPLE).to(tl.int64) * vocab) // SAMPLE
    return key_of(tl.load(row_logits + token).to(tl.float32))


@triton.jit
def guess_pivots(keys, scale, largest, share, by_weight):
    """[PIVOTS] keys that about the shares around `share` of the sample's weight, or of its tokens, reach."""
    weights = weight(largest - scaled_logit(value_of(keys), scale))
    # Weights in units of 2^-18 of the largest: their sum fits 32 bits, and a guess needs no more.
    measure = tl.where(keys > MINUS_INF_KEY, tl.where(by_weight, (weights >> 22).to(tl.int32), 1), 0)
    goal = (shares_around(share) * tl.sum(measure, axis=0).to(tl.float32)).to(tl.int32)
    low = tl.min(tl.where(measure > 0, keys, 0x7FFFFFFF), axis=0)
    high = tl.max(keys, axis=0)
    lowest = tl.full([PIVOTS], 0.0, tl.float32) + value_of(tl.minimum(low, high))
    highest = tl.full([PIVOTS], 0.0, tl.float32) + value_of(high)
    for _ in range(BISECTIONS):
        middle = lowest * 0.5 + highest * 0.5
        reaches = keys[:, None] >= key_of(middle)[None, :]
        reached = tl.sum(tl.where(reaches, measure[:, None], 0), axis=0) >= goal
        lowest = tl.where(reached, middle, lowest)
        highest = tl.where(reached, highest, middle)
    return tl.maximum(key_of(lowest), LOWEST_KEY)  # whoever reaches a pivot can be drawn


@triton.jit
def pivot_at(pivots, NUMBER: tl.constexpr):
    """One of the pivots, as a scalar."""
    return tl.sum(tl.where(tl.arange(0, PIVOTS) == NUMBER, pivots, 0), axis=0)
