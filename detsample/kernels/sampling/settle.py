"""Kernel 2, grid (rows): finishes or draws the rows for which the results of `summarize` are enough, and says what
`sum_weights` has to measure of the others.

Invalid rows end here. With top-k, the groups' maxima give a threshold that the boundary cannot lie below: if the maxima
of k groups reach t, each of these groups has a logit that reaches t, so the k-th largest logit reaches t, too. With
min-p alone, the largest logit is enough to know the boundary. If few groups reach the threshold, their tokens are
gathered, cut and drawn from. Rows without a filter are drawn from through the bounds of their groups. If the
temperature or the logits make these too loose, they are drawn from the few tokens that can win at all. For other rows
the boundary is guessed.
"""

import triton
import triton.language as tl

from detsample.kernels.contract.fraction import top_p_target
from detsample.kernels.contract.order import INF_KEY, LAST_TOKEN, LOWEST_KEY, MINUS_INF_KEY, key_of, value_of
from detsample.kernels.contract.weight import gap, weight
from detsample.kernels.sampling.boundary.guess import first_interval, interval_of_maxima, sum_rungs
from detsample.kernels.sampling.boundary.pivots import (
    PIVOTS,
    RUNGS,
    is_in_doubt,
    is_weighed,
    pick,
    rate_of,
    total_between,
    wanted_share,
)
from detsample.kernels.sampling.candidates import (
    CAPACITY,
    MOST_K,
    MOST_K_LISTED,
    append,
    code_of,
    draw_from_candidates,
    key_of_code,
    last_kept,
    load_candidates,
    ranks,
    weight_of_key,
)
from detsample.kernels.sampling.dependent_launch import wait_for_earlier
from detsample.kernels.sampling.draw import MOST_DRAWS, draw_from_groups
from detsample.kernels.sampling.outcome import write_drawn, write_invalid
from detsample.kernels.sampling.rows import (
    BOUNDED,
    BOUNDED_FROM,
    COUNT,
    DRAWN,
    FILLED,
    GREEDY,
    IN_DOUBT,
    INTERVAL,
    KEPT,
    MIN_P_FIRST,
    MIN_WEIGHT,
    MODE,
    NEEDS_MINIMUM,
    NEEDS_TOTAL,
    POSITION,
    RECORD,
    SEED,
    SELECTED,
    STATUS,
    STATUS_EMPTY,
    STATUS_INF,
    STATUS_NAN,
    SUMS,
    TOP_K,
    TOP_KEY,
    WANT_LOG_Z,
    WANT_LOGPROBS,
    WANT_TOKEN,
    WINNER,
    join_words,
    list_row,
    read_field,
    read_floats,
    read_sum,
    write_boundary,
)
from detsample.kernels.sampling.score_bounds import FARTHEST, HOPELESS
from detsample.kernels.sampling.tiles import (
    MOST_GROUPS,
    MOST_SEGMENTS,
    TILE,
    groups_of_segment,
    load_span,
    load_tokens,
    logits_of_row,
    token_of_group,
)

CHOICES = tl.constexpr(256)  # how many keys are tried at a time
HEAVIEST = tl.constexpr(1 << 61)  # the largest weight that a row can have
MOST_SELECTED = tl.constexpr(192)  # the most groups to gather, if they reach the threshold of top-k or top-p
MOST_REACHING = tl.constexpr(64)  # the most groups to gather, if they reach what min-p keeps, which may be all groups
BISECTIONS = tl.constexpr(8)
MOST_SHARING = tl.constexpr(160.0)  # about the most tokens to gather, if they hold the share of top-p
GATHER = tl.constexpr(4096)  # how many tokens are gathered at a time
GATHERED = tl.constexpr(128)  # how many of these are of one group


@triton.jit
def examine(row_logits, vocab):
    """The status bits of a row that has a NaN or +inf somewhere. Such rows are rare, so they are read once more."""
    nan = tl.zeros([TILE], tl.int32)
    inf = tl.zeros([TILE], tl.int32)
    finite = tl.zeros([TILE], tl.int32)
    for start in range(0, vocab, TILE):
        x = load_span(row_logits, start, vocab, TILE)
        nan |= (x != x).to(tl.int32)
        inf |= (x == float("inf")).to(tl.int32)
        finite |= (tl.abs(x) < float("inf")).to(tl.int32)
    bits = tl.where(tl.max(nan, axis=0) > 0, STATUS_NAN, 0) | tl.where(tl.max(inf, axis=0) > 0, STATUS_INF, 0)
    return bits | tl.where(tl.max(finite, axis=0) > 0, 0, STATUS_EMPTY)


