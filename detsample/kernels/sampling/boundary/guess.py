"""Guesses where a row's boundary lies, as closely as possible before anything is measured: an interval of values that
holds few enough tokens to list.

There are two sources. In the tail of a row, where a group seldom holds two of the largest tokens, the groups' maxima
tell nearly everything. Elsewhere the rough sums of `summarize` at four pivots are used. Between two values, the logit
of the share that reaches a value, ln(s / (1 - s)), is taken to be a straight line.

docs/performance.md says how often the first interval is right. If it is not, what `sum_weights` found there gives
the next one: by the straight line through what was measured or, if there were too many tokens, by those that were
listed.
"""

import triton
import triton.language as tl

from detsample.kernels.contract.order import INF_KEY, MINUS_INF_KEY, key_of, value_of
from detsample.kernels.sampling.boundary.pivots import (
    FLT_MAX,
    PIVOTS,
    RUNGS,
    pick,
    quotient,
    rough_log,
    rough_root,
    rough_weight,
)
from detsample.kernels.sampling.candidates import LIST
from detsample.kernels.sampling.rows import join_words
from detsample.kernels.sampling.tiles import load_tokens

STEPS = tl.constexpr(32)  # the number of values at which the tail is looked at
CHUNK = tl.constexpr(256)  # how many groups are looked at at a time
CROWDED = tl.constexpr(0.93)  # if a larger share of the groups is reached, maxima say too little about the other tokens
AIMED_AT = tl.constexpr(700.0)  # how many tokens to list on either side of the guess
FAR = tl.constexpr(2800.0)  # the same after a miss: more than a list holds, but the list is then a sample
MOST_K_LISTED = tl.constexpr(1024)  # up to this top_k all its tokens are listed, and with those of AIMED_AT they fit
EASY = tl.constexpr(1400.0)  # how many tokens to list in all, if everything from a value on is listed
MOST_AIMED_AT = tl.constexpr(950.0)  # the most tokens to list on either side, so that both sides fit a list
CLOSE = tl.constexpr(4)  # how many tokens of a sample there may be around a quantile before it matters where it lies


@triton.jit
def logit(share):
    """ln(s / (1 - s)) of a share s, roughly. Shares outside of 1e-7 to 1 - 1e-7 are brought to these ends."""
    inside = tl.minimum(tl.maximum(share, 1e-7), 1.0 - 1e-7)
    return rough_log(quotient(inside, 1.0 - inside))


@triton.jit
def before(values):
    """For each step its predecessor; 0 for the first step."""
    step = tl.arange(0, STEPS)
    return tl.sum(tl.where(step[None, :] == step[:, None] - 1, values[None, :], 0.0), axis=1)


@triton.jit
def first_where(condition):
    """The first step for which the condition holds, or STEPS if there is none."""
    return tl.min(tl.where(condition, tl.arange(0, STEPS), STEPS), axis=0)


@triton.jit
def maxima_reaching(group_key, groups, values, top, rate):
    """For each value, [STEPS], how many groups' maxima reach it, and the weight of these maxima."""
    count = tl.zeros([STEPS, CHUNK], tl.float32)
    weight = tl.zeros([STEPS, CHUNK], tl.float32)
    for start in range(0, groups, CHUNK):
        index = start + tl.arange(0, CHUNK)
        largest = value_of(tl.load(group_key + index, mask=index < groups, other=MINUS_INF_KEY))
        reaches = largest[None, :] >= values[:, None]
        count += tl.where(reaches, 1.0, 0.0)
        weight += tl.where(reaches, rough_weight(largest, top, rate)[None, :], 0.0)
    return tl.sum(count, axis=1), tl.sum(weight, axis=1)


