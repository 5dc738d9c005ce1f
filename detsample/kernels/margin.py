"""How far a row's logits may move before its token could change (spec section 13). The grid has one program for each
row.

A motion means that no logit moves by more than t. It is judged by two looks at the row. The first look finds the tokens
that could outscore the winner. The second asks whether the filters could drop the winner, or keep such a rival. Each
look judges as many motions at once as the next few bits of the margin have values: with four bits, eight pairs of looks
give all 32 bits. The only result is the margin.
"""

import triton
import triton.language as tl

from detsample.kernels.contract.fixed_point import fixed_point
from detsample.kernels.contract.fraction import ceil_product
from detsample.kernels.contract.gumbel import token_gumbel
from detsample.kernels.contract.order import INF_KEY, LAST_TOKEN, LOWEST_KEY, MINUS_INF_KEY, key_of, value_of, within
from detsample.kernels.contract.weight import gap, weight
from detsample.kernels.sampling.outcome import quiet_nan
from detsample.kernels.sampling.rows import (
    ORDER_JOINT,
    ORDER_MIN_P_FIRST,
    PARAMETER_NAMES,
    fp32_from_bits,
    inverse_temperature,
    minimum_weight,
    row_parameters,
)
from detsample.kernels.sampling.tiles import (
    load_span,
    logits_of_row,
)

FLT_MAX = tl.constexpr(3.4028234663852886e38)
DOUBT = tl.constexpr(17)  # weights measured from two maxima differ by at most 2^-17 of each, plus a unit a token


@triton.jit
def lowest(x, t):
    """The smallest fp32 number to which `x` may fall when no logit moves by more than `t`; never below -FLT_MAX."""
    return tl.maximum(x - t, -FLT_MAX)


@triton.jit
def highest(x, t):
    """The largest fp32 number to which `x` may rise when no logit moves by more than `t`; never above FLT_MAX."""
    return tl.minimum(x + t, FLT_MAX)


@triton.jit
def census(row_logits, vocab, winner, SPAN: tl.constexpr):
    """What the search needs to know of the row: the number of its finite tokens, the largest key, the largest key of
    any token but the winner, and the smallest finite key.
    """
    count = tl.zeros([SPAN], tl.int32)
    smallest = tl.full([SPAN], INF_KEY, tl.int32)
    largest = tl.full([SPAN], MINUS_INF_KEY, tl.int32)
    other = tl.full([SPAN], MINUS_INF_KEY, tl.int32)
    for start in range(0, vocab, SPAN):
        x = load_span(row_logits, start, vocab, SPAN)
        key = key_of(x)
        count += (x > float("-inf")).to(tl.int32)
        largest = tl.maximum(largest, key)
        smallest = tl.minimum(smallest, tl.where(x > float("-inf"), key, INF_KEY))
        other = tl.maximum(other, tl.where(start + tl.arange(0, SPAN) != winner, key, MINUS_INF_KEY))
    return tl.sum(count, axis=0), tl.max(largest, axis=0), tl.max(other, axis=0), tl.min(smallest, axis=0)


@triton.jit
def kth_token(row_logits, vocab, k, SPAN: tl.constexpr, DIGITS: tl.constexpr):
    """The key and the id of the k-th token in order. The caller knows that the row has k tokens."""
    base = tl.full([], -2147483648, tl.int64)
    digit = tl.arange(0, DIGITS).to(tl.int64)
    unit = tl.full([], 4294967296, tl.int64) // DIGITS
    while unit > 0:
        trial = base + digit * unit
        reached = tl.zeros([DIGITS], tl.int32)
        for start in range(0, vocab, SPAN):
            key = key_of(load_span(row_logits, start, vocab, SPAN)).to(tl.int64)
            reached += tl.sum((key[:, None] >= trial[None, :]).to(tl.int32), axis=0)
        base = tl.max(tl.where(reached >= k, trial, base), axis=0)
        unit = unit // DIGITS
    boundary = base.to(tl.int32)
    above = tl.full([], 0, tl.int32)
    for start in range(0, vocab, SPAN):
        above += tl.sum((key_of(load_span(row_logits, start, vocab, SPAN)) > boundary).to(tl.int32), axis=0)
    found = tl.full([], LAST_TOKEN, tl.int32)
    seen = above
    for start in range(0, vocab, SPAN):
        equal = (key_of(load_span(row_logits, start, vocab, SPAN)) == boundary).to(tl.int32)
        chosen = (equal > 0) & (seen + tl.cumsum(equal, axis=0) == k)
        found = tl.minimum(found, tl.min(tl.where(chosen, start + tl.arange(0, SPAN), LAST_TOKEN), axis=0))
        seen += tl.sum(equal, axis=0)
    return boundary, found


