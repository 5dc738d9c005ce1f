"""The second program that a row has in `settle`, for rows whose boundary may lie among thousands of tokens: rows with
top-p, or with a large top-k. It says where `sum_weights` has to look, in case the row is not settled.

If the token alone is wanted of a flat row with top-p, the boundary need not be known. The row's token is the best of
all that may be kept, if it is surely kept itself.
"""

import triton
import triton.language as tl

from detsample.kernels.contract.fraction import top_p_target
from detsample.kernels.contract.order import INF_KEY, LAST_TOKEN, LOWEST_KEY, MINUS_INF_KEY, key_of, value_of
from detsample.kernels.sampling.boundary.guess import (
    NEAR,
    SPREAD,
    interval_near,
    interval_of_sample,
    rough_total,
    spread_tokens,
    sum_rungs,
)
from detsample.kernels.sampling.boundary.pivots import (
    ANCHOR,
    FLT_MAX,
    PIVOTS,
    RUNGS,
    pick,
    quotient,
    rate_of,
    rough_weight,
    total_between,
)
from detsample.kernels.sampling.candidates import MOST_SELECTED
from detsample.kernels.sampling.draw import MOST_DRAWS, draw_from_groups
from detsample.kernels.sampling.rows import (
    AIMED,
    BOUNDED,
    BY_SHARE,
    IN_DOUBT,
    INTERVAL,
    MIN_P_FIRST,
    MIN_WEIGHT,
    MODE,
    NEEDS_TOTAL,
    POSITION,
    SEED,
    TOP_K,
    join_words,
    read_field,
    read_floats,
)
from detsample.kernels.sampling.score_bounds import FARTHEST
from detsample.kernels.sampling.settling import (
    MOST_REACHING,
    drawable_tokens,
    first_groups,
    is_drawn_first,
    largest_key,
    leave,
    load_maxima,
    lowest_key_of,
    note,
    total_weight,
)
from detsample.kernels.sampling.tiles import groups_of_segment


@triton.jit
def draw_without_boundary(
    row_logits, vocab, quads, stretches, stretch_tiles, row, parts, row_pivots, part_rungs, group_bound, scale, largest,
    rate, chain, top_p, lightest, heaviest, seed, position,
):  # fmt: skip
    """(token, decided): the row's token, if it can be told although the boundary is not known.

    What comes before a token weighs less than what reaches a pivot that it reaches, too, and at least what reaches a
    pivot above it. This is known roughly, with the error that `total_between` proves, as is the weight of all tokens.
    So from some pivot on all tokens are kept, and none below another. What lies between may be kept or not.
    """
    pivots = tl.load(row_pivots + row * RUNGS + tl.arange(0, PIVOTS))
    reference = tl.load(row_pivots + row * RUNGS + PIVOTS)
    reached = sum_rungs(part_rungs, row, parts)
    least, most = total_between(reached, reference, largest, rate, chain)
    kept_from = tl.min(tl.where(most < top_p_target(top_p, lightest), pivots, float("inf")), axis=0)
    none_below = tl.max(tl.where(least >= top_p_target(top_p, heaviest), pivots, -FLT_MAX), axis=0)
    token, decided = draw_from_groups(
        row_logits, vocab, quads, stretch_tiles, stretches * groups_of_segment(quads), group_bound, largest * scale,
        scale, largest, seed, position, key_of(none_below), LAST_TOKEN, MOST_DRAWS,
    )  # fmt: skip
    x = tl.load(row_logits[0] + token, mask=decided, other=float("-inf")).to(tl.float32)
    return token, decided & (x >= kept_from)


