"""Kernel 4, grid (rows): finishes every row whose kept set is small, or is known from sums alone.

Rows with no filter or with min-p alone have their boundary from `mass`. Where top-k is on, the groups' maxima give a
threshold that the boundary cannot lie below: of k groups whose maxima reach t, each holds a logit that reaches t, so
the k-th largest logit does too. The few groups that reach the threshold are gathered, cut and drawn from. Invalid
rows end here. What is left stays PENDING for `wide`.
"""

import triton
import triton.language as tl

from detsample.kernels.candidates import (
    CAPACITY,
    MOST_K,
    append,
    code_of,
    draw_from_candidates,
    key_of_code,
    last_kept,
    load_candidates,
    ranks,
    top_p_target,
    weight_of_key,
)
from detsample.kernels.lanes import draw_from_groups
from detsample.kernels.mass import largest_key, needs_mass, sum_parts
from detsample.kernels.order import INF_KEY, LAST_TOKEN, LOWEST_KEY, MINUS_INF_KEY, key_of, value_of
from detsample.kernels.outcome import write_drawn, write_invalid
from detsample.kernels.rows import (
    BOUNDED,
    DRAWABLE,
    GREEDY,
    MIN_WEIGHT,
    MINIMUM,
    MODE,
    POSITION,
    SEED,
    STATUS,
    STATUS_EMPTY,
    STATUS_INF,
    STATUS_NAN,
    TOP_K,
    WANT_TOKEN,
    read_boundary,
    read_field,
    read_floats,
    write_boundary,
)
from detsample.kernels.tiles import (
    MOST_GROUPS,
    TILE,
    load_span,
    token_of_group,
)
from detsample.kernels.weight import scaled_logit

BISECTIONS = tl.constexpr(10)
MOST_SELECTED = tl.constexpr(192)  # groups worth gathering
GATHER = tl.constexpr(4096)  # tokens gathered at a time,
MEMBERS = tl.constexpr(128)  # so many of one group
MOST_DRAWS = tl.constexpr(16)  # groups evaluated one by one before `wide` scores the kept set alone


@triton.jit
def examine(row_logits, vocab):
    """The status bits of a row that has a NaN or +inf somewhere. Such rows are rare, so they may take a look of
    their own.
    """
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
    status = of_parameters
    if top_key >= INF_KEY:
        status |= examine(row_logits, vocab)
    if top_key == MINUS_INF_KEY:
        status |= STATUS_EMPTY
    return status