@triton.jit
def outscorers(
    row_logits, vocab, t, scale, seed, position, winner, winner_noise, winner_low, winner_most,
    SPAN: tl.constexpr, DIGITS: tl.constexpr,
):  # fmt: skip
    """The first look at the row: who could outscore the winner if every logit moved by at most `t`?

    For each of the DIGITS motions in `t` this returns the key and the id of the rival, which is the first token in
    order among those that could outscore the winner, or (MINUS_INF_KEY, LAST_TOKEN) if no token could; and the number
    of tokens that could come before the winner in order.

    Gaps are measured from `winner_most` and rounded. In the moved row they are measured from another logit. The two
    differ by at most 2^-21 of each and a few units of 2^-32, which the comparison allows for.
    """
    winner_key = key_of(winner_low)
    winner_gap = fixed_point(gap(winner_low, winner_most, scale))
    least = winner_noise - winner_gap - (winner_gap >> 21) - 4
    rival_key = tl.full([DIGITS], MINUS_INF_KEY, tl.int32)
    rival = tl.full([DIGITS], LAST_TOKEN, tl.int32)
    ahead = tl.zeros([DIGITS], tl.int32)
    for start in range(0, vocab, SPAN):
        x = load_span(row_logits, start, vocab, SPAN)
        tokens = start + tl.arange(0, SPAN)
        noise = token_gumbel(seed, tokens, position)[:, None]
        other = ((x > float("-inf")) & (tokens != winner))[:, None]
        token = tokens[:, None]
        high = highest(x[:, None], t[None, :])
        key = key_of(high)
        ahead += tl.sum((other & within(key, token, winner_key[None, :], winner)).to(tl.int32), axis=0)
        a = fixed_point(gap(high, winner_most[None, :], scale))
        beats = other & (noise - a + (a >> 21) >= least[None, :])
        top = tl.max(tl.where(beats, key, MINUS_INF_KEY), axis=0)
        at = tl.min(tl.where(beats & (key == top[None, :]), token, LAST_TOKEN), axis=0)
        better = (top > rival_key) | ((top == rival_key) & (at < rival))
        rival_key = tl.where(better, top, rival_key)
        rival = tl.where(better, at, rival)
    return rival_key, rival, ahead


@triton.jit
def counted_weight(x, largest, scale, least):
    """The weights of the logits `x` as top-p counts them: a weight below `least` counts as 0."""
    w = weight(gap(x, largest, scale))
    return tl.where(w >= least, w, 0)


@triton.jit
def surroundings(
    row_logits, vocab, t, scale, winner, winner_low, winner_most, rival, rival_high, rival_most,
    boundary_key, boundary_token, by_mass, least, SPAN: tl.constexpr, DIGITS: tl.constexpr,
):  # fmt: skip
    """The second look at the row: could the filters drop the winner, or keep the rival?

    For each of the DIGITS motions in `t` this returns the number of tokens that come before the rival when it is at its
    highest and all others are at their lowest, and four sums of weights. The sums are over the tokens of which top-p
    takes its share, as `counted_weight` counts them. Two are those before the winner and those from it on, moved so
    that top-p is as hard on the winner as it can be; the other two are the same for the rival, moved so that top-p is
    as kind to it as it can be.
    """
    ahead = tl.zeros([DIGITS], tl.int32)
    winner_heads = tl.zeros([DIGITS], tl.int64)
    winner_rest = tl.zeros([DIGITS], tl.int64)
    rival_heads = tl.zeros([DIGITS], tl.int64)
    rival_rest = tl.zeros([DIGITS], tl.int64)
    rival_key = key_of(rival_high)[None, :]
    rival_x = tl.load(row_logits[0] + tl.where(rival != LAST_TOKEN, rival, 0)).to(tl.float32)
    inside = within(key_of(rival_x), rival, boundary_key, boundary_token)[None, :]
    for start in range(0, vocab, SPAN):
        x = load_span(row_logits, start, vocab, SPAN)
        tokens = start + tl.arange(0, SPAN)
        token = tokens[:, None]
        finite = (x > float("-inf"))[:, None]
        low = lowest(x[:, None], t[None, :])
        other = finite & (token != rival[None, :])
        ahead += tl.sum((other & within(key_of(low), token, rival_key, rival[None, :])).to(tl.int32), axis=0)
        if by_mass:
            high = highest(x[:, None], t[None, :])
            survives = finite & within(key_of(x), tokens, boundary_key, boundary_token)[:, None]
            above = (high >= winner_low[None, :]) & (token != winner)
            w = counted_weight(tl.where(above, high, low), winner_most[None, :], scale, least)
            winner_heads += tl.sum(tl.where(survives & above, w, 0), axis=0)
            winner_rest += tl.sum(tl.where(survives & (above == 0), w, 0), axis=0)
            # A rival from beyond the survivors takes the place of their last.
            survives = (survives & ((token != boundary_token) | inside)) | (finite & (token == rival[None, :]))
            above = (low > rival_high[None, :]) & (token != rival[None, :])
            moved = tl.where(above, low, tl.minimum(high, rival_high[None, :]))
            w = counted_weight(moved, rival_most[None, :], scale, least)
            rival_heads += tl.sum(tl.where(survives & above, w, 0), axis=0)
            rival_rest += tl.sum(tl.where(survives & (above == 0), w, 0), axis=0)
    return ahead, winner_heads, winner_rest, rival_heads, rival_rest


