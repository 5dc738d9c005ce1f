"""Kernel 2, grid (rows, 2): finishes or draws the rows for which the results of `summarize` are enough, and says what
`sum_weights` has to measure of the others.

Invalid rows end here. The groups' maxima give a threshold that the boundary cannot lie below. With top-k: if the maxima
of k groups reach t, each of these groups has a logit that reaches t, so the k-th largest logit reaches t, too. With
top-p: if maxima that reach t together weigh the share, the tokens that reach t weigh it, too. `summarize` has added up
roughly what all tokens weigh, and it is known how wrong that may be. With min-p alone, the largest logit is enough to
know the boundary. If few groups reach the threshold, their tokens are gathered, cut and drawn from, and the row is
finished if what is unknown of the sum makes no difference. Rows without a filter are drawn from through the bounds of
their groups. If the temperature or the logits make these too loose, they are drawn from the few tokens that can win.

Another program of a row with top-p, or a large top-k, says where to look if this fails (`aim`).
"""

import triton
import triton.language as tl

from detsample.kernels.contract.order import INF_KEY, LAST_TOKEN, LOWEST_KEY, MINUS_INF_KEY, value_of
from detsample.kernels.sampling.aim import aim_row
from detsample.kernels.sampling.boundary.pivots import rate_of
from detsample.kernels.sampling.candidates import CAPACITY, MOST_K, MOST_SELECTED, SCRATCH
from detsample.kernels.sampling.dependent_launch import wait_for_earlier
from detsample.kernels.sampling.draw import MOST_DRAWS, draw_from_groups
from detsample.kernels.sampling.outcome import write_invalid
from detsample.kernels.sampling.rows import (
    AIMED,
    BOUNDED,
    BOUNDED_FROM,
    BY_SHARE,
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
    WANT_KEPT,
    WANT_LOG_Z,
    WANT_LOGPROBS,
    WANT_TOKEN,
    join_words,
    read_field,
    read_floats,
    write_boundary,
)
from detsample.kernels.sampling.score_bounds import FARTHEST
from detsample.kernels.sampling.settling import (
    MOST_REACHING,
    draw_listed,
    drawable_tokens,
    first_groups,
    is_drawn_first,
    largest_key,
    leave,
    list_candidates,
    load_maxima,
    lowest_key_of,
    note,
    total_weight,
)
from detsample.kernels.sampling.tiles import MOST_GROUPS, TILE, groups_of_segment, load_span, logits_of_row


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
def what_is_known(records, row, group_key, groups, part_key, part_counts, parts):
    """The row's mode; then the groups' maxima, the row's parameters, their status, its largest key and the number of
    its tokens that can be drawn. All of it is loaded before any of it is waited for.
    """
    group_keys = load_maxima(group_key, groups)
    scale, top_p = read_floats(records, row)
    top_k, min_weight = read_field(records, row, TOP_K), read_field(records, row, MIN_WEIGHT)
    seed, position = read_field(records, row, SEED), read_field(records, row, POSITION)
    mode = read_field(records, row, MODE)
    return (
        mode, group_keys, scale, top_p, top_k, min_weight, seed, position,
        (read_field(records, row, STATUS) & 0xFFFF).to(tl.int32), largest_key(part_key, row, parts),
        drawable_tokens(part_counts, row, parts),
    )  # fmt: skip


