"""What `settle` and `settle_top_p` have in common: the few tokens that hold a row's kept set are listed and drawn from,
and what is known of the row is left to later kernels.
"""

import triton
import triton.language as tl

from detsample.kernels.contract.fraction import top_p_target
from detsample.kernels.contract.order import INF_KEY, LOWEST_KEY, MINUS_INF_KEY, key_of, value_of
from detsample.kernels.contract.weight import gap, weight
from detsample.kernels.sampling.boundary.guess import interval_of_maxima
from detsample.kernels.sampling.candidates import (
    CAPACITY,
    append,
    code_of,
    draw_from_candidates,
    key_of_code,
    last_kept,
    load_candidates,
    ranks,
    token_of_code,
    weight_of_key,
)
from detsample.kernels.sampling.outcome import write_drawn
from detsample.kernels.sampling.rows import (
    COUNT,
    DRAWN,
    FILLED,
    IN_DOUBT,
    KEPT,
    MIN_P_FIRST,
    MODE,
    NEEDS_MINIMUM,
    NEEDS_TOTAL,
    RECORD,
    SELECTED,
    SUMS,
    TOP_KEY,
    WINNER,
    list_row,
    read_sum,
    write_boundary,
)
from detsample.kernels.sampling.score_bounds import HOPELESS
from detsample.kernels.sampling.tiles import MOST_GROUPS, MOST_SEGMENTS, load_tokens, token_of_group

CHOICES = tl.constexpr(256)  # how many keys are tried at a time
MOST_SELECTED = tl.constexpr(192)  # the most groups to gather, if they reach the threshold of top-k or top-p
MOST_REACHING = tl.constexpr(64)  # the most groups to gather, if they reach what min-p keeps, which may be all groups
MOST_SHARING = tl.constexpr(160.0)  # about the most tokens to gather, if they hold the share of top-p
BISECTIONS = tl.constexpr(8)
GATHER = tl.constexpr(4096)  # how many tokens are gathered at a time
GATHERED = tl.constexpr(128)  # how many of these are of one group


@triton.jit
def load_maxima(group_key, groups):
    """The keys of the groups' largest logits, [MOST_GROUPS], and the key of -inf behind the last group."""
    index = tl.arange(0, MOST_GROUPS)
    return tl.load(group_key + index, mask=index < groups, other=MINUS_INF_KEY)


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
def select_groups(reaches, selected, selected_groups):
    """Lists the groups for which the condition holds, at most MOST_SELECTED; `selected` points at their number."""
    place = tl.atomic_add(selected + reaches.to(tl.int64) * 0, reaches.to(tl.int64), mask=reaches, sem="relaxed")
    tl.store(selected_groups + place, tl.arange(0, MOST_GROUPS), mask=reaches)


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
def list_candidates(
    row_logits, vocab, quads, segment_tiles, group_keys, list_token, top_key, wanted, goal, rate, lowest, most_groups,
    sums, row, scratch_code, BY_SHARE: tl.constexpr,
):  # fmt: skip
    """Lists the tokens that reach a threshold: (candidates, threshold, low key, end, found).

    `candidates` is their number. If it is above CAPACITY, there are more tokens, or more groups to look at, than fit.
    The threshold is at least `lowest`. It is reached by the maxima of the number of groups that is `wanted`, if that is
    not 0, and otherwise, if BY_SHARE, by tokens that together probably have the weight `goal`. The keys returned are
    those of the interval in which the boundary is.

    The selected groups are listed where later kernels list tokens, which may be where the groups' maxima are. So all
    maxima are read before.
    """
    low_key = lowest
    end_key = top_key * 0 + INF_KEY
    threshold = low_key
    found = wanted > 0
    if wanted > 0:
        low_key = threshold_key(group_keys, wanted, top_key)
        threshold = low_key
    elif BY_SHARE:
        if goal > 0.0:
            low, high, few, tokens, found = interval_of_maxima(group_keys, value_of(top_key), goal, rate)
            low_key = tl.where(found, key_of(low), LOWEST_KEY)
            threshold = tl.where(found, key_of(few), LOWEST_KEY)
            end_key = tl.where(found, key_of(high), INF_KEY)
            most_groups = tl.where(found & (tokens <= MOST_SHARING), most_groups, MOST_REACHING)
    threshold = tl.maximum(threshold, lowest)
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
    records, row, filled, mode, lightest, heaviest, others, threshold, complete, top_k, top_p, min_weight, scale,
    largest, seed, position, scratch_code, by_share, token_only,
):  # fmt: skip
    """Draws from the kept set, if the listed candidates hold all of it: (settled, token, count, weight). The boundary
    is written to the row's record.

    Top-p takes its share of what top-k or min-p leaves of the candidates or, if `by_share`, of the weight of all
    tokens. That weight lies between `lightest` and `heaviest`. It exceeds the weight of the candidates by at most that
    of `others` tokens at the threshold, which no token reaches that is not listed. If what remains unknown could make a
    difference (to the token, if `token_only`), nothing is settled. Nor is it if the candidates, which are the first
    tokens, weigh too little, unless no other token can be kept (`complete`).
    """
    code = load_candidates(scratch_code, filled)
    own = weight_of_key(key_of_code(code), scale, largest)
    rank, before = ranks(scratch_code, filled, code, scale, largest)
    listed = tl.arange(0, CAPACITY) < filled
    survives = listed & ((rank < top_k) | (top_k == 0))
    heavy = own >= min_weight
    target = tl.full([], 0, tl.int64)
    most = target
    settled = filled >= 0  # true, as a scalar of the GPU
    if by_share:
        whole = tl.sum(tl.where(listed, own, 0), axis=0)
        target = top_p_target(top_p, tl.maximum(whole, lightest))
        most = top_p_target(top_p, tl.minimum(whole + others * weight_of_key(threshold, scale, largest), heaviest))
        settled = complete | (whole >= most)
    else:
        shared = survives & (heavy | ((mode & MIN_P_FIRST) == 0))
        target = top_p_target(top_p, tl.sum(tl.where(shared, own, 0), axis=0))
        most = target
    possible = survives & heavy & (before < most)
    keep = possible & (before < target)
    count = tl.sum(keep.to(tl.int32), axis=0)
    winner = draw_from_candidates(possible, code, scale, largest, seed, position)
    doubtful = (possible ^ keep) & ((token_of_code(code) == winner) | (token_only == 0))
    settled = settled & (tl.sum(doubtful.to(tl.int32), axis=0) == 0)
    if settled:
        last_key, last_token = last_kept(keep, rank, code, count)
        write_boundary(records, row, last_key, last_token)
    return settled, winner, count, tl.sum(tl.where(keep, own, 0), axis=0)


@triton.jit
def note(records, row, FIELD: tl.constexpr, value):
    """Writes one int64 word of a row's record."""
    tl.store(records + row * RECORD + FIELD, value.to(tl.int64))


@triton.jit
def leave(
    row_logits, records, missed, token_ids, num_kept, status, logprobs, log_z,
    row, rows, every_row, mode, is_drawn, top_key, count, kept_weight, winner, scale, largest,
):  # fmt: skip
    """Writes the results of a row if nothing is missing, and otherwise what is known of it."""
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
            list_row(missed, row, rows, 0)