@triton.jit
def doubt(part, whole, tokens):
    """By how much the sum `part` of weights, out of `whole`, may change when weights are measured from another maximum.
    `tokens` is the number of finite tokens of the row.
    """
    return (part >> DOUBT) + 1 + tokens * ((whole >> 40) + 1)


@triton.jit
def surely_kept(heads, rest, top_p, tokens):
    """Whether top-p keeps a token however the sums err: `heads` is the weight before it, `rest` the weight from it on.
    """
    more = heads + doubt(heads, heads + rest, tokens)
    less = rest - doubt(rest, heads + rest, tokens)
    return (less >= 0) & (more < ceil_product(top_p, more + tl.maximum(less, 0)))


@triton.jit
def surely_cut(heads, rest, top_p, tokens):
    """Whether top-p cuts a token however the sums err: `heads` is the weight before it, `rest` the weight from it on.
    """
    less = heads - doubt(heads, heads + rest, tokens)
    more = rest + doubt(rest, heads + rest, tokens)
    return less >= ceil_product(top_p, tl.maximum(less, 0) + more)


@triton.jit
def harmless(
    row_logits, vocab, t, scale, k, top_p, by_mass, min_weight, least, seed, position, winner, winner_noise,
    tokens, top_key, other_key, low_key, boundary_key, boundary_token, SPAN: tl.constexpr, DIGITS: tl.constexpr,
):  # fmt: skip
    """For each of the DIGITS motions in `t`: whether the token must stay the same when no logit moves by more than
    that.
    """
    winner_low = lowest(tl.load(row_logits[0] + winner).to(tl.float32) + 0.0, t)
    winner_most = tl.maximum(winner_low, highest(value_of(other_key), t))
    rival_key, rival, ahead = outscorers(
        row_logits, vocab, t, scale, seed, position, winner, winner_noise, winner_low, winner_most, SPAN, DIGITS
    )
    rival_high = value_of(rival_key)
    rival_most = tl.maximum(rival_high, lowest(value_of(top_key), t))
    rival_ahead, winner_heads, winner_rest, rival_heads, rival_rest = surroundings(
        row_logits, vocab, t, scale, winner, winner_low, winner_most, rival, rival_high, rival_most,
        boundary_key, boundary_token, by_mass, least, SPAN, DIGITS,
    )  # fmt: skip
    dropped = weight(gap(winner_low, winner_most, scale)) < min_weight
    dropped = dropped | (highest(value_of(top_key), t) - lowest(value_of(low_key), t) == float("inf"))
    dropped = dropped | ((winner_heads > 0) & (surely_kept(winner_heads, winner_rest, top_p, tokens) == 0))
    cut = (rival_ahead >= k) | (weight(gap(rival_high, rival_most, scale)) < min_weight)
    cut = cut | ((rival_heads > 0) & surely_cut(rival_heads, rival_rest, top_p, tokens))
    beaten = (rival != LAST_TOKEN) & (cut == 0)
    return (ahead < k) & ((k == 1) | ((dropped == 0) & (beaten == 0)))


