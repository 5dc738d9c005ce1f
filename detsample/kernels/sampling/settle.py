"""Kernel 2, grid (rows, 2): finishes or draws the rows for which the results of `summarize` are enough, and says what
`sum_weights` has to measure of the others. Rows with top-p, but without a moderate top-k, go the way of `settle_top_p`.

Invalid rows end here. With top-k, the groups' maxima give a threshold that the boundary cannot lie below: if the maxima
of k groups reach t, each of these groups has a logit that reaches t, so the k-th largest logit reaches t, too. With
min-p alone, the largest logit is enough to know the boundary. If few groups reach the threshold, their tokens are
gathered, cut and drawn from. Rows without a filter are drawn from through the bounds of their groups. If the
temperature or the logits make these too loose, they are drawn from the few tokens that can win at all.
"""

import triton
import triton.language as tl

from detsample.kernels.contract.order import INF_KEY, LAST_TOKEN, LOWEST_KEY, MINUS_INF_KEY, value_of
from detsample.kernels.sampling.boundary.pivots import is_for_top_p
from detsample.kernels.sampling.candidates import CAPACITY, MOST_K
from detsample.kernels.sampling.dependent_launch import wait_for_earlier
from detsample.kernels.sampling.draw import MOST_DRAWS, draw_from_groups
from detsample.kernels.sampling.outcome import write_invalid
from detsample.kernels.sampling.rows import (
    BOUNDED,
    BOUNDED_FROM,
    GREEDY,
    IN_DOUBT,
    INTERVAL,
    MIN_WEIGHT,
    MODE,
    NEEDS_MINIMUM,
    NEEDS_TOTAL,
    POSITION,
    SEED,
    STATUS,
    STATUS_EMPTY,
    STATUS_INF,
    STATUS_NAN,
    TOP_K,
    WANT_LOG_Z,
    WANT_LOGPROBS,
    WANT_TOKEN,
    join_words,
    read_field,
    read_floats,
    write_boundary,
)
from detsample.kernels.sampling.score_bounds import FARTHEST
from detsample.kernels.sampling.settle_top_p import settle_top_p
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
from detsample.kernels.sampling.tiles import TILE, groups_of_segment, load_span, logits_of_row


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
def settle_row(
    row, row_logits, vocab, quads, segment_tiles, groups, parts, stretches, stretch_tiles, want, every_row,
    records, sums, missed, group_key, list_token, group_bound, part_key, part_counts, scratch_code,
    token_ids, num_kept, status, logprobs, log_z,
):  # fmt: skip
    """Settles a row, unless it is for `settle_top_p`."""
    # Everything that rows need is loaded before any of it is waited for.
    group_keys = load_maxima(group_key, groups)
    scale, top_p = read_floats(records, row)
    top_k = read_field(records, row, TOP_K)
    min_weight = read_field(records, row, MIN_WEIGHT)
    seed = read_field(records, row, SEED)
    position = read_field(records, row, POSITION)
    mode = read_field(records, row, MODE)
    of_parameters = (read_field(records, row, STATUS) & 0xFFFF).to(tl.int32)
    top_key = largest_key(part_key, row, parts)
    count = drawable_tokens(part_counts, row, parts)
    reason = row_status(row_logits, vocab, top_key, of_parameters)
    if reason != 0:
        write_invalid(records, token_ids, num_kept, status, logprobs, log_z, row, reason)
    elif is_for_top_p(mode, top_k, top_p) == 0:
        largest = value_of(top_key)
        winner = tl.full([], -1, tl.int32)
        kept_weight = tl.full([], 0, tl.int64)
        is_drawn = min_weight < 0
        if (want & WANT_LOG_Z) != 0:
            mode |= tl.where((mode & GREEDY) != 0, 0, NEEDS_TOTAL)

        shift = largest * scale
        bounds_serve = tl.abs(shift) <= FARTHEST
        mode -= tl.where(bounds_serve, 0, mode & BOUNDED)
        by_min_p = (top_k == 0) & (min_weight > 0)
        unfiltered = (top_k == 0) & (min_weight == 0)
        by_gap = unfiltered & (bounds_serve == 0) & ((want & WANT_TOKEN) != 0)
        lowest = tl.full([], LOWEST_KEY, tl.int32)
        if by_min_p | by_gap:
            lowest = lowest_key_of(scale, largest, top_key, min_weight)
        if (top_k > 0) | by_gap | by_min_p:
            most_groups = tl.where(top_k > MOST_K, 0, tl.where(top_k > 0, MOST_SELECTED, MOST_REACHING))
            filled, threshold, low_key, end_key, _found = list_candidates(
                row_logits, vocab, quads, segment_tiles, group_keys, list_token, top_key,
                top_k.to(tl.int32), 0.0, 0.0, lowest, most_groups, sums, row, scratch_code, False,
            )  # fmt: skip
            is_drawn = filled <= CAPACITY
            if is_drawn:
                _settled, winner, kept, weight_kept = draw_listed(
                    records, row, filled, mode, kept_weight, kept_weight, count, threshold, True, top_k, top_p,
                    min_weight, scale, largest, seed, position, scratch_code, False, False,
                )  # fmt: skip
                count = tl.where(by_gap, count, kept)
                kept_weight = tl.where(by_gap, 0, weight_kept)
            elif top_k > 0:  # `sum_weights` looks at everything that reaches the threshold
                mode |= IN_DOUBT
                note(records, row, INTERVAL, join_words(low_key, end_key))
        if by_min_p & (is_drawn == 0):
            mode |= tl.where((want & WANT_TOKEN) != 0, BOUNDED_FROM, 0) | NEEDS_MINIMUM
            write_boundary(records, row, lowest, tl.full([], LAST_TOKEN, tl.int32))
        elif unfiltered:
            write_boundary(records, row, tl.full([], LOWEST_KEY, tl.int32), tl.full([], LAST_TOKEN, tl.int32))
            is_drawn = is_drawn | ((want & WANT_TOKEN) == 0)
            if bounds_serve & ((want & WANT_TOKEN) != 0):
                winner, is_drawn = draw_from_groups(
                    row_logits, vocab, quads, stretch_tiles, stretches * groups_of_segment(quads), group_bound, shift,
                    scale, largest, seed, position, LOWEST_KEY, LAST_TOKEN, MOST_DRAWS,
                )  # fmt: skip
            if (want & WANT_LOGPROBS) != 0:
                mode |= NEEDS_TOTAL
        leave(
            row_logits, records, missed, token_ids, num_kept, status, logprobs, log_z,
            row, tl.num_programs(0), every_row, mode, is_drawn, top_key, count, kept_weight, winner, scale, largest,
        )  # fmt: skip


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

    Grid (rows, 2): a row has a program for each of two ways, one of which has nothing to do. The code of each is in one
    piece, and a program has to fetch that of its own way only.
    """
    wait_for_earlier(OVERLAP)
    row = tl.program_id(0).to(tl.int64)
    row_logits = logits_of_row(logits, row, row_stride, allowed, allowed_stride, False, ALLOWED)
    group_key += row * pitch
    list_token += row * pitch
    scratch_code += row * CAPACITY
    group_bound += row * stretches * groups_of_segment(quads)
    if tl.program_id(1) == 0:
        settle_row(
            row, row_logits, vocab, quads, segment_tiles, groups, parts, stretches, stretch_tiles, want, every_row,
            records, sums, missed, group_key, list_token, group_bound, part_key, part_counts, scratch_code,
            token_ids, num_kept, status, logprobs, log_z,
        )  # fmt: skip
    else:
        settle_top_p(
            row, row_logits, vocab, quads, segment_tiles, segments_of_part, groups, parts, stretches, stretch_tiles,
            want, every_row, records, sums, missed, group_key, list_token, group_bound, part_key, part_counts,
            row_pivots, part_rungs, scratch_code, token_ids, num_kept, status, logprobs, log_z,
        )  # fmt: skip
