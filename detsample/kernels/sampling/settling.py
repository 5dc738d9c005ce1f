"""What the ways through `settle` are made of: the few tokens that hold a row's kept set are listed and drawn from, and
what is known of the row is left to later kernels.
"""

import triton
import triton.language as tl

from detsample.kernels.contract.fraction import top_p_target
from detsample.kernels.contract.order import LOWEST_KEY, MINUS_INF_KEY, key_of, value_of
from detsample.kernels.contract.weight import gap, weight
from detsample.kernels.sampling.boundary.guess import rough_total
from detsample.kernels.sampling.boundary.pivots import PIVOTS, RUNGS, is_known, rough_weight, total_between
from detsample.kernels.sampling.candidates import (
    CAPACITY,
    MOST_SELECTED,
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
    BOUNDED,
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
    WANT_KEPT,
    WINNER,
    list_row,
    read_sum,
    write_boundary,
)
from detsample.kernels.sampling.score_bounds import HOPELESS
from detsample.kernels.sampling.tiles import MOST_GROUPS, MOST_SEGMENTS, load_tokens, token_of_group

CHOICES = tl.constexpr(256)  # how many keys are tried at a time
MOST_REACHING = tl.constexpr(64)  # the most groups to gather, if they reach what min-p keeps, which may be all groups
BISECTIONS = tl.constexpr(8)
WORTH_ONE = tl.constexpr(65536)  # what a group counts for; a weight is in units of the largest, divided by this
HEAVIEST = tl.constexpr(1 << 61)  # the largest weight that a row can have
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
def total_weight(row_pivots, part_rungs, row, parts, top, rate, chain, top_p):
    """(lightest, heaviest, share): two numbers between which the weight of all tokens lies, and the share of it that
    top-p keeps, with a little added to be safe, relative to the weight of the largest logit `top`. If the weight is not
    known, `share` is 0.
    """
    whole = rough_total(part_rungs, row, parts)
    reference = tl.load(row_pivots + row * RUNGS + PIVOTS)
    lightest, heaviest = total_between(whole, reference, top, rate, chain)
    usable = is_known(whole, reference, top, rate)
    share = (heaviest.to(tl.float64) * 9.0949470177292824e-13).to(tl.float32) * tl.maximum(top_p, 1e-6) * 1.0001
    return tl.where(usable, lightest, 1), tl.where(usable, heaviest, HEAVIEST), tl.where(usable, share, 0.0)


@triton.jit
def first_groups(group_keys, top_key, wanted, share, rate):
    """(key, number): a key that the largest logits of enough groups reach, and the number of these groups. `wanted`
    groups are enough or, if `share` is not 0, groups whose largest logits alone weigh so many times the row's largest.
    If there are not enough, the key is the lowest.

    The key is found by bisection between values. Sums are of integers, so every program finds the same.
    """
    there = group_keys > MINUS_INF_KEY
    worth = rough_weight(value_of(tl.where(there, group_keys, top_key)), value_of(top_key), rate)
    worth = tl.where(there, tl.where(share > 0.0, (worth * WORTH_ONE).to(tl.int32), WORTH_ONE), 0)
    goal = tl.where(share > 0.0, (tl.minimum(share, MOST_GROUPS) * WORTH_ONE).to(tl.int32) + 1, wanted * WORTH_ONE)
    low = value_of(tl.min(tl.where(worth > 0, group_keys, top_key), axis=0))
    high = value_of(top_key)
    for _ in range(BISECTIONS):
        middle = low * 0.5 + high * 0.5
        enough = tl.sum(tl.where(group_keys >= key_of(middle), worth, 0), axis=0) >= goal
        low = tl.where(enough, middle, low)
        high = tl.where(enough, high, middle)
    key = tl.where(tl.sum(worth, axis=0) >= goal, key_of(low), LOWEST_KEY)
    return key, tl.sum((there & (group_keys >= key)).to(tl.int32), axis=0)


@triton.jit
def is_drawn_first(mode, want, share, number):
    """Whether a row is not for a list of candidates, but for `draw_without_boundary`: a flat row with top-p whose token
    alone is wanted. `share` and `number` are those of `total_weight` and of `first_groups`.
    """
    flat = (share > MOST_SELECTED) | (number > MOST_SELECTED)
    return ((mode & BOUNDED) != 0) & ((want & WANT_KEPT) == 0) & (share > 0.0) & flat


@triton.jit
def select_groups(reaches, selected, selected_groups):
    """Lists the groups for which the condition holds, at most MOST_SELECTED; `selected` points at their number, and
    `selected_groups` at int16 numbers.
    """
    place = tl.atomic_add(selected + reaches.to(tl.int64) * 0, reaches.to(tl.int64), mask=reaches, sem="relaxed")
    tl.store(selected_groups + place, tl.arange(0, MOST_GROUPS).to(tl.int16), mask=reaches)


@triton.jit
def gather(row_logits, vocab, quads, segment_tiles, selected_groups, selected, threshold, filled, scratch_code):
    """Lists the tokens of the selected groups that reach the threshold."""
    lane = tl.arange(0, GATHER)
    size = 4 * quads * segment_tiles
    for first in range(0, selected, GATHER // GATHERED):
        index = first + lane // GATHERED
        group = tl.load(selected_groups + index, mask=index < selected, other=0).to(tl.int32)
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
    row_logits, vocab, quads, segment_tiles, group_keys, threshold, most_groups, sums, row, scratch_code
):  # fmt: skip
    """Lists the tokens that reach a threshold, and returns their number. If it is above CAPACITY, there are more
    tokens, or more groups to look at, than fit.
    """
    reaches = (group_keys >= threshold) & (group_keys > MINUS_INF_KEY)
    selected = tl.sum(reaches.to(tl.int32), axis=0)
    filled = tl.full([], CAPACITY + 1, tl.int32)
    if selected <= most_groups:
        selected_groups = (scratch_code + CAPACITY).to(tl.pointer_type(tl.int16), bitcast=True)
        select_groups(reaches, sums + row * SUMS + SELECTED, selected_groups)
        tl.debug_barrier()
        gather(
            row_logits, vocab, quads, segment_tiles, selected_groups, selected, threshold, sums + row * SUMS + FILLED,
            scratch_code,
        )  # fmt: skip
        tl.debug_barrier()
        filled = read_sum(sums, row, FILLED).to(tl.int32)
    return filled


@triton.jit
def draw_listed(
    records, row, filled, mode, lightest, heaviest, others, threshold, complete, top_k, top_p, min_weight, scale,
    largest, seed, position, scratch_code, BY_SHARE: tl.constexpr, token_only,
):  # fmt: skip
    """Draws from the kept set, if the listed candidates hold all of it: (settled, token, count, weight). The boundary
    is written to the row's record.

    Top-p takes its share of what top-k or min-p leaves of the candidates or, if BY_SHARE, of the weight of all
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
    if BY_SHARE:
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
