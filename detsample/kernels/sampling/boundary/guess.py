"""Guesses where a row's boundary lies, as closely as possible before anything is measured: an interval of values that
holds few enough tokens to list.

A sample of some thousand tokens tells how many, or how heavy, the tokens are that lie between the boundary and a value
from which on the row's measure is known. At first that is a pivot or, in peaked rows, -inf. If the interval misses the
boundary, its ends have been measured, and the next guess starts there with other tokens. If the interval holds too many
tokens to list them, those that were listed are a sample of it.

docs/performance.md says how often the first interval is right.
"""

import triton
import triton.language as tl

from detsample.kernels.contract.order import INF_KEY, key_of, value_of
from detsample.kernels.sampling.boundary.pivots import FLT_MAX, PIVOTS, RUNGS, quotient, rough_root, rough_weight
from detsample.kernels.sampling.candidates import LIST, MOST_K_LISTED
from detsample.kernels.sampling.rows import join_words
from detsample.kernels.sampling.tiles import MOST_SEGMENTS, load_tokens

SPREAD = tl.constexpr(8192)  # how many tokens the first guess looks at
SPREAD_AGAIN = tl.constexpr(2048)  # and each later one, by a program of a kernel with fewer registers
RUN = tl.constexpr(16)  # of so many neighbours
REACH = tl.constexpr(40.0)  # how many temperatures below the largest logit a boundary is looked for
HALVINGS = tl.constexpr(12)  # of the range of values, until some dozen tokens are left
HALVINGS_OF_LIST = tl.constexpr(20)  # until the values are next to each other, or nearly
AIMED_AT = tl.constexpr(700.0)  # how many tokens to list on either side of the guess
NEAR = tl.constexpr(10000.0)  # at most how many tokens there are between a near boundary and its anchor
EASY = tl.constexpr(1400.0)  # how many tokens to list in all, if everything from a value on is listed
MOST_AIMED_AT = tl.constexpr(950.0)  # the most tokens to list on either side, so that both sides fit a list
LAST_AIMED_AT = tl.constexpr(800.0)  # the same if the list is the last, and the sample a small part of the tokens


@triton.jit
def inverse(x):
    """1 / x of positive fp32 numbers to about 0.02%, by two of Newton's steps: a guess needs no real division."""
    y = (0x7EF311C7 - x.to(tl.int32, bitcast=True)).to(tl.float32, bitcast=True)
    y = y * (2.0 - x * y)
    return y * (2.0 - x * y)


