"""Where a boundary probably lies: guessed from a sample, narrowed by approximate sums, never trusted.

`scan` samples the row, chooses four pivots around the place where the sample has its boundary, and sums up, in fp32
and with the hardware's exp2, what reaches each. `mass` interpolates between these sums and measures the row exactly at
two values close around the result. Only speed hangs on the guess: the exact measures tell whether it was right.
"""

import triton
import triton.language as tl

from detsample.kernels.logarithm import ln_of_weight

PIVOTS = tl.constexpr(4)
SAMPLE = tl.constexpr(512)
BISECTIONS = tl.constexpr(10)
FEW = tl.constexpr(30.0)
RUNGS = tl.constexpr(8)  # fp32 numbers that a row keeps (the pivots, the reference, whether few tokens reach the second
# pivot), and that a part keeps (what reaches each pivot, then all)
AIMED_AT = tl.constexpr(700.0)  # tokens to list on either side of the guess
EASY = tl.constexpr(800.0)  # tokens to list without a guess,
LN_EASY = tl.constexpr(6.684611727667927)  # and its logarithm

LOG2E = tl.constexpr(1.4426950408889634)
FLT_MAX = tl.constexpr(3.4028234663852886e38)


@triton.jit
def rate_of(scale, by_weight):
    """What rough weights are exponentials of, a unit of logits: 0 where tokens are counted, not weighed."""
    return tl.where(by_weight, tl.minimum(scale * LOG2E, FLT_MAX), 0.0)


@triton.jit
def rough_weight(x, reference, rate):
    """The weight of tokens relative to one with the logit `reference`, nearly; 0 for those that cannot be drawn."""
    return tl.where(x > float("-inf"), tl.exp2(tl.minimum((x - reference) * rate, 60.0)), 0.0)


@triton.jit
def rough_root(x):
    """The square root of fp32 numbers to about 4%, by halving the exponent."""
    return ((x.to(tl.int32, bitcast=True) >> 1) + 0x1FBD1DF5).to(tl.float32, bitcast=True)


@triton.jit
def shares_around(share, whole, squares):
    """[PIVOTS] measures that lie 2.5 and 0.7 standard deviations of the sample's own share to both sides of the wanted
    one.
    """
    deviation = rough_root(share * (1.0 - share)) * rough_root(squares)
    pivot = tl.arange(0, PIVOTS)
    away = tl.where((pivot == 0) | (pivot == PIVOTS - 1), 2.5, 0.7)
    goals = share * whole + tl.where(pivot * 2 < PIVOTS, -away, away) * deviation
    return tl.minimum(tl.maximum(goals, 0.0), whole)


@triton.jit
def ranks_around(rank, most):
    """[PIVOTS] numbers of tokens around what a poor guess says."""
    pivot = tl.arange(0, PIVOTS)
    times = tl.where(pivot < 2, tl.where(pivot == 0, 0.15, 0.4), tl.where(pivot == 2, 1.0, 2.2))
    return tl.minimum(tl.maximum(rank * times, 1.0), most)


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
    """(reference, [PIVOTS] values, falling, whether few tokens reach the second).

    About `share` of the sample's measure reaches the middle pivots. A sample of weights is worth as many tokens as the
    square of their sum is squares of them. Where that is few, the share is a poor guess, and the pivots are spread by
    rank around it.
    """
    token = (tl.arange(0, SAMPLE).to(tl.int64) * vocab) // SAMPLE
    x = tl.load(row_logits + token).to(tl.float32)
    drawable = (x > float("-inf")).to(tl.float32)
    reference = tl.max(tl.where(drawable > 0.0, x, -FLT_MAX), axis=0)
    lowest = tl.min(tl.where(drawable > 0.0, x, reference), axis=0)
    measure = rough_weight(x, reference, rate)
    whole = tl.sum(measure, axis=0)
    squares = tl.sum(measure * measure, axis=0)
    peaked = whole * whole < FEW * squares
    goals = tl.where(peaked, share * whole, shares_around(share, whole, squares))
    pivots = values_reached(x, measure, goals, lowest, reference)
    few = peaked
    if peaked:
        rank = tl.sum(tl.where(x >= tl.min(pivots, axis=0), drawable, 0.0), axis=0)
        goals = ranks_around(rank, tl.sum(drawable, axis=0))
        pivots = values_reached(x, drawable, goals, lowest, reference)
        few = peaked & (pick(goals, 1) * vocab <= EASY * SAMPLE)
    return reference, pivots, few


@triton.jit
def pick(values, NUMBER: tl.constexpr):
    """One of [PIVOTS] values, as a scalar."""
    return tl.sum(tl.where(tl.arange(0, PIVOTS) == NUMBER, values, 0.0), axis=0)


@triton.jit
def reaching(x, w, pivot):
    """[LANES]: the rough weight of each quad's tokens that reach the pivot."""
    return tl.sum(tl.where(x >= pivot, w, 0.0), axis=1)


@triton.jit
def sum_rungs(part_rungs, row, parts, first, MOST_PARTS: tl.constexpr):
    """[PIVOTS]: the sums over the parts of PIVOTS neighbouring numbers, from number `first` on."""
    part = tl.arange(0, MOST_PARTS)
    at = (row * parts + part[:, None]) * RUNGS + first + tl.arange(0, PIVOTS)[None, :]
    return tl.sum(tl.load(part_rungs + at, mask=part[:, None] < parts, other=0.0), axis=0)