@triton.jit
def settle_row(
    row, row_logits, vocab, quads, segment_tiles, segments_of_part, groups, parts, stretches, stretch_tiles, want,
    every_row, records, sums, missed, known, group_bound, row_pivots, part_rungs,
    scratch_code, token_ids, num_kept, status, logprobs, log_z, SHARED: tl.constexpr,
):  # fmt: skip
    """Settles a row if few tokens hold its kept set, or if it has no filter, and otherwise leaves what is to be
    measured. SHARED says whether top-p takes its share of the weight of all tokens. Of these rows the ones for which
    `is_drawn_first` holds are left to `aim_row`.
    """
    mode, group_keys, scale, top_p, top_k, min_weight, seed, position, of_parameters, top_key, count = known
    shared = (mode & BY_SHARE) != 0
    reason = row_status(row_logits, vocab, top_key, of_parameters)
    if reason != 0:
        write_invalid(records, token_ids, num_kept, status, logprobs, log_z, row, reason)
    else:
        largest = value_of(top_key)
        winner = tl.full([], -1, tl.int32)
        kept_weight = tl.full([], 0, tl.int64)
        is_drawn = min_weight < 0
        wants_token = (want & WANT_TOKEN) != 0
        if (want & WANT_LOG_Z) != 0:
            mode |= tl.where((mode & GREEDY) != 0, 0, NEEDS_TOTAL)
        shift = largest * scale
        bounds_serve = tl.abs(shift) <= FARTHEST
        mode -= tl.where(bounds_serve, 0, mode & BOUNDED)
        in_doubt = (mode & AIMED) != 0
        by_min_p = (top_k == 0) & (min_weight > 0)
        unfiltered = (top_k == 0) & (min_weight == 0) & (in_doubt == 0)
        by_gap = unfiltered & (bounds_serve == 0) & wants_token

        threshold = tl.full([], LOWEST_KEY, tl.int32)
        if by_min_p | by_gap:
            threshold = lowest_key_of(scale, largest, top_key, min_weight)
        lowest = threshold
        lightest, heaviest = kept_weight, kept_weight
        share = tl.full([], 0.0, tl.float32)
        number = groups
        rate = rate_of(scale, shared)
        if SHARED:
            lightest, heaviest, share = total_weight(
                row_pivots, part_rungs, row, parts, largest, rate, segments_of_part * segment_tiles, top_p
            )
            share = tl.where(top_k > 0, 0.0, share)
        if (top_k > 0) | shared:
            wanted = tl.minimum(tl.where(top_k > 0, top_k, MOST_REACHING), 2 * MOST_GROUPS).to(tl.int32)
            first, number = first_groups(group_keys, top_key, wanted, share, rate)
            threshold = tl.maximum(first, lowest)
        drawn_first = is_drawn_first(mode, want, share, number)
        if ((top_k > 0) | by_gap | by_min_p | shared) & (drawn_first == 0):
            most_groups = tl.where((top_k > 0) | shared, MOST_SELECTED, MOST_REACHING)
            filled = list_candidates(
                row_logits, vocab, quads, segment_tiles, group_keys, threshold,
                tl.where(top_k > MOST_K, 0, most_groups), sums, row, scratch_code,
            )  # fmt: skip
            if filled <= CAPACITY:
                is_drawn, winner, kept, weight_kept = draw_listed(
                    records, row, filled, mode, lightest, heaviest, count, threshold,
                    (top_k > 0) | (threshold == lowest), top_k, top_p, min_weight, scale, largest, seed, position,
                    scratch_code, SHARED, (want & WANT_KEPT) == 0,
                )  # fmt: skip
                count = tl.where(by_gap | (is_drawn == 0), count, kept)
                kept_weight = tl.where(by_gap | (is_drawn == 0), 0, weight_kept)
        if (in_doubt | (top_k > 0)) & (is_drawn == 0):
            mode |= tl.where(in_doubt & (top_k == 0), NEEDS_TOTAL, 0) | IN_DOUBT
            mode |= tl.where(wants_token & ((mode & BOUNDED) == 0), BOUNDED_FROM, 0)
            if in_doubt == 0:  # otherwise `aim_row` says where to look
                note(records, row, INTERVAL, join_words(threshold, lowest * 0 + INF_KEY))
        if by_min_p & (is_drawn == 0):
            mode |= tl.where(wants_token, BOUNDED_FROM, 0) | NEEDS_MINIMUM
            write_boundary(records, row, lowest, tl.full([], LAST_TOKEN, tl.int32))
        elif unfiltered:
            write_boundary(records, row, tl.full([], LOWEST_KEY, tl.int32), tl.full([], LAST_TOKEN, tl.int32))
            is_drawn = is_drawn | (wants_token == 0)
            if bounds_serve & wants_token:
                winner, is_drawn = draw_from_groups(
                    row_logits, vocab, quads, stretch_tiles, stretches * groups_of_segment(quads), group_bound,
                    shift, scale, largest, seed, position, LOWEST_KEY, LAST_TOKEN, MOST_DRAWS,
                )  # fmt: skip
            if (want & WANT_LOGPROBS) != 0:
                mode |= NEEDS_TOTAL
        if drawn_first == 0:
            leave(
                row_logits, records, missed, token_ids, num_kept, status, logprobs, log_z, row, tl.num_programs(0),
                every_row, mode, is_drawn, top_key, count, kept_weight, winner, scale, largest,
            )  # fmt: skip


NOT_SPECIALIZED = [
    "row_stride", "allowed_stride", "vocab", "quads", "segment_tiles", "segments_of_part", "groups", "parts",
    "stretches", "stretch_tiles", "want", "every_row", "pitch",
]  # fmt: skip


@triton.jit(do_not_specialize=NOT_SPECIALIZED, do_not_specialize_on_alignment=["logits", "allowed"])
def settle(
    logits, row_stride, allowed, allowed_stride,
    vocab, quads, segment_tiles, segments_of_part, groups, parts, stretches, stretch_tiles, want, every_row,
    records, sums, missed, group_key, pitch, group_bound, part_key, part_counts, row_pivots, part_rungs,
    scratch_code, token_ids, num_kept, status, logprobs, log_z,
    OVERLAP: tl.constexpr, ALLOWED: tl.constexpr,
):  # fmt: skip
    """Finishes the rows with few candidates, and writes what is to be measured for the others (spec sections 3, 6, 8
    and 9).

    Grid (rows, 2): the second program says where to look if the row cannot be settled. Neither reads what the other
    one writes, but for fields and bits that are left as they are: warps of one program that read different numbers
    would part at a barrier. The code of each way is in one piece, and a program has to fetch that of its own way only.
    """
    wait_for_earlier(OVERLAP)
    row = tl.program_id(0).to(tl.int64)
    row_logits = logits_of_row(logits, row, row_stride, allowed, allowed_stride, False, ALLOWED)
    group_key += row * pitch
    scratch_code += row * SCRATCH
    group_bound += row * stretches * groups_of_segment(quads)
    if tl.program_id(1) == 0:
        known = what_is_known(records, row, group_key, groups, part_key, part_counts, parts)
        if (known[0] & BY_SHARE) == 0:
            settle_row(
                row, row_logits, vocab, quads, segment_tiles, segments_of_part, groups, parts, stretches, stretch_tiles,
                want, every_row, records, sums, missed, known, group_bound, row_pivots, part_rungs, scratch_code,
                token_ids, num_kept, status, logprobs, log_z, False,
            )  # fmt: skip
        else:
            settle_row(
                row, row_logits, vocab, quads, segment_tiles, segments_of_part, groups, parts, stretches, stretch_tiles,
                want, every_row, records, sums, missed, known, group_bound, row_pivots, part_rungs, scratch_code,
                token_ids, num_kept, status, logprobs, log_z, True,
            )  # fmt: skip
    else:
        aim_row(
            row, row_logits, vocab, quads, segment_tiles, segments_of_part, groups, parts, stretches, stretch_tiles,
            want, every_row, records, missed, group_key, group_bound, part_key, part_counts, row_pivots, part_rungs,
            token_ids, num_kept, status, logprobs, log_z,
        )  # fmt: skip