@triton.jit
def spread_tokens(row_logits, vocab, attempt, SIZE: tl.constexpr):
    """[SIZE]: the logits of runs of RUN neighbouring tokens, at equal distances in the row. Each attempt has others.
    """
    place = tl.arange(0, SIZE)
    distance = tl.maximum(vocab // (SIZE // RUN), 1)
    token = place // RUN * distance + place % RUN + attempt * RUN
    return load_tokens(row_logits, token, token < vocab)


@triton.jit
def ends_of_interval(x, weight, goal, reach, lowest, highest, halvings):
    """(middle, high, low): about the value that a weight of `goal` reaches, and two with `reach` tokens of the sample
    between it and either, all from `lowest` to `highest`. If fewer reach it, `high` is infinite. If many tokens have
    one of these values, it lies between `low` and `high`.
    """
    middle, above = lowest, highest
    for _ in range(halvings):
        half = middle * 0.5 + above * 0.5
        enough = tl.sum(tl.where(x >= half, weight, 0.0), axis=0) >= goal
        middle = tl.where(enough, half, middle)
        above = tl.where(enough, above, half)
    before = tl.sum((x >= middle).to(tl.int32), axis=0).to(tl.float32)
    fewest = tl.maximum(before - reach, 0.5)
    low, below, high, inside = lowest, middle, highest, middle
    for _ in range(halvings):
        # Two numbers share one word, so that there is one sum for both searches.
        half, other = low * 0.5 + below * 0.5, inside * 0.5 + high * 0.5
        both = tl.sum(tl.where(x >= half, 1, 0) + tl.where(x >= other, 65536, 0), axis=0)
        enough = (both & 0xFFFF).to(tl.float32) >= before + reach
        low, below = tl.where(enough, half, low), tl.where(enough, below, half)
        enough = (both >> 16).to(tl.float32) >= fewest
        inside, high = tl.where(enough, other, inside), tl.where(enough, high, other)
    return middle, tl.where(before <= reach, float("inf"), high), low


@triton.jit
def sound(high, low, top):
    """The interval, made safe: one that ends at the largest logit gets no end, and one with infinities or NaN becomes
    everything.
    """
    fine = (low <= high) & (low >= -FLT_MAX) & (low <= top)
    return tl.where(fine & (high < top), high, float("inf")), tl.where(fine, low, -FLT_MAX)


@triton.jit
def interval_of_sample(x, vocab, top, least, most, anchor, missing, rate):
    """(high, low): values between which the boundary probably lies, from a sample `x` of the row. The tokens that reach
    it have `missing` more of the row's measure than those that reach `anchor`; this may be negative. The measure is
    weight, in units of the weight of `top`, or the number of tokens if `rate` is 0. The boundary is looked for from
    `least` to `most`. If all tokens from `low` on fit a list, `high` is infinite.

    The measure of light and many tokens is known from a sample to some percent. So the anchor is near the boundary, or
    it is -inf: what comes before the boundary may be a few heavy tokens, which no sample holds.
    """
    there = x > float("-inf")
    each = vocab.to(tl.float32) * (1.0 / x.shape[0])
    lowest = tl.min(tl.where(there, x, top), axis=0)
    lowest = tl.maximum(lowest, top - inverse(tl.minimum(tl.maximum(rate, 1e-30), 1e30)) * REACH)
    weight = tl.where(there, rough_weight(x, top, rate), 0.0)
    goal = tl.sum(tl.where(x >= anchor, weight, 0.0), axis=0) + missing * inverse(each)
    _middle, high, low = ends_of_interval(
        x, weight, goal, inverse(each) * AIMED_AT, tl.maximum(lowest, least), tl.minimum(top, most), HALVINGS
    )
    return sound(high, low, top)


@triton.jit
def interval_near(x, vocab, top, anchor, first, last, missing, rate):
    """The same as `interval_of_sample`, if at most about NEAR tokens lie between the boundary and `anchor`, and tokens
    are weighed. How many tokens of a sample lie between the values `first` and `last` around it tells how far it is.
    """
    number = tl.sum(((x < first) & (x >= last)).to(tl.int32), axis=0) * (vocab.to(tl.float32) * (1.0 / x.shape[0]))
    each = (first - last) * inverse(tl.maximum(number, 1.0))
    away = missing * each * inverse(rough_weight(anchor, top, rate))
    away = missing * each * inverse(rough_weight(anchor - away * 0.5, top, rate))
    return sound(anchor - away + each * AIMED_AT, anchor - away - each * AIMED_AT, top)


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
def interval_keys(low_key, high_key, top_k):
    """An interval as a row's record holds it. What top-p cuts lies above what top-k cuts. So a list of everything from
    `low` on holds both boundaries, and if it fits, no further search is needed.
    """
    all_fit = (top_k > 0) & (top_k <= MOST_K_LISTED)
    return join_words(low_key, tl.where(all_fit, INF_KEY, high_key))


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
    `count` is the number of its tokens. Other programs have written the list.
    """
    place = tl.arange(0, LIST)
    token = tl.load(list_token + place, mask=place < listed, other=0, cache_modifier=".cg")
    x = load_tokens(row_logits, token, place < listed)
    last = value_of((end_key - 1).to(tl.int32))
    weight = tl.where(place < listed, rough_weight(x, last, rate), 0.0)
    reach = quotient(listed.to(tl.float32) * reach_of_sample(listed, count, is_last), count.to(tl.float32))
    middle, high, low = ends_of_interval(
        x, weight, share * tl.sum(weight, axis=0), reach, value_of(low_key), last, HALVINGS_OF_LIST
    )
    low, end = tl.maximum(key_of(low), low_key), tl.minimum(key_of(high).to(tl.int64), end_key)
    # Tokens of one value need no list. So they alone are next if there are many, or if nothing else would be left out.
    key = key_of(x)
    one_key = tl.min(tl.where(x >= middle, key, 0x7FFFFFFF), axis=0)
    many_alike = tl.sum((key == one_key).to(tl.float32), axis=0) > 2.0 * reach
    alike = many_alike | (tl.sum(((key >= low) & (key < end)).to(tl.int32), axis=0) >= listed)
    return tl.where(alike, one_key, low), tl.where(alike, one_key.to(tl.int64) + 1, end)
