"""The second way through `settle`, for rows whose boundary may lie among many tokens. These are rows with top-p whose
share is of all tokens or of what min-p keeps, and rows with a large top-k.

`summarize` has added up roughly what all tokens weigh, and it is known how wrong that may be. So the groups' maxima
tell from where on tokens probably hold top-p's share. If these are few, they are gathered and cut, and the row is
finished if what is unknown of the sum makes no difference. If they are more, or the cut is in doubt, `sum_weights`
lists them. If they are too many to list, it lists those around a guess.

If the token alone is wanted, the boundary need not be known. The row's token is the best of all that may be kept, if it
is surely kept itself.
"""

import triton
import triton.language as tl

from detsample.kernels.contract.fraction import top_p_target
from detsample.kernels.contract.order import INF_KEY, LAST_TOKEN, LOWEST_KEY, MINUS_INF_KEY, key_of, value_of
from detsample.kernels.sampling.boundary.guess import first_interval, sum_rungs
from detsample.kernels.sampling.boundary.pivots import (
    FLT_MAX,
    PIVOTS,
    RUNGS,
    is_for_top_p,
    is_in_doubt,
    is_known,
    is_weighed,
    pick,
    rate_of,
    total_between,
    wanted_share,
)
from detsample.kernels.sampling.candidates import CAPACITY
from detsample.kernels.sampling.draw import MOST_DRAWS, draw_from_groups
from detsample.kernels.sampling.rows import (
    BOUNDED,
    BOUNDED_FROM,
    IN_DOUBT,
    INTERVAL,
    MIN_P_FIRST,
    MIN_WEIGHT,
    MODE,
    NEEDS_MINIMUM,
    NEEDS_TOTAL,
    POSITION,
    SEED,
    STATUS,
    TOP_K,
    WANT_KEPT,
    WANT_LOG_Z,
    WANT_TOKEN,
    join_words,
    read_field,
    read_floats,
    write_boundary,
)
from detsample.kernels.sampling.score_bounds import FARTHEST
from detsample.kernels.sampling.settling import (
    MOST_REACHING,
    MOST_SELECTED,
    draw_listed,
    drawable_tokens,
    largest_key,
    leave,
    list_candidates,
    load_maxima,
    lowest_key_of,
    note,
)
from detsample.kernels.sampling.tiles import MOST_SEGMENTS, groups_of_segment

MOST_TOLD = tl.constexpr(1024.0)  # the groups' maxima do not tell where this many tokens of the largest weight end
HEAVIEST = tl.constexpr(1 << 61)  # the largest weight that a row can have


@triton.jit
def shared_weight(row_pivots, part_rungs, row, parts, top, rate, chain, top_p, weighed):
    """(lightest, heaviest, share): two numbers between which the weight of all tokens lies, and the share of it that
    top-p keeps, with a little added to be safe, relative to the weight of the largest logit `top`.

    If the weight is not known, or was not `weighed`, `share` is 0.
    """
    reference = tl.load(row_pivots + row * RUNGS + PIVOTS)
    whole = pick(sum_rungs(part_rungs, row, parts, 1, MOST_SEGMENTS), PIVOTS - 1)
    lightest, heaviest = total_between(whole, reference, top, rate, chain)
    usable = is_known(whole, reference, top, rate) & weighed
    share = (heaviest.to(tl.float64) * 9.0949470177292824e-13).to(tl.float32) * tl.maximum(top_p, 1e-6) * 1.0001
    return tl.where(usable, lightest, 1), tl.where(usable, heaviest, HEAVIEST), tl.where(usable, share, 0.0)


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
    reached = sum_rungs(part_rungs, row, parts, 0, MOST_SEGMENTS)
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
def aim(row_pivots, part_rungs, row, parts, largest, count, scale, top_k, top_p, least_key, vocab):
    """The keys of an interval around the probable boundary, joined as a row's record holds them. The boundary must not
    be below `least_key`.
    """
    high, low = first_interval(
        row_pivots, part_rungs, row, parts, largest, count.to(tl.float32), rate_of(scale, top_k == 0),
        wanted_share(top_k, top_p, vocab), MOST_SEGMENTS,
    )  # fmt: skip
    low_key = tl.maximum(key_of(low), least_key)
    return join_words(low_key, tl.where(key_of(high) >= low_key, key_of(high), INF_KEY))