@triton.jit
def interval_of_tail(group_key, groups, present, lowest, top, rate, goal):
    """(high, low, whether they mean something), found from the groups' maxima.

    `present` of the maxima are finite, and the smallest of these is `lowest`. `goal` is in units of the weight of
    `top`. If tokens fell into groups at random and a share f of the groups is reached, a group would have -ln(1 - f)
    such tokens on average.
    """
    step = tl.arange(0, STEPS)
    share = (step + 1).to(tl.float32) * 0.03125
    values = top * (1.0 - share) + lowest * share
    reached, least = maxima_reaching(group_key, groups, values, top, rate)
    left = tl.maximum(quotient(present - reached, present), 1e-7)
    tokens = -rough_log(left) * present
    new = reached - before(reached)
    heavier = quotient((tokens - before(tokens)) * (least - before(least)), new)
    weight = tl.cumsum(tl.where(new > 0.0, heavier, 0.0), axis=0)

    certain = first_where(least >= goal)  # maxima alone reach the goal
    likely = first_where((weight >= goal) & (reached <= present * CROWDED))
    last = tl.sum((tokens <= EASY).to(tl.int32), axis=0) - 1  # the lowest value that few enough tokens reach
    far = pick(weight, last) >= 1.15 * goal
    all_above = (likely < STEPS) & (last >= 0) & ((certain <= last) | far)
    chosen = tl.where(certain <= last, tl.maximum(certain, likely), last)
    low = pick(values, tl.where(all_above, tl.minimum(chosen, last), likely))

    upper = tl.where(likely > 0, pick(values, likely - 1), top)
    earlier = pick(weight, likely - 1)
    gone = quotient(goal - earlier, pick(weight, likely) - earlier)
    middle = upper - (upper - low) * gone
    density = quotient(pick(tokens, likely) - pick(tokens, likely - 1), upper - low)
    reach = quotient(low * 0.0 + AIMED_AT, density)
    high = tl.where(all_above, float("inf"), middle + reach)
    return high, tl.where(all_above, low, middle - reach), likely < STEPS


@triton.jit
def straight(share, first, upper, last, lower):
    """(value, density): the value at which `share` is reached, on the straight line between two values that the shares
    `upper` and `lower` reach. The density is in shares for each unit of the value.
    """
    start = logit(upper)
    fall = tl.maximum(logit(lower) - start, 1e-12)
    inside = tl.minimum(tl.maximum(share, 1e-7), 1.0 - 1e-7)
    middle = first - (first - last) * quotient(logit(inside) - start, fall)
    return middle, quotient(inside * (1.0 - inside) * fall, first - last)


@triton.jit
def sum_rungs(part_rungs, row, parts, first, MOST_PARTS: tl.constexpr):
    """[PIVOTS]: the sums, over the parts of a row, of PIVOTS neighbouring numbers from number `first` on."""
    part = tl.arange(0, MOST_PARTS)
    at = (row * parts + part[:, None]) * RUNGS + first + tl.arange(0, PIVOTS)[None, :]
    return tl.sum(tl.load(part_rungs + at, mask=part[:, None] < parts, other=0.0), axis=0)


@triton.jit
def bracket_of_pivots(values, shares, share, top):
    """(first, upper, last, lower): the closest values that less than `share`, and at least `share`, of the row reaches,
    and the shares that reach them.
    """
    enough = shares >= share
    first = tl.min(tl.where(enough, top, values), axis=0)
    upper = tl.max(tl.where(enough, 0.0, shares), axis=0)
    last = tl.max(tl.where(enough, values, -FLT_MAX), axis=0)
    lower = tl.min(tl.where(enough, shares, 1.0), axis=0)
    return first, upper, last, lower


@triton.jit
def interval_of_pivots(values, shares, share, first, upper, last, lower, reference, whole, rate):
    """(high, low) around the point where the line between the closest pivots reaches the goal; if the goal lies beyond
    all pivots, the line through the last two is used.
    """
    outside = (upper == 0.0) | (last == -FLT_MAX)
    two = tl.where(upper == 0.0, 0, 2)
    flat = pick(shares, two) >= pick(shares, two + 1)
    two, other = tl.where(flat, 0, two), tl.where(flat, PIVOTS - 1, two + 1)
    middle, density = straight(
        share, tl.where(outside, pick(values, two), first), tl.where(outside, pick(shares, two), upper),
        tl.where(outside, pick(values, other), last), tl.where(outside, pick(shares, other), lower),
    )  # fmt: skip
    reach = quotient(quotient(rough_weight(middle, reference, rate), whole), density) * AIMED_AT
    high, low = middle + reach, middle - reach
    return tl.where(upper > 0.0, tl.minimum(high, first), high), tl.maximum(low, last)