@triton.jit(do_not_specialize=["row_stride", "vocab", "filter_order", "given", *PARAMETER_NAMES])
def margin(
    logits, row_stride, vocab, filter_order, given,
    temperature_ptr, temperature_stride, temperature_bits, top_k_ptr, top_k_stride, top_k_scalar,
    top_p_ptr, top_p_stride, top_p_bits, min_p_ptr, min_p_stride, min_p_bits,
    seed_ptr, seed_stride, seed_low, seed_high, position_ptr, position_stride, position_low, position_high,
    token_ids, status, result,
    SPAN: tl.constexpr, BITS: tl.constexpr,
):  # fmt: skip
    """Finds the margin of each row's token: the largest t for which `harmless` holds (spec section 13).

    Grid (rows). The bits of t are searched from the highest down, BITS of them in each round. An invalid row has the
    margin NaN; a row with one finite token has the margin +inf, since that token cannot lose.
    """
    DIGITS: tl.constexpr = 1 << BITS
    row = tl.program_id(0).to(tl.int64)
    row_logits = logits_of_row(logits, row, row_stride, logits, 0, False, False)
    temperature, top_k, top_p, min_p, seed, position = row_parameters(
        row, given, temperature_ptr, temperature_stride, temperature_bits, top_k_ptr, top_k_stride, top_k_scalar,
        top_p_ptr, top_p_stride, top_p_bits, min_p_ptr, min_p_stride, min_p_bits,
        seed_ptr, seed_stride, seed_low, seed_high, position_ptr, position_stride, position_low, position_high,
    )  # fmt: skip
    winner = tl.load(token_ids + row).to(tl.int32)
    found = quiet_nan()
    if tl.load(status + row) == 0:
        tokens, top_key, other_key, low_key = census(row_logits, vocab, winner, SPAN)
        winner_noise = token_gumbel(seed, winner, position)
        greedy = temperature == 0.0
        first_only = greedy | (top_p <= 0.0)
        scale = inverse_temperature(temperature)
        limited = (top_k > 0) & (top_k < vocab) & (top_k < tokens)
        k = tl.where(first_only, 1, tl.where(limited, top_k, tokens.to(tl.int64))).to(tl.int32)
        by_mass = (top_p > 0.0) & (top_p < 1.0) & (greedy == 0)
        top_p = tl.where(by_mass, top_p, 0.5)
        min_weight = tl.where(greedy, 0, minimum_weight(min_p))
        least = tl.where(filter_order == ORDER_MIN_P_FIRST, min_weight, 0)
        boundary_key = tl.full([], LOWEST_KEY, tl.int32)
        boundary_token = tl.full([], LAST_TOKEN, tl.int32)
        if by_mass & (k < tokens) & (filter_order != ORDER_JOINT):
            boundary_key, boundary_token = kth_token(row_logits, vocab, k, SPAN, DIGITS)
        bits = tl.full([], INF_KEY, tl.int64)  # of +inf: a token alone cannot lose
        if tokens > 1:
            bits = tl.full([], 0, tl.int64)
            digit = tl.arange(0, DIGITS).to(tl.int64)
            unit = tl.full([], 4294967296, tl.int64) // DIGITS
            while unit > 0:
                trial = bits + digit * unit
                t = tl.minimum(trial, INF_KEY).to(tl.int32).to(tl.float32, bitcast=True)
                safe = harmless(
                    row_logits, vocab, t, scale, k, top_p, by_mass, min_weight, least, seed, position, winner,
                    winner_noise, tokens, top_key, other_key, low_key, boundary_key, boundary_token, SPAN, DIGITS,
                )  # fmt: skip
                safe = (safe & (trial <= INF_KEY)).to(tl.int32)
                chosen = tl.full([], 0, tl.int64)
                for step in tl.static_range(BITS):  # bit by bit, as if each had been judged alone
                    larger = chosen + (DIGITS >> (step + 1))
                    is_safe = tl.sum(tl.where(digit == larger, safe, 0), axis=0) > 0
                    chosen = tl.where(is_safe, larger, chosen)
                bits += chosen * unit
                unit = unit // DIGITS
        found = fp32_from_bits(bits)
    tl.store(result + row, found)