@triton.jit
def settle_top_p(
    row, row_logits, vocab, quads, segment_tiles, segments_of_part, groups, parts, stretches, stretch_tiles, want,
    every_row, records, sums, missed, group_key, list_token, group_bound, part_key, part_counts, row_pivots, part_rungs,
    scratch_code, token_ids, num_kept, status, logprobs, log_z,
):  # fmt: skip
    """Settles a row with top-p that keeps few tokens, or says where to look for its boundary. It does nothing for rows
    that are for `settle_row`.
    """
    scale, top_p = read_floats(records, row)
    top_k = read_field(records, row, TOP_K)
    mode = read_field(records, row, MODE)
    invalid = (read_field(records, row, STATUS) & 0xFFFF) != 0
    if is_for_top_p(mode, top_k, top_p) & (invalid == 0):
        group_keys = load_maxima(group_key, groups)
        min_weight = read_field(records, row, MIN_WEIGHT)
        seed = read_field(records, row, SEED)
        position = read_field(records, row, POSITION)
        top_key = largest_key(part_key, row, parts)
        count = drawable_tokens(part_counts, row, parts)
        if (top_key < INF_KEY) & (top_key > MINUS_INF_KEY):
            largest = value_of(top_key)
            winner = tl.full([], -1, tl.int32)
            kept_weight = tl.full([], 0, tl.int64)
            is_drawn = min_weight < 0
            if (want & WANT_LOG_Z) != 0:
                mode |= NEEDS_TOTAL
            mode -= tl.where(tl.abs(largest * scale) <= FARTHEST, 0, mode & BOUNDED)
            by_min_p = (top_k == 0) & (min_weight > 0)
            min_p_first = (mode & MIN_P_FIRST) != 0
            in_doubt = is_in_doubt(top_k, top_p)
            lowest = tl.full([], LOWEST_KEY, tl.int32)
            if by_min_p:
                lowest = lowest_key_of(scale, largest, top_key, min_weight)
            by_share = is_weighed(mode, top_k, top_p) & (min_p_first == 0)
            rate = rate_of(scale, is_weighed(mode, top_k, top_p))
            interval = join_words(lowest, lowest * 0 + INF_KEY)
            lightest, heaviest, share = shared_weight(
                row_pivots, part_rungs, row, parts, largest, rate, segments_of_part * segment_tiles, top_p, by_share
            )
            found = by_share & (share <= MOST_TOLD)
            token_only = (want & WANT_KEPT) == 0
            if token_only & ((mode & BOUNDED) != 0) & (share > 0.0):
                winner, is_drawn = draw_without_boundary(
                    row_logits, vocab, quads, stretches, stretch_tiles, row, parts, row_pivots, part_rungs, group_bound,
                    scale, largest, rate, segments_of_part * segment_tiles, top_p, lightest, heaviest, seed, position,
                )  # fmt: skip
            if (found | by_min_p) & (is_drawn == 0):
                few = tl.where(share == 0.0, MOST_REACHING, 0)
                wanted = tl.where(by_share, tl.where(top_k > 0, top_k.to(tl.int32), few), 0)
                filled, threshold, low_key, end_key, found = list_candidates(
                    row_logits, vocab, quads, segment_tiles, group_keys, list_token, top_key, wanted,
                    share, rate, lowest, tl.where(by_share, MOST_SELECTED, MOST_REACHING), sums, row,
                    scratch_code, True,
                )  # fmt: skip
                interval = join_words(low_key, end_key)
                found = found & ((wanted == 0) | (top_k > 0)) & by_share
                if filled <= CAPACITY:
                    is_drawn, token, kept, weight_kept = draw_listed(
                        records, row, filled, mode, lightest, heaviest, count, threshold,
                        (top_k > 0) | (threshold == lowest), top_k, top_p, min_weight, scale, largest, seed, position,
                        scratch_code, by_share, token_only,
                    )  # fmt: skip
                    winner = tl.where(is_drawn, token, winner)
                    count = tl.where(is_drawn, kept, count)
                    kept_weight = tl.where(is_drawn, weight_kept, kept_weight)
            if is_drawn == 0:
                mode |= tl.where(top_k == 0, NEEDS_TOTAL, 0) | IN_DOUBT
                if in_doubt:
                    aimed = aim(
                        row_pivots, part_rungs, row, parts, largest, count, scale, top_k, top_p,
                        tl.where(min_p_first, lowest, LOWEST_KEY), vocab,
                    )  # fmt: skip
                    interval = tl.where(found, interval, aimed)
                note(records, row, INTERVAL, interval)  # without an end, everything from its start on is listed
                ends = (interval >> 32) < INF_KEY
                if ((mode & BOUNDED) == 0) & (min_weight == 0) & ends & ((want & WANT_TOKEN) != 0):
                    mode |= BOUNDED_FROM
                if by_min_p:
                    mode |= tl.where((want & WANT_TOKEN) != 0, BOUNDED_FROM, 0) | NEEDS_MINIMUM
                    write_boundary(records, row, lowest, tl.full([], LAST_TOKEN, tl.int32))
            leave(
                row_logits, records, missed, token_ids, num_kept, status, logprobs, log_z,
                row, tl.num_programs(0), every_row, mode, is_drawn, top_key, count, kept_weight, winner, scale, largest,
            )  # fmt: skip