@triton.jit
def row_status(row_logits, vocab, top_key, of_parameters):
    """The status of a row: that of its parameters, and what is wrong with its logits (spec section 3)."""
    status = of_parameters
    if top_key >= INF_KEY:
        status |= examine(row_logits, vocab)
    if top_key == MINUS_INF_KEY:
        status |= STATUS_EMPTY
    return status


@triton.jit
def threshold_key(group_keys, wanted, top_key):
    """A key that the maxima of at least `wanted` groups reach, found by bisection between values; the lowest key if
    there are not that many groups.
    """
    present = group_keys > MINUS_INF_KEY
    low = value_of(tl.min(tl.where(present, group_keys, top_key), axis=0))
    high = value_of(top_key)
    for _ in range(BISECTIONS):
        middle = low * 0.5 + high * 0.5
        reached = tl.sum((group_keys >= key_of(middle)).to(tl.int32), axis=0) >= wanted
        low = tl.where(reached, middle, low)
        high = tl.where(reached, high, middle)
    return tl.where(tl.sum(present.to(tl.int32), axis=0) >= wanted, key_of(low), LOWEST_KEY)


@triton.jit
def gather(row_logits, vocab, quads, segment_tiles, selected_groups, selected, threshold, filled, scratch_code):
    """Lists the tokens of the selected groups that reach the threshold."""
    lane = tl.arange(0, GATHER)
    size = 4 * quads * segment_tiles
    for first in range(0, selected, GATHER // GATHERED):
        index = first + lane // GATHERED
        group = tl.load(selected_groups + index, mask=index < selected, other=0)
        for start in range(0, size, GATHERED):
            member = start + lane % GATHERED
            token = token_of_group(group, member, quads, segment_tiles)
            valid = (index < selected) & (member < size) & (token < vocab)
            x = load_tokens(row_logits, token, valid)
            key = key_of(x)
            chosen = (key >= threshold) & (x > float("-inf"))
            append(scratch_code, filled, code_of(key, token), chosen)


@triton.jit
def select_groups(reaches, selected, selected_groups):
    """Lists the groups for which the condition holds, at most MOST_SELECTED; `selected` points at their number."""
    place = tl.atomic_add(selected + reaches.to(tl.int64) * 0, reaches.to(tl.int64), mask=reaches, sem="relaxed")
    tl.store(selected_groups + place, tl.arange(0, MOST_GROUPS), mask=reaches)


@triton.jit
def largest_key(part_key, row, parts):
    """The key of the row's largest logit."""
    part = tl.arange(0, MOST_SEGMENTS)
    return tl.max(tl.load(part_key + row * parts + part, mask=part < parts, other=-2147483648), axis=0)


@triton.jit
def drawable_tokens(part_counts, row, parts):
    """How many tokens of the row are not at -inf."""
    part = tl.arange(0, MOST_SEGMENTS)
    return tl.sum(tl.load(part_counts + row * parts + part, mask=part < parts, other=0), axis=0)


@triton.jit
def lowest_key_of(scale, largest, top_key, min_weight):
    """The smallest key of tokens that have at least the weight `min_weight` and can win. One byte of the key is decided
    at a time, by trying all 256.
    """
    below = tl.full([], LOWEST_KEY - 1, tl.int64)
    for byte in tl.static_range(4):
        step = 1 << (24 - 8 * byte)
        key = below + (tl.arange(0, CHOICES).to(tl.int64) + 1) * step
        inside = key <= top_key
        a = gap(value_of(tl.where(inside, key, top_key).to(tl.int32)), largest, scale)
        out = (weight(a) < min_weight) | (a > HOPELESS)
        below += tl.sum((inside & out).to(tl.int32), axis=0).to(tl.int64) * step
    return (below + 1).to(tl.int32)


@triton.jit
def load_maxima(group_key, groups):
    """The keys of the groups' largest logits, [MOST_GROUPS], and the key of -inf behind the last group."""
    index = tl.arange(0, MOST_GROUPS)
    return tl.load(group_key + index, mask=index < groups, other=MINUS_INF_KEY)


@triton.jit
def list_candidates(
    row_logits, vocab, quads, segment_tiles, group_key, list_token, groups, top_key, wanted, goal, rate, lowest,
    most_groups, sums, row, scratch_code,
):  # fmt: skip
    """Lists the tokens that reach a threshold: (candidates, threshold, low key, end, found).

    `candidates` is their number. If it is above CAPACITY, there are more tokens, or more groups to look at, than fit.
    The threshold is at least `lowest`. It is reached by the maxima of the number of groups that is `wanted`, if that is
    not 0, and otherwise by tokens that together probably have the weight `goal`, if that is not 0. The keys returned
    are those of the interval in which the boundary is.

    The selected groups are listed where later kernels list tokens, which may be where the groups' maxima are. So all
    maxima are read before.
    """
    group_keys = load_maxima(group_key, groups)
    low_key = lowest
    end_key = top_key * 0 + INF_KEY
    found = wanted > 0
    if wanted > 0:
        low_key = threshold_key(group_keys, wanted, top_key)
    elif goal > 0.0:
        low, high, tokens, found = interval_of_maxima(group_keys, value_of(top_key), goal, rate)
        low_key = tl.where(found, key_of(low), LOWEST_KEY)
        end_key = tl.where(found, key_of(high), INF_KEY)
        most_groups = tl.where(found & (tokens <= MOST_SHARING), most_groups, MOST_REACHING)
    threshold = tl.maximum(low_key, lowest)
    reaches = (group_keys >= threshold) & (group_keys > MINUS_INF_KEY)
    selected = tl.sum(reaches.to(tl.int32), axis=0)
    filled = tl.full([], CAPACITY + 1, tl.int32)
    if (selected <= most_groups) & (end_key == INF_KEY):
        tl.debug_barrier()  # every lane has read the maxima
        select_groups(reaches, sums + row * SUMS + SELECTED, list_token)
        tl.debug_barrier()
        gather(
            row_logits, vocab, quads, segment_tiles, list_token, selected, threshold, sums + row * SUMS + FILLED,
            scratch_code,
        )  # fmt: skip
        tl.debug_barrier()
        filled = read_sum(sums, row, FILLED).to(tl.int32)
    return filled, threshold, low_key, end_key, found


@triton.jit
def draw_listed(
    records, row, filled, mode, by_share, lightest, heaviest, others, threshold, complete, top_k, top_p, min_weight,
    scale, largest, seed, position, scratch_code,
):  # fmt: skip
    """Draws from the kept set, if the listed candidates hold all of it: (settled, token, count, weight). The boundary
    is written to the row's record.

    Top-p takes its share of what top-k or min-p leaves of the candidates or, if `by_share`, of the weight of all
    tokens. That weight lies between `lightest` and `heaviest`. It exceeds the weight of the candidates by at most that
    of `others` tokens at the threshold, which no token reaches that is not listed. If what remains unknown could make a
    difference, nothing is settled. Nothing is settled either if the candidates, which are the first tokens, weigh too
    little, unless no other token can be kept (`complete`).
    """
    code = load_candidates(scratch_code, filled)
    own = weight_of_key(key_of_code(code), scale, largest)
    rank, before = ranks(scratch_code, filled, code, scale, largest)
    survives = (tl.arange(0, CAPACITY) < filled) & ((rank < top_k) | (top_k == 0))
    heavy = own >= min_weight
    shared = tl.where(by_share, tl.arange(0, CAPACITY) < filled, survives & (heavy | ((mode & MIN_P_FIRST) == 0)))
    whole = tl.sum(tl.where(shared, own, 0), axis=0)
    target = top_p_target(top_p, tl.where(by_share, tl.maximum(whole, lightest), whole))
    keep = survives & heavy & (before < target)
    count = tl.sum(keep.to(tl.int32), axis=0)
    settled = count >= 0  # true, as a scalar of the GPU
    if by_share:
        most = top_p_target(top_p, tl.minimum(whole + others * weight_of_key(threshold, scale, largest), heaviest))
        doubtful = survives & heavy & (before >= target) & (before < most)
        settled = (tl.sum(doubtful.to(tl.int32), axis=0) == 0) & (complete | (whole >= most))
    winner = tl.full([], -1, tl.int32)
    if settled:
        last_key, last_token = last_kept(keep, rank, code, count)
        write_boundary(records, row, last_key, last_token)
        winner = draw_from_candidates(keep, code, scale, largest, seed, position)
    return settled, winner, count, tl.sum(tl.where(keep, own, 0), axis=0)


@triton.jit
def shared_weight(row_pivots, part_rungs, row, parts, top, rate, chain, weighed, top_p):
    """(lightest, heaviest, share): two numbers between which the weight of all tokens lies, and the share of it that
    top-p keeps, with a little added to be safe, relative to the weight of the largest logit `top`.

    If the weight is not known, `share` is 0.
    """
    lightest, heaviest = tl.full([], 1, tl.int64), tl.full([], HEAVIEST, tl.int64)
    share_kept = tl.full([], 0.0, tl.float32)
    if weighed:
        reference = tl.load(row_pivots + row * RUNGS + PIVOTS)
        whole = pick(sum_rungs(part_rungs, row, parts, 1, MOST_SEGMENTS), PIVOTS - 1)
        light, heavy, usable = total_between(whole, reference, top, rate, chain)
        lightest = tl.where(usable, light, lightest)
        heaviest = tl.where(usable, heavy, heaviest)
        share = (heavy.to(tl.float64) * 9.0949470177292824e-13).to(tl.float32) * tl.maximum(top_p, 1e-6) * 1.0001
        share_kept = tl.where(usable, share, share_kept)
    return lightest, heaviest, share_kept


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
def note(records, row, FIELD: tl.constexpr, value):
    """Writes one int64 word of a row's record."""
    tl.store(records + row * RECORD + FIELD, value.to(tl.int64))


NOT_SPECIALIZED = [
    "row_stride", "allowed_stride", "vocab", "quads", "segment_tiles", "segments_of_part", "groups", "parts",
    "stretches", "stretch_tiles", "want", "every_row", "pitch",
]  # fmt: skip


@triton.jit(do_not_specialize=NOT_SPECIALIZED, do_not_specialize_on_alignment=["logits", "allowed"])
def settle(
    logits, row_stride, allowed, allowed_stride,
    vocab, quads, segment_tiles, segments_of_part, groups, parts, stretches, stretch_tiles, want, every_row,
    records, sums, missed, group_key, list_token, pitch, group_bound, part_key, part_counts, row_pivots, part_rungs,
    scratch_code, token_ids, num_kept, status, logprobs, log_z,
    OVERLAP: tl.constexpr, ALLOWED: tl.constexpr,
):  # fmt: skip
    """Finishes the rows with few candidates, and writes what is to be measured for the others (spec sections 3, 6, 8
    and 9).

    Grid (rows).
    """
    wait_for_earlier(OVERLAP)
    row = tl.program_id(0).to(tl.int64)
    row_logits = logits_of_row(logits, row, row_stride, allowed, allowed_stride, False, ALLOWED)
    group_key += row * pitch
    bounds = stretches * groups_of_segment(quads)
    group_bound += row * bounds

    top_key = largest_key(part_key, row, parts)
    reason = row_status(row_logits, vocab, top_key, (read_field(records, row, STATUS) & 0xFFFF).to(tl.int32))
    if reason != 0:
        write_invalid(records, token_ids, num_kept, status, logprobs, log_z, row, reason)
    else:
        scale, top_p = read_floats(records, row)
        top_k = read_field(records, row, TOP_K)
        min_weight = read_field(records, row, MIN_WEIGHT)
        seed = read_field(records, row, SEED)
        position = read_field(records, row, POSITION)
        mode = read_field(records, row, MODE)
        largest = value_of(top_key)
        winner = tl.full([], -1, tl.int32)
        count = drawable_tokens(part_counts, row, parts)
        kept_weight = tl.full([], 0, tl.int64)
        is_drawn = min_weight < 0
        if (want & WANT_LOG_Z) != 0:
            mode |= tl.where((mode & GREEDY) != 0, 0, NEEDS_TOTAL)

        shift = largest * scale
        bounds_serve = tl.abs(shift) <= FARTHEST
        mode -= tl.where(bounds_serve, 0, mode & BOUNDED)
        few = (top_k > 0) & (top_k <= MOST_K_LISTED)
        by_min_p = (top_k == 0) & (min_weight > 0)
        min_p_first = (mode & MIN_P_FIRST) != 0
        unfiltered = (top_k == 0) & (min_weight == 0) & (top_p >= 1.0)
        by_gap = unfiltered & (bounds_serve == 0) & ((want & WANT_TOKEN) != 0)
        lowest = tl.full([], LOWEST_KEY, tl.int32)
        if by_min_p | by_gap:
            lowest = lowest_key_of(scale, largest, top_key, min_weight)
        weighed = is_weighed(mode, top_k, top_p) & (min_p_first == 0)
        rate = rate_of(scale, is_weighed(mode, top_k, top_p))
        lightest, heaviest, share = shared_weight(
            row_pivots, part_rungs, row, parts, largest, rate, segments_of_part * segment_tiles, weighed, top_p
        )
        in_doubt = is_in_doubt(top_k, top_p)
        interval = join_words(lowest, lowest * 0 + INF_KEY)
        found = few
        if few | by_gap | weighed | by_min_p:
            wanted = tl.where(few, top_k.to(tl.int32), tl.where(weighed & (share == 0.0), MOST_REACHING, 0))
            most_groups = tl.where(top_k > MOST_K, 0, tl.where(few | weighed, MOST_SELECTED, MOST_REACHING))
            filled, threshold, low_key, end_key, found = list_candidates(
                row_logits, vocab, quads, segment_tiles, group_key, list_token + row * pitch, groups, top_key,
                wanted, share, rate, lowest, most_groups, sums, row, scratch_code + row * CAPACITY,
            )  # fmt: skip
            interval = join_words(low_key, end_key)
            found = found & weighed & (wanted == 0)
            if filled <= CAPACITY:
                is_drawn, token, kept, weight_kept = draw_listed(
                    records, row, filled, mode, weighed, lightest, heaviest, count, threshold,
                    few | (threshold == lowest), top_k, top_p, min_weight, scale, largest, seed, position,
                    scratch_code + row * CAPACITY,
                )  # fmt: skip
                winner = tl.where(is_drawn, token, winner)
                count = tl.where(is_drawn & (by_gap == 0), kept, count)
                kept_weight = tl.where(is_drawn & (by_gap == 0), weight_kept, kept_weight)
        if (few | in_doubt) & (is_drawn == 0):
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
        if by_min_p & (is_drawn == 0):
            mode |= tl.where((want & WANT_TOKEN) != 0, BOUNDED_FROM, 0) | NEEDS_MINIMUM
            write_boundary(records, row, lowest, tl.full([], LAST_TOKEN, tl.int32))
        elif unfiltered:
            write_boundary(records, row, tl.full([], LOWEST_KEY, tl.int32), tl.full([], LAST_TOKEN, tl.int32))
            is_drawn = is_drawn | ((want & WANT_TOKEN) == 0)
            if bounds_serve & ((want & WANT_TOKEN) != 0):
                winner, is_drawn = draw_from_groups(
                    row_logits, vocab, quads, stretch_tiles, bounds, group_bound, shift, scale, largest, seed, position,
                    LOWEST_KEY, LAST_TOKEN, MOST_DRAWS,
                )  # fmt: skip
            if (want & WANT_LOGPROBS) != 0:
                mode |= NEEDS_TOTAL

        if is_drawn & ((mode & NEEDS_TOTAL) == 0):
            write_drawn(
                row_logits, records, token_ids, num_kept, status, logprobs, log_z,
                row, winner, count, scale, largest, tl.maximum(kept_weight, 1), tl.maximum(kept_weight, 1),
            )  # fmt: skip
        else:
            note(records, row, TOP_KEY, top_key)
            note(records, row, COUNT, count)
            note(records, row, KEPT, kept_weight)
            note(records, row, WINNER, winner)
            note(records, row, MODE, mode | tl.where(is_drawn, DRAWN, 0))
            if ((mode & (NEEDS_TOTAL | NEEDS_MINIMUM | IN_DOUBT)) != 0) & (every_row == 0):
                list_row(missed, row, tl.num_programs(0), 0)