@triton.jit
def threshold_key(group_keys, wanted, top_key):
    """A key that at least `wanted` of the groups' maxima reach, by bisection between values; the lowest one where there
    are not so many.
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
def gather(row_logits, vocab, quads, segment_tiles, selected_groups, selected, threshold, scratch_code):
    """Lists the tokens of the selected groups that reach the threshold; gives their number, which may exceed
    CAPACITY.
    """
    filled = tl.full([], 0, tl.int32)
    lane = tl.arange(0, GATHER)
    size = 4 * quads * segment_tiles
    for first in range(0, selected, GATHER // MEMBERS):
        index = first + lane // MEMBERS
        group = tl.load(selected_groups + index, mask=index < selected, other=0)
        for start in range(0, size, MEMBERS):
            member = start + lane % MEMBERS
            token = token_of_group(group, member, quads, segment_tiles)
            valid = (index < selected) & (member < size) & (token < vocab)
            x = tl.load(row_logits + token, mask=valid, other=float("-inf")).to(tl.float32)
            key = key_of(x)
            chosen = (key >= threshold) & (x > float("-inf"))
            filled = append(scratch_code, filled, code_of(key, token), chosen)
    return filled


@triton.jit
def select_groups(group_keys, threshold, selected_groups):
    """Lists the groups whose maximum reaches the threshold; gives their number, which may exceed MOST_SELECTED."""
    index = tl.arange(0, MOST_GROUPS)
    reaches = (group_keys >= threshold) & (group_keys > MINUS_INF_KEY)
    place = tl.cumsum(reaches.to(tl.int32), axis=0) - 1
    tl.store(selected_groups + place, index, mask=reaches & (place < MOST_SELECTED))
    return tl.sum(reaches.to(tl.int32), axis=0)


@triton.jit(do_not_specialize=["row_stride", "vocab", "quads", "segment_tiles", "groups", "parts", "want"])
def narrow(
    logits, row_stride, vocab, quads, segment_tiles, groups, parts, want,
    records, group_key, group_bound, part_key, part_masses, part_counts,
    scratch_code, scratch_groups, token_ids, num_kept, status, logprobs, log_z,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    row_logits = logits + row * row_stride
    group_key += row * groups
    group_bound += row * groups

    top_key = largest_key(part_key, row, parts)
    reason = row_status(row_logits, vocab, top_key, (read_field(records, row, STATUS) & 0xFFFF).to(tl.int32))
    scale, top_p = read_floats(records, row)
    top_k = read_field(records, row, TOP_K)
    min_weight = read_field(records, row, MIN_WEIGHT)
    seed = read_field(records, row, SEED)
    position = read_field(records, row, POSITION)
    mode = read_field(records, row, MODE)
    greedy = (mode & GREEDY) != 0
    largest = scaled_logit(value_of(top_key), scale)
    total = tl.full([], 1, tl.int64)
    min_mass = tl.full([], 0, tl.int64)
    if needs_mass(top_k, top_p, min_weight, want):
        total = sum_parts(part_masses, row, parts, DRAWABLE)
        min_mass = sum_parts(part_masses, row, parts, MINIMUM)

    finished = reason != 0
    winner = tl.full([], -1, tl.int32)
    count = tl.full([], 0, tl.int32)
    kept_weight = tl.full([], 1, tl.int64)
    if reason != 0:
        write_invalid(records, token_ids, num_kept, status, logprobs, log_z, row, reason)
    elif top_k == 0:
        by_min_p = (min_weight > 0) & (min_mass <= top_p_target(top_p, total))
        if by_min_p | ((top_p >= 1.0) & (min_weight == 0)):
            boundary = tl.full([], LOWEST_KEY, tl.int32)
            if by_min_p:
                boundary, _ = read_boundary(records, row)
                count = sum_parts(part_counts, row, parts, MINIMUM)
                kept_weight = min_mass
            else:
                count = sum_parts(part_counts, row, parts, DRAWABLE)
                kept_weight = total
            write_boundary(records, row, boundary, tl.full([], LAST_TOKEN, tl.int32))
            finished = (want & WANT_TOKEN) == 0
            if (mode & BOUNDED) != 0:
                winner, finished = draw_from_groups(
                    row_logits, vocab, quads, segment_tiles, groups, group_bound, scale, seed, position,
                    boundary, LAST_TOKEN, MOST_DRAWS,
                )  # fmt: skip
    elif top_k <= MOST_K:
        scratch_code += row * CAPACITY
        scratch_groups += row * MOST_SELECTED
        index = tl.arange(0, MOST_GROUPS)
        group_keys = tl.load(group_key + index, mask=index < groups, other=MINUS_INF_KEY)
        threshold = threshold_key(group_keys, top_k, top_key)
        selected = select_groups(group_keys, threshold, scratch_groups)
        if selected <= MOST_SELECTED:
            tl.debug_barrier()
            filled = gather(row_logits, vocab, quads, segment_tiles, scratch_groups, selected, threshold, scratch_code)
            if filled <= CAPACITY:
                tl.debug_barrier()
                code = load_candidates(scratch_code, filled)
                own = weight_of_key(key_of_code(code), scale, largest)
                rank, before = ranks(scratch_code, filled, code, scale, largest)
                survives = (tl.arange(0, CAPACITY) < filled) & (rank < top_k)
                target = top_p_target(top_p, tl.sum(tl.where(survives, own, 0), axis=0))
                keep = survives & (before < target) & (own >= min_weight)
                count = tl.sum(keep.to(tl.int32), axis=0)
                last_key, last_token = last_kept(keep, rank, code, count)
                write_boundary(records, row, last_key, last_token)
                winner = draw_from_candidates(keep, code, scale, seed, position)
                kept_weight = tl.sum(tl.where(keep, own, 0), axis=0)
                finished = reason == 0
    if finished & (reason == 0):
        write_drawn(
            row_logits, records, token_ids, num_kept, status, logprobs, log_z,
            row, winner, count, scale, largest, kept_weight, total, greedy,
        )  # fmt: skip