@triton.jit
def sound(high, low, top):
    """The interval, made safe: one that ends at the largest logit gets no end, and one with infinities or NaN becomes
    everything.
    """
    fine = (low <= high) & (low >= -FLT_MAX) & (low <= top)
    return tl.where(fine & (high < top), high, float("inf")), tl.where(fine, low, -FLT_MAX)


@triton.jit
def first_interval(
    row_pivots, part_rungs, group_key, row, parts, groups, present, lowest, top, tokens, rate, share,
    MOST_PARTS: tl.constexpr,
):  # fmt: skip
    """(high, low): values between which the boundary probably lies. The boundary is where `share` of the row's measure
    is reached: of its weight, or of the number of its `tokens` if `rate` is 0.

    If all tokens from `low` on fit a list, `high` is infinite. The pivots that the row keeps are replaced by a bracket,
    for `next_interval`.
    """
    pivots = row_pivots + row * RUNGS
    values = tl.load(pivots + tl.arange(0, PIVOTS))
    reference = tl.load(pivots + PIVOTS)
    whole = tl.where(rate > 0.0, pick(sum_rungs(part_rungs, row, parts, 1, MOST_PARTS), PIVOTS - 1), tokens)
    shares = quotient(sum_rungs(part_rungs, row, parts, 0, MOST_PARTS), whole)
    first, upper, last, lower = bracket_of_pivots(values, shares, share, top)
    high, low = interval_of_pivots(values, shares, share, first, upper, last, lower, reference, whole, rate)
    in_top_units = quotient(whole, rough_weight(top, reference, rate))
    tail_high, tail_low, usable = interval_of_tail(group_key, groups, present, lowest, top, rate, share * in_top_units)
    tl.debug_barrier()  # every lane has read the pivots
    write_bracket(pivots, first, upper, last, lower)
    return sound(tl.where(usable, tail_high, high), tl.where(usable, tail_low, low), top)


@triton.jit
def interval_keys(low_key, high_key, top_k):
    """An interval as a row's record holds it. What top-p cuts lies above what top-k cuts. So a list of everything from
    `low` on holds both boundaries, and if it fits, no further search is needed.
    """
    all_fit = (top_k > 0) & (top_k <= MOST_K_LISTED)
    return join_words(low_key, tl.where(all_fit, INF_KEY, high_key))


@triton.jit
def write_bracket(pivots, first, upper, last, lower):
    """Stores a bracket where the row's pivots were: two values, and the shares that reach them."""
    tl.store(pivots, first)
    tl.store(pivots + 1, upper)
    tl.store(pivots + 2, last)
    tl.store(pivots + 3, lower)


@triton.jit
def closer(share, first, upper, last, lower, value, reached):
    """The bracket, made closer by the knowledge that the share `reached` reaches `value`."""
    above = (reached < share) & (reached >= upper) & (value <= first)
    below = (reached >= share) & (reached <= lower) & (value >= last)
    return (
        tl.where(above, value, first), tl.where(above, reached, upper),
        tl.where(below, value, last), tl.where(below, reached, lower),
    )  # fmt: skip


@triton.jit
def listed_values(row_logits, list_token, listed, reference, rate):
    """[LIST]: the keys of the listed tokens, none of them above `reference`, and their weights in units of 2^-38 of the
    weight of `reference`, which are 0 behind `listed`. Other programs have written the list.
    """
    place = tl.arange(0, LIST)
    token = tl.load(list_token + place, mask=place < listed, other=0, cache_modifier=".cg")
    x = load_tokens(row_logits, token, place < listed)
    w = tl.where(place < listed, rough_weight(x, reference, rate), 0.0)
    return key_of(x), (w * 274877906944.0).to(tl.int64)


@triton.jit
def middle_key(low, high, by_value):
    """A key in the middle of [low, high): half way between the values of its ends, or between their keys."""
    mean = value_of(low.to(tl.int32)) * 0.5 + value_of((high - 1).to(tl.int32)) * 0.5
    middle = tl.where(by_value, key_of(mean).to(tl.int64), (low + high) >> 1)
    return tl.minimum(tl.maximum(middle, low + 1), high - 1)