@triton.jit
def probable_interval(
    row_logits, vocab, row_pivots, part_rungs, row, parts, top_key, count, scale, top_k, top_p, share, lowest
):  # fmt: skip
    """The keys of an interval around the probable boundary, joined as a row's record holds them. The boundary must not
    be below `lowest`. `share` is that of `total_weight`.
    """
    top = value_of(top_key)
    by_weight = top_k == 0
    rate = rate_of(scale, by_weight)
    tokens = count.to(tl.float32)
    missing = top_k.to(tl.float32) - tokens
    anchor = tl.full([], float("-inf"), tl.float32)
    first, last = anchor, anchor
    near = count < 0
    if by_weight:
        pivots = tl.load(row_pivots + row * RUNGS + tl.arange(0, PIVOTS))
        anchor = pick(pivots, ANCHOR)
        whole = rough_total(part_rungs, row, parts)
        has_pivots = anchor > float("-inf")
        reached = tl.where(has_pivots, pick(sum_rungs(part_rungs, row, parts), ANCHOR), whole)
        wanted = tl.maximum(top_p, 1e-6)
        further = wanted - quotient(reached, whole)
        missing = quotient(share, wanted) * further
        near = has_pivots & (tl.abs(missing) <= rough_weight(anchor, top, rate) * NEAR) & (missing != 0.0)
        first, last = pick(pivots, 0), pick(pivots, PIVOTS - 1)
        anchor = tl.where(share > 0.0, anchor, float("inf"))  # without a sum: one token outweighs what was sampled
    x = spread_tokens(row_logits, vocab, 0, SPREAD)
    if near:
        high, low = interval_near(x, vocab, top, anchor, first, last, missing, rate)
    else:
        high, low = interval_of_sample(x, vocab, top, -FLT_MAX, FLT_MAX, anchor, missing, rate)
    low_key = tl.maximum(key_of(low), lowest)
    return join_words(low_key, tl.where(key_of(high) >= low_key, key_of(high), INF_KEY))


@triton.jit
def aim_row(
    row, row_logits, vocab, quads, segment_tiles, segments_of_part, groups, parts, stretches, stretch_tiles, want,
    every_row, records, missed, group_key, group_bound, part_key, part_counts, row_pivots, part_rungs,
    token_ids, num_kept, status, logprobs, log_z,
):  # fmt: skip
    """Writes the first interval of a row that may be in doubt, and settles the row if it `is_drawn_first`."""
    scale, top_p = read_floats(records, row)
    top_k = read_field(records, row, TOP_K)
    mode = read_field(records, row, MODE)
    top_key = largest_key(part_key, row, parts)
    if ((mode & AIMED) != 0) & (top_key < INF_KEY) & (top_key > MINUS_INF_KEY):
        group_keys = load_maxima(group_key, groups)
        min_weight = read_field(records, row, MIN_WEIGHT)
        count = drawable_tokens(part_counts, row, parts)
        largest = value_of(top_key)
        chain = segments_of_part * segment_tiles
        min_p_first = (mode & MIN_P_FIRST) != 0
        rate = rate_of(scale, top_k == 0)
        lightest, heaviest, share = total_weight(row_pivots, part_rungs, row, parts, largest, rate, chain, top_p)
        of_all = tl.where((mode & BY_SHARE) != 0, share, 0.0)
        mode -= tl.where(tl.abs(largest * scale) <= FARTHEST, 0, mode & BOUNDED)
        key, number = first_groups(group_keys, top_key, tl.full([], MOST_REACHING, tl.int32), of_all, rate)
        drawn_first = is_drawn_first(mode, want, of_all, number)
        is_drawn = drawn_first
        winner = tl.full([], -1, tl.int32)
        if drawn_first:
            winner, is_drawn = draw_without_boundary(
                row_logits, vocab, quads, stretches, stretch_tiles, row, parts, row_pivots, part_rungs, group_bound,
                scale, largest, rate, chain, top_p, lightest, heaviest, read_field(records, row, SEED),
                read_field(records, row, POSITION),
            )  # fmt: skip
        if (of_all > 0.0) & (number <= MOST_SELECTED):  # the way that tries to settle the row looks there, too
            note(records, row, INTERVAL, join_words(key, top_key * 0 + INF_KEY))
        elif is_drawn == 0:
            lowest = tl.full([], LOWEST_KEY, tl.int32)
            if min_p_first:
                lowest = lowest_key_of(scale, largest, top_key, min_weight)
            interval = probable_interval(
                row_logits, vocab, row_pivots, part_rungs, row, parts, top_key, count, scale, top_k, top_p, share,
                lowest,
            )  # fmt: skip
            note(records, row, INTERVAL, interval)  # without an end, everything from its start on is listed
        if drawn_first:
            mode |= tl.where(is_drawn, 0, IN_DOUBT | NEEDS_TOTAL)
            leave(
                row_logits, records, missed, token_ids, num_kept, status, logprobs, log_z,
                row, tl.num_programs(0), every_row, mode, is_drawn, top_key, count, min_weight * 0, winner, scale,
                largest,
            )  # fmt: skip