@triton.jit
def quotient(x, y):
    """x / y, in fp64 since no fp32 division is the same everywhere."""
    return (x.to(tl.float64) / tl.where(y > 0.0, y, 1.0).to(tl.float64)).to(tl.float32)


@triton.jit
def log_share(part, whole):
    """ln(part / whole), at least ln 1e-7; by the integer logarithm, since Triton's own is a library's."""
    share = tl.minimum(tl.maximum(quotient(part, whole), 1e-7), 1.0)
    return ln_of_weight((share * 1099511627776.0).to(tl.int64)).to(tl.float32) * 2.3283064365386963e-10


@triton.jit
def interpolated(goal, first, last, upper, lower, whole, reference, rate):
    """(high, low): where the goal probably is, judged by two values near it, with about AIMED_AT tokens to either side.

    `upper` reaches the higher value `first`, `lower` reaches `last`. The measure that does not reach a value is taken
    to fall exponentially with it, which suits both the middle and the tail of a row.
    """
    rest = log_share(whole - upper, whole)
    fall = rest - log_share(whole - lower, whole)
    middle = first - (first - last) * quotient(rest - log_share(whole - goal, whole), fall)
    density = fall * tl.maximum(whole - goal, whole * 1e-7)
    reach = AIMED_AT * rough_weight(middle, reference, rate) * quotient(first - last, density)
    return middle + reach, middle - reach


@triton.jit
def sound(high, low, top):
    """The interval; one that ends at the largest logit has no end, and one made of infinities or NaN is everything."""
    fine = (low <= high) & (low >= -FLT_MAX)
    return tl.where(fine & (high < top), high, float("inf")), tl.where(fine, low, -FLT_MAX)


@triton.jit
def interval_around(pivots, part_rungs, row, parts, rate, share, top, MOST_PARTS: tl.constexpr):
    """(high, low): values between which the boundary of `share` of the row's measure probably lies, with about
    2 x AIMED_AT tokens between them. Where so few tokens reach `low` that all fit a list, `high` is infinite.

    `pivots` points at the numbers that the row keeps; `top` is its largest logit.
    """
    reached = sum_rungs(part_rungs, row, parts, 0, MOST_PARTS)
    whole = pick(sum_rungs(part_rungs, row, parts, 1, MOST_PARTS), PIVOTS - 1)
    values = tl.load(pivots + tl.arange(0, PIVOTS))
    goal = share * whole
    enough = reached >= goal
    first = tl.min(tl.where(enough, top, values), axis=0)
    last = tl.max(tl.where(enough, values, -FLT_MAX), axis=0)
    upper = tl.max(tl.where(enough, 0.0, reached), axis=0)
    lower = tl.min(tl.where(enough, reached, whole), axis=0)
    below_all = last == -FLT_MAX
    high, low = interpolated(
        goal, tl.where(below_all, pick(values, 0), first), tl.where(below_all, pick(values, PIVOTS - 1), last),
        tl.where(below_all, pick(reached, 0), upper), tl.where(below_all, pick(reached, PIVOTS - 1), lower),
        whole, tl.load(pivots + PIVOTS), rate,
    )  # fmt: skip
    few = tl.load(pivots + PIVOTS + 1) > 0.0
    low = tl.where(few & (goal <= pick(reached, 0)), pick(values, 0), tl.maximum(low, last))
    high = tl.where(few & (goal <= pick(reached, 1)), float("inf"), tl.minimum(high, first))
    return sound(high, low, top)


@triton.jit
def interval_again(
    pivots, part_rungs, row, parts, rate, share, top, high, low, share_above, share_reached, count,
    MOST_PARTS: tl.constexpr,
):  # fmt: skip
    """(high, low) once more, when it is known what share of the row reaches the first guess's ends, and it was wrong or
    its list too long: `count` tokens.
    """
    reached = sum_rungs(part_rungs, row, parts, 0, MOST_PARTS)
    whole = pick(sum_rungs(part_rungs, row, parts, 1, MOST_PARTS), PIVOTS - 1)
    values = tl.load(pivots + tl.arange(0, PIVOTS))
    goal = share * whole
    enough = reached >= goal
    first = tl.min(tl.where(enough, top, values), axis=0)
    last = tl.max(tl.where(enough, values, -FLT_MAX), axis=0)
    first = tl.where(share <= share_above, first, tl.minimum(first, tl.where(share <= share_reached, high, low)))
    last = tl.where(share > share_reached, last, tl.maximum(last, tl.where(share <= share_above, high, low)))
    new_high, new_low = interpolated(
        goal, high, low, share_above * whole, share_reached * whole, whole, tl.load(pivots + PIVOTS), rate
    )
    # A long list of all that reach `low`: taken to thin out exponentially up to the largest logit.
    log_count = ln_of_weight(tl.maximum(count, 2) << 40).to(tl.float32) * 2.3283064365386963e-10
    thinner = quotient(log_count - LN_EASY, log_count)
    unlimited = high > top
    new_high = tl.where(unlimited, float("inf"), tl.minimum(new_high, first))
    new_low = tl.where(unlimited, low + (top - low) * thinner, tl.maximum(new_low, last))
    return sound(new_high, new_low, top)