@triton.jit
def key_reached(key, worth, listed, goal, low, high):
    """(key, end, number): about the largest key of [low, high) that at least `goal` of the listed worth reaches, or the
    smallest key; and how many of the listed tokens reach it. The tokens between `key` and `end` all have one key, or
    are at most CLOSE.
    """
    is_listed = tl.arange(0, LIST) < listed
    # Weight and number share one word, so that a round has one sum: the weight is at most 2^38, the number 2^11.
    both = tl.where(is_listed, (worth << 12) | 1, 0)
    low = low.to(tl.int64)
    high = high.to(tl.int64)
    reached, above = listed.to(tl.int64), goal * 0
    by_value = listed >= 0  # true, as a scalar of the GPU
    while (high - low > 1) & (reached - above > CLOSE):
        before = reached - above
        middle = middle_key(low, high, by_value)
        total = tl.sum(tl.where(key >= middle, both, 0), axis=0)
        enough = (total >> 12) >= goal
        low = tl.where(enough, middle, low)
        high = tl.where(enough, high, middle)
        reached = tl.where(enough, total & 0xFFF, reached)
        above = tl.where(enough, above, total & 0xFFF)
        by_value = by_value ^ ((reached - above) * 2 > before)  # go on as long as the interval is at least halved
    return low, high, reached


@triton.jit
def reach_of_sample(listed, count):
    """How many tokens on either side of a sample's quantile should be listed: five standard deviations of where the
    row's own quantile may be. Weights make this more uncertain than numbers of tokens do.

    This may be more than a list holds. Then the next list is a sample of far fewer tokens.
    """
    deviation = quotient(count.to(tl.float32) * 0.5, rough_root(listed.to(tl.float32)))
    reach = tl.maximum(AIMED_AT, 5.0 * deviation)
    return tl.where(reach <= EASY, tl.minimum(reach, MOST_AIMED_AT), reach)


@triton.jit
def interval_of_list(row_logits, list_token, listed, share, count, low_key, end_key, rate):
    """(first key, end): an interval around the probable boundary, within an interval that held too many tokens. Its
    list is full, so it is a sample of these tokens. `share` is the goal as a share of the interval's measure, and
    `count` is the number of its tokens.
    """
    key, worth = listed_values(row_logits, list_token, listed, value_of((end_key - 1).to(tl.int32)), rate)
    goal = (share * tl.sum(worth, axis=0).to(tl.float32)).to(tl.int64)
    middle, _end, rank = key_reached(key, worth, listed, goal, low_key, end_key)
    margin = quotient(listed.to(tl.float32) * reach_of_sample(listed, count), count.to(tl.float32)).to(tl.int64)
    one = worth * 0 + 1
    low, _end, _rank = key_reached(key, one, listed, rank + margin, low_key, end_key)
    _last, end, _rank = key_reached(key, one, listed, tl.maximum(rank - margin, 1), low_key, end_key)
    many_alike = tl.sum((key == middle).to(tl.int64), axis=0) > 2 * margin  # tokens of one value need no list
    return tl.where(many_alike, middle, low), tl.where(many_alike, middle + 1, tl.maximum(end, middle + 1))


@triton.jit
def next_interval(row_pivots, row, share, high, low, above, reached, count, top):
    """(high, low): another interval, when the first one missed. It is known that the share `above` reaches `high` and
    `reached` reaches `low`, that `count` tokens are between them, and that the boundary is not.
    """
    pivots = row_pivots + row * RUNGS
    first, upper, last, lower = tl.load(pivots), tl.load(pivots + 1), tl.load(pivots + 2), tl.load(pivots + 3)
    first, upper, last, lower = closer(share, first, upper, last, lower, low, reached)
    if high <= top:
        first, upper, last, lower = closer(share, first, upper, last, lower, high, above)
    tl.debug_barrier()
    write_bracket(pivots, first, upper, last, lower)

    # The interval follows the line through what was measured, and is too wide to miss often. If the line leads
    # out of the bracket, the interval is the whole bracket.
    middle, _density = straight(share, high, above, low, reached)
    reach = quotient(high - low, count.to(tl.float32)) * FAR
    new_high, new_low = tl.minimum(middle + reach, first), tl.maximum(middle - reach, last)
    out = (high > top) | (count == 0) | (above >= reached) | (new_low >= new_high)
    new_high = tl.where(out, tl.where(upper > 0.0, first, float("inf")), new_high)
    return sound(new_high, tl.where(out, last, new_low), top)
