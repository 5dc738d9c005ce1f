"""Guesses where a row's boundary lies, as closely as possible before anything is measured: an interval of values that
holds few enough tokens to list.

There are two sources. Where light tokens hold what top-p leaves out, a sample of some thousand tokens tells where they
end. In flat rows the rough sums of `summarize` at four pivots are used. Between two values, the logit of the share that
reaches a value, ln(s / (1 - s)), is taken to be a straight line.

docs/performance.md says how often the first interval is right. If it is not, what `sum_weights` found there gives
the next one: by the straight line through what was measured or, if there were too many tokens, by those that were
listed.
"""

import triton
import triton.language as tl

from detsample.kernels.contract.order import INF_KEY, key_of, value_of
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
from detsample.kernels.sampling.candidates import LIST, MOST_K_LISTED
from detsample.kernels.sampling.rows import join_words
from detsample.kernels.sampling.tiles import MOST_SEGMENTS, load_tokens

SPREAD = tl.constexpr(8192)  # how many tokens tell what the lightest weigh, in runs of so many neighbours
RUN = tl.constexpr(16)
REACH = tl.constexpr(40.0)  # how many temperatures below the largest logit a boundary is looked for
HALVINGS = tl.constexpr(12)
AIMED_AT = tl.constexpr(700.0)  # how many tokens to list on either side of the guess
FAR = tl.constexpr(2800.0)  # the same after a miss by far: more than a list holds, but the list is then a sample
NEAR = tl.constexpr(2500.0)  # by about how many tokens a miss is near
EASY = tl.constexpr(1400.0)  # how many tokens to list in all, if everything from a value on is listed
MOST_AIMED_AT = tl.constexpr(950.0)  # the most tokens to list on either side, so that both sides fit a list
LAST_AIMED_AT = tl.constexpr(800.0)  # the same if the list is the last, and the sample a small part of the tokens
CLOSE = tl.constexpr(4)  # how many tokens of a sample there may be around a quantile before it matters where it lies


@triton.jit
def logit(share):
    """ln(s / (1 - s)) of a share s, roughly. Shares outside of 1e-7 to 1 - 1e-7 are brought to these ends."""
    inside = tl.minimum(tl.maximum(share, 1e-7), 1.0 - 1e-7)
    return rough_log(quotient(inside, 1.0 - inside))


@triton.jit
def inverse(x):
    """1 / x of positive fp32 numbers to about 0.02%, by two of Newton's steps: a guess needs no real division."""
    y = (0x7EF311C7 - x.to(tl.int32, bitcast=True)).to(tl.float32, bitcast=True)
    y = y * (2.0 - x * y)
    return y * (2.0 - x * y)


