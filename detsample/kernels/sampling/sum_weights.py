"""Kernel 3, at least as many programs as rows: exact sums over rows. Weights are relative to a row's largest logit, so
this is a second look at the row.

The rows to look at stand in a list, and their tiles are shared out among all programs. So the time is proportional to
the number of these rows, and next to nothing if there are none. The kernel is launched once for the rows that `settle`
lists. It is launched again for the rows whose interval missed the boundary or held too many tokens; these have another
interval by then. Rows that are missed again are searched by `finish`.

What is computed is what `settle` asks for: the weight of all tokens; the weight and number of those that min-p keeps;
and, where the boundary lies among thousands of tokens, what is above and in the interval where it probably lies. Rows
whose kept set may be too light to hold the best score get bounds of the tokens that they may keep; other rows have
bounds from `summarize`. The sums are of integers, so programs can add to them in any order.

Rows are taken in the opposite order to `settle`, because what `summarize` read last is still in the L2 cache.
"""

import triton
import triton.language as tl

from detsample.kernels.contract.order import MINUS_INF_KEY, value_of
from detsample.kernels.contract.philox import TOKEN_HIGH, token_word
from detsample.kernels.contract.weight import gap, weight
from detsample.kernels.sampling.boundary.measure import measure
from detsample.kernels.sampling.compaction import TILES_MARKED, mark_tile, next_marked, no_marks, number_marked
from detsample.kernels.sampling.dependent_launch import wait_for_earlier
from detsample.kernels.sampling.rows import (
    BOUNDED_FROM,
    COUNTERS,
    IN_DOUBT,
    MINIMUM,
    MINIMUM_COUNT,
    MODE,
    NEEDS_MINIMUM,
    NEEDS_TOTAL,
    POSITION,
    SEED,
    TOP_KEY,
    TOTAL,
    add_to_sum,
    is_bounded_from,
    is_likely,
    read_boundary,
    read_field,
    read_floats,
    read_interval,
)
from detsample.kernels.sampling.score_bounds import score_bound, tile_bound
from detsample.kernels.sampling.tiles import (
    LANES,
    PASSING,
    STAYING,
    TILE,
    groups_of_segment,
    load_tile,
    load_tokens,
    logits_of_row,
    next_tile,
    open_tile,
    split_quads,
)

SPARSE = tl.constexpr(8)  # up to this number of marks a lane, in TILES_MARKED tiles, going from mark to mark is quicker


@triton.jit
def sum_all(row_logits, first_tile, last_tile, vocab, scale, largest):
    """The weight of all tokens of some tiles. What `summarize` read last comes first: it may still be in the cache."""
    total = tl.zeros([LANES], tl.int64)
    start = (last_tile - 1) * TILE
    ahead = load_tile(row_logits, start, vocab, PASSING)
    for _ in range(first_tile, last_tile):
        start = tl.maximum(start - TILE, 0)
        x, ahead = next_tile(ahead, row_logits, start, vocab, PASSING)
        total += tl.sum(weight(gap(x, largest, scale)), axis=1)
    return tl.sum(total, axis=0)


@triton.jit
def bound_of(x, low, start, scale, largest, seed, position):
    """For each quad, [LANES], a number that the scores of its tokens that reach `low` do not exceed."""
    x0, x1, x2, x3 = split_quads(tl.where(x >= low, x, float("-inf")))
    return tile_bound(x0, x1, x2, x3, start, largest, scale, seed, position)


@triton.jit
def sum_marked(row_logits, marks, most, start, tiles, scale, largest, drawn_from, seed, position):
    """For each lane, [LANES], the weight of its marked tokens and, if they are `drawn_from`, a bound of their scores.
    `most` is the largest number of marks that a lane has.
    """
    kept = tl.zeros([LANES], tl.int64)
    bound = tl.full([LANES], float("-inf"), tl.float32)
    for _ in range(most):
        token, rest = next_marked(marks, start, tiles)
        x = load_tokens(row_logits, token, marks != 0)
        kept += weight(gap(x, largest, scale))
        if drawn_from:
            here = score_bound(x, largest, scale, token_word(seed, token, position, TOKEN_HIGH))
            bound = tl.maximum(bound, tl.where(marks != 0, here, float("-inf")))
        marks = rest
    return kept, bound


@triton.jit
def sum_reaching(row_logits, vocab, start, tiles, scale, largest, low, drawn_from, seed, position):
    """The same as `sum_marked`, for all tokens of some tiles that reach `low`."""
    kept = tl.zeros([LANES], tl.int64)
    bound = tl.full([LANES], float("-inf"), tl.float32)
    end = tl.minimum(start + tiles * TILE, vocab)
    ahead = load_tile(row_logits, start, end, PASSING)
    for _ in range(tiles):
        x, ahead = next_tile(ahead, row_logits, start + TILE, end, PASSING)
        w = weight(gap(x, largest, scale))
        kept += tl.sum(tl.where(x >= low, w, 0), axis=1)
        if drawn_from:
            bound = tl.maximum(bound, bound_of(x, low, start, scale, largest, seed, position))
        start += TILE
    return kept, bound


@triton.jit
def raise_groups(group_bound, stretch, bound, quads):
    """Raises the bounds of a stretch's groups to those of some of its tiles, given one for each lane. Several programs
    may have tiles of one stretch; `summarize` has left -inf.
    """
    lane = tl.arange(0, LANES)
    tl.atomic_max(group_bound + groups_of_segment(quads) * stretch + lane // quads, bound, sem="relaxed")


@triton.jit
def sum_min_p(
    row_logits, vocab, first_tile, last_tile, quads, stretch_tiles, scale, largest, low, drawn_from, seed, position,
    group_bound,
):  # fmt: skip
    """(weight, number) of the tokens of some tiles that reach `low`. Bounds of their scores are left, if they are
    `drawn_from`.
    """
    kept = tl.zeros([LANES], tl.int64)
    count = tl.zeros([LANES], tl.int32)
    bound = tl.full([LANES], float("-inf"), tl.float32)
    first = first_tile
    while first < last_tile:
        stretch = first // stretch_tiles
        tiles = tl.minimum(tl.minimum(last_tile, (stretch + 1) * stretch_tiles) - first, TILES_MARKED)
        begin = first * TILE
        marks = no_marks()
        start = begin
        for _ in range(tiles):
            marks = mark_tile(marks, open_tile(load_tile(row_logits, start, vocab, STAYING), row_logits) >= low)
            start += TILE
        number = number_marked(marks)
        count += number
        most = tl.max(number, axis=0)
        if most <= SPARSE:
            here, bound_here = sum_marked(
                row_logits, marks, most, begin, tiles, scale, largest, drawn_from, seed, position
            )
        else:
            here, bound_here = sum_reaching(
                row_logits, vocab, begin, tiles, scale, largest, low, drawn_from, seed, position
            )
        kept += here
        bound = tl.maximum(bound, bound_here)
        first += tiles
        if drawn_from & ((first == last_tile) | (first == (stretch + 1) * stretch_tiles)):
            raise_groups(group_bound, stretch, bound, quads)
            bound = tl.full([LANES], float("-inf"), tl.float32)
    return tl.sum(kept, axis=0), tl.sum(count, axis=0)


@triton.jit
def bound_reaching(
    row_logits, vocab, first_tile, last_tile, quads, stretch_tiles, scale, largest, low, seed, position, group_bound
):
    """Leaves bounds of the scores of the tokens of some tiles that reach `low`."""
    start = first_tile * TILE
    end = tl.minimum(last_tile * TILE, vocab)
    ahead = load_tile(row_logits, start, end, PASSING)
    first = first_tile
    while first < last_tile:
        stretch = first // stretch_tiles
        last = tl.minimum(last_tile, (stretch + 1) * stretch_tiles)
        bound = tl.full([LANES], float("-inf"), tl.float32)
        for _ in range(first, last):
            x, ahead = next_tile(ahead, row_logits, start + TILE, end, PASSING)
            bound = tl.maximum(bound, bound_of(x, low, start, scale, largest, seed, position))
            start += TILE
        raise_groups(group_bound, stretch, bound, quads)
        first = last


@triton.jit
def bound_scores(
    row_logits, vocab, first_tile, last_tile, quads, stretch_tiles, records, sums, row, mode, scale, largest, likely,
    group_bound,
):  # fmt: skip
    """Leaves bounds of the scores of what may be kept, or of all tokens if the best of them is `likely` to be kept; and
    with min-p, the sums of what it keeps.
    """
    seed, position = read_field(records, row, SEED), read_field(records, row, POSITION)
    if (mode & NEEDS_MINIMUM) != 0:
        low_key, _last = read_boundary(records, row)
        kept, count = sum_min_p(
            row_logits, vocab, first_tile, last_tile, quads, stretch_tiles, scale, largest, value_of(low_key),
            (mode & BOUNDED_FROM) != 0, seed, position, group_bound,
        )  # fmt: skip
        add_to_sum(sums, row, MINIMUM, kept)
        add_to_sum(sums, row, MINIMUM_COUNT, count)
    else:
        low_key, _end = read_interval(records, row, 0)
        low_key = tl.where(likely, MINUS_INF_KEY, low_key)
        bound_reaching(
            row_logits, vocab, first_tile, last_tile, quads, stretch_tiles, scale, largest, value_of(low_key), seed,
            position, group_bound,
        )  # fmt: skip


NOT_SPECIALIZED = [
    "row_stride", "allowed_stride", "vocab", "quads", "stretch_tiles", "parts", "stretches", "rows", "attempt",
    "every_row", "pitch",
]  # fmt: skip


@triton.jit(do_not_specialize=NOT_SPECIALIZED, do_not_specialize_on_alignment=["logits", "allowed"])
def sum_weights(
    logits, row_stride, allowed, allowed_stride,
    vocab, quads, stretch_tiles, parts, stretches, rows, attempt, every_row,
    records, sums, missed, list_token, pitch, group_bound,
    ALIGNED: tl.constexpr, OVERLAP: tl.constexpr, ALLOWED: tl.constexpr,
):  # fmt: skip
    """Adds up exact weights, and lists the tokens around a boundary, for the rows in a list (spec sections 5 and 6).

    The grid has at least as many programs as there are rows.
    """
    wait_for_earlier(OVERLAP)
    tiles = (vocab + TILE - 1) // TILE
    listed = rows
    every = (every_row != 0) & (attempt == 0)
    if every == 0:
        listed = tl.load(missed + attempt)
    if listed > 0:
        # Each listed row gets as many programs as there are for one, and each program one share of a row.
        tasks = parts
        if every == 0:
            tasks = tl.cdiv(tiles, tl.cdiv(tiles, tl.num_programs(0) // listed))
        each = tl.cdiv(tiles, tasks)
        nth = tl.program_id(0) // tasks
        task = tl.program_id(0) - nth * tasks
        place = listed - 1 - nth
        if place >= 0:
            row = place.to(tl.int64)
            if every == 0:
                row = tl.load(missed + COUNTERS + attempt * rows + place).to(tl.int64)
            mode = read_field(records, row, MODE)
            row_logits = logits_of_row(logits, row, row_stride, allowed, allowed_stride, ALIGNED, ALLOWED)
            scale, top_p = read_floats(records, row)
            largest = value_of(read_field(records, row, TOP_KEY).to(tl.int32))
            first_tile = task * each
            last_tile = tl.minimum(first_tile + each, tiles)
            if (attempt == 0) & (((mode & NEEDS_MINIMUM) != 0) | is_bounded_from(records, row, mode)):
                bound_scores(
                    row_logits, vocab, first_tile, last_tile, quads, stretch_tiles, records, sums, row, mode, scale,
                    largest, is_likely(records, row, top_p), group_bound + row * stretches * groups_of_segment(quads),
                )  # fmt: skip
            if (mode & IN_DOUBT) != 0:
                measure(
                    row_logits, vocab, first_tile, last_tile, tasks, records, sums, missed,
                    list_token + row * pitch, row, rows, attempt,
                )  # fmt: skip
            elif (mode & NEEDS_TOTAL) != 0:
                add_to_sum(sums, row, TOTAL, sum_all(row_logits, first_tile, last_tile, vocab, scale, largest))