@triton.jit
def spread_tokens(row_logits, vocab):
    """[SPREAD]: the logits of runs of RUN neighbouring tokens, at equal distances in the row."""
    place = tl.arange(0, SPREAD)
    token = ((place // RUN).to(tl.int64) * vocab) // (SPREAD // RUN) + place % RUN
    return load_tokens(row_logits, token, token < vocab)


@triton.jit
def ends_around(x, worth, goal, low, high):
    """(value, next): two values close to each other, from `low` to `high`, of which at least `goal` of the tokens'
    worth reaches the first, and not the second. If many tokens have one value, it is between them.
    """
    for _ in range(HALVINGS):
        middle = low * 0.5 + high * 0.5
        enough = tl.sum(tl.where(x >= middle, worth, 0.0), axis=0) >= goal
        low = tl.where(enough, middle, low)
        high = tl.where(enough, high, middle)
    return low, high


@triton.jit
def interval_of_tail(row_logits, vocab, top, tail, rate):
    """(high, low): values between which the boundary probably lies. The tokens behind it weigh `tail`, in units of the
    weight of `top`. If all tokens from `low` on fit a list, `high` is infinite.

    The tokens behind a boundary are light and many, so that a sample of some thousand tells what they weigh to 2 or 3%.
    Those before it may be a few heavy ones, which no sample holds; they are not asked.
    """
    x = spread_tokens(row_logits, vocab)
    each = vocab.to(tl.float32) * (1.0 / SPREAD)
    lowest = tl.min(tl.where(x > float("-inf"), x, top), axis=0)
    lowest = tl.maximum(lowest, top - inverse(tl.minimum(tl.maximum(rate, 1e-30), 1e30)) * REACH)
    weight = rough_weight(x, top, rate)
    goal = tl.sum(weight, axis=0) - tail * inverse(each)
    middle, _next = ends_around(x, weight, goal, lowest, top)
    one = tl.full([SPREAD], 1.0, tl.float32)
    before = tl.sum(tl.where(x >= middle, one, 0.0), axis=0)
    aside = inverse(each) * AIMED_AT
    low, _next = ends_around(x, one, before + aside, lowest, middle)
    _value, high = ends_around(x, one, tl.maximum(before - aside, 0.5), middle, top)
    return tl.where(before * each <= AIMED_AT, float("inf"), high), low


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
def sum_rungs(part_rungs, row, parts):
    """[PIVOTS]: what of a row reaches each pivot, roughly: the sums over its parts."""
    part = tl.arange(0, MOST_SEGMENTS)
    at = (row * parts + part[:, None]) * RUNGS + tl.arange(0, PIVOTS)[None, :]
    return tl.sum(tl.load(part_rungs + at, mask=part[:, None] < parts, other=0.0), axis=0)


@triton.jit
def rough_total(part_rungs, row, parts):
    """The rough weight of a row: the sum over its parts."""
    part = tl.arange(0, MOST_SEGMENTS)
    at = (row * parts + part) * RUNGS + PIVOTS
    return tl.sum(tl.load(part_rungs + at, mask=part < parts, other=0.0), axis=0)


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
def first_interval(row_pivots, part_rungs, row, parts, top, tokens, rate, share):
    """(high, low): values between which the boundary probably lies, found from the rough sums at pivots. The boundary
    is where `share` of the row's measure is reached: of its weight, or of the number of its `tokens` if `rate` is 0.

    The line is drawn for what is left without the largest token. A row often has one token that weighs nearly all,
    which no sample holds, and a bulk of others of which a small part is kept.

    The pivots that the row keeps are replaced by a bracket, for `next_interval`.
    """
    pivots = row_pivots + row * RUNGS
    values = tl.load(pivots + tl.arange(0, PIVOTS))
    reference = tl.load(pivots + PIVOTS)
    whole = tl.where(rate > 0.0, rough_total(part_rungs, row, parts), tokens)
    largest = tl.where(rate > 0.0, rough_weight(top, reference, rate), 0.0)
    rest = tl.maximum(whole - largest, whole * 1e-6)
    shares = quotient(sum_rungs(part_rungs, row, parts) - largest, rest)
    share = quotient(share * whole - largest, rest)
    first, upper, last, lower = bracket_of_pivots(values, shares, share, top)
    high, low = interval_of_pivots(values, shares, share, first, upper, last, lower, reference, rest, rate)
    tl.debug_barrier()  # every lane has read the pivots
    upper = tl.where(upper > 0.0, quotient(upper * rest + largest, whole), 0.0)
    write_bracket(pivots, first, upper, last, quotient(lower * rest + largest, whole))
    return sound(high, low, top)


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
def reach_of_sample(listed, count, is_last):
    """How many tokens on either side of a sample's quantile should be listed: five standard deviations of where the
    row's own quantile may be. Weights make this more uncertain than numbers of tokens do.

    This may be more than a list holds. Then the next list is a sample of far fewer tokens. If the next one `is_last`, a
    list that fits and may miss is better.
    """
    deviation = quotient(count.to(tl.float32) * 0.5, rough_root(listed.to(tl.float32)))
    reach = tl.maximum(AIMED_AT, 5.0 * deviation)
    reach = tl.where(reach <= EASY, tl.minimum(reach, MOST_AIMED_AT), reach)
    return tl.where(is_last, tl.minimum(reach, LAST_AIMED_AT), reach)


@triton.jit
def interval_of_list(row_logits, list_token, listed, share, count, low_key, end_key, rate, is_last):
    """(first key, end): an interval around the probable boundary, within an interval that held too many tokens. Its
    list is full, so it is a sample of these tokens. `share` is the goal as a share of the interval's measure, and
    `count` is the number of its tokens.
    """
    key, worth = listed_values(row_logits, list_token, listed, value_of((end_key - 1).to(tl.int32)), rate)
    goal = (share * tl.sum(worth, axis=0).to(tl.float32)).to(tl.int64)
    middle, _end, rank = key_reached(key, worth, listed, goal, low_key, end_key)
    reach = reach_of_sample(listed, count, is_last)
    margin = quotient(listed.to(tl.float32) * reach, count.to(tl.float32)).to(tl.int64)
    one = worth * 0 + 1
    low, _end, _rank = key_reached(key, one, listed, rank + margin, low_key, end_key)
    _last, end, _rank = key_reached(key, one, listed, tl.maximum(rank - margin, 1), low_key, end_key)
    end = tl.maximum(end, middle + 1)
    # Tokens of one value need no list. So they alone are next if there are many, or if nothing else would be left out.
    many_alike = tl.sum((key == middle).to(tl.int64), axis=0) > 2 * margin
    alike = many_alike | (tl.sum(((key >= low) & (key < end)).to(tl.int64), axis=0) >= listed)
    return tl.where(alike, middle, low), tl.where(alike, middle + 1, end)


@triton.jit
def next_interval(row_pivots, row, share, high, low, above, reached, count, top, whole, rate):
    """(high, low): another interval, when the first one missed. It is known that the share `above` reaches `high` and
    `reached` reaches `low`, that `count` tokens are between them, and that the boundary is not. The row's measure is
    `whole`, in units of the weight of `top`, or of tokens if `rate` is 0.
    """
    pivots = row_pivots + row * RUNGS
    first, upper, last, lower = tl.load(pivots), tl.load(pivots + 1), tl.load(pivots + 2), tl.load(pivots + 3)
    first, upper, last, lower = closer(share, first, upper, last, lower, low, reached)
    if high <= top:
        first, upper, last, lower = closer(share, first, upper, last, lower, high, above)
    tl.debug_barrier()
    write_bracket(pivots, first, upper, last, lower)

    # The interval follows the line through what was measured or, if everything from `low` on was listed, through the
    # bracket. A boundary that is near what was measured is close to the line, and a list of the tokens around it
    # settles it. Farther away the line is bent, and the interval reaches far to both sides of what it says.
    open_end = (high > top) & (upper > 0.0)
    middle, density = straight(
        share, tl.where(open_end, first, high), tl.where(open_end, upper, above),
        tl.where(open_end, last, low), tl.where(open_end, lower, reached),
    )  # fmt: skip
    each = quotient(high - low, count.to(tl.float32))
    each = tl.where(open_end, quotient(quotient(rough_weight(middle, top, rate), whole), density), each)
    away = tl.where(open_end, first - middle, tl.maximum(low - middle, middle - high))
    far = tl.maximum(each * FAR, away * 0.75)
    reach = tl.minimum(tl.where(away <= each * NEAR, each * AIMED_AT, far), 1e30)
    new_high, new_low = tl.minimum(middle + reach, first), tl.maximum(middle - reach, last)
    unbounded = (high > top) & ((upper == 0.0) | (last == -FLT_MAX))
    out = unbounded | (count == 0) | (above >= reached) | (new_low >= new_high)
    new_high = tl.where(out, tl.where(upper > 0.0, first, float("inf")), new_high)
    return sound(new_high, tl.where(out, last, new_low), top)
