"""Kernel 2, grid (rows, parts): exact sums over the row, which need its largest logit first, hence a second look.

For each part: the weight of all tokens; where min-p is on, the weight and number of those it keeps; where the boundary
lies among thousands of tokens, what is above and what is in a narrow interval around where it seems to lie, and a
list of the tokens in it, in the order of the programs' arrival, which is never relied on. Rows that will draw from
more than a list get bounds of the scores of what they may keep, as `scan` leaves them for rows without a filter.
Sums are of integers, so parts can be added in any order.

Rows and parts are taken in the opposite order to `scan`: what it read last is still in the L2 cache.
"""

import triton
import triton.language as tl

from detsample.kernels.candidates import LIST
from detsample.kernels.order import LOWEST_KEY, key_of, value_of
from detsample.kernels.pivots import RUNGS, interval_around, rate_of
from detsample.kernels.rows import (
    ABOVE,
    BOUNDED,
    DRAWABLE,
    GREEDY,
    INTERVAL,
    LISTS,
    MIN_WEIGHT,
    MINIMUM,
    MODE,
    PENDING,
    POSITION,
    REACHED,
    RECORD,
    SEED,
    STATUS,
    SUMS,
    TOP_K,
    WANT_LOG_Z,
    WANT_LOGPROBS,
    WANT_TOKEN,
    join_words,
    read_field,
    read_floats,
    write_boundary,
)
from detsample.kernels.scan import is_in_doubt, tile_bound, wanted_share
from detsample.kernels.tiles import (
    LANES,
    MOST_SEGMENTS,
    TILE,
    groups_of_segment,
    load_tile,
    split_quads,
    store_groups,
)
from detsample.kernels.weight import scaled_logit, weight

CHOICES = tl.constexpr(256)  # keys tried at a time


@triton.jit
def largest_key(part_key, row, parts):
    """The key of the row's largest logit, from what `scan` left."""
    part = tl.arange(0, MOST_SEGMENTS)
    return tl.max(tl.load(part_key + row * parts + part, mask=part < parts, other=-2147483648), axis=0)


@triton.jit
def sum_parts(sums, row, parts, which):
    """One of the sums that the parts of a row keep, added."""
    part = tl.arange(0, MOST_SEGMENTS)
    return tl.sum(tl.load(sums + (row * parts + part) * SUMS + which, mask=part < parts, other=0), axis=0)


@triton.jit
def needs_total(top_k, top_p, min_weight, want):
    """Whether somebody reads the weight of all the row's tokens."""
    by_weight = (top_p < 1.0) | ((min_weight == 0) & ((want & WANT_LOGPROBS) != 0))
    return ((top_k == 0) & by_weight) | ((want & WANT_LOG_Z) != 0)


@triton.jit
def needs_mass(top_k, top_p, min_weight, want):
    """Whether somebody reads any sum of the row's."""
    in_prefix = ((top_k == 0) & (min_weight > 0)) | is_in_doubt(top_k, top_p)
    return needs_total(top_k, top_p, min_weight, want) | in_prefix


@triton.jit
def lowest_key_of(scale, largest, top_key, min_weight):
    """The smallest key of which tokens weigh `min_weight`: 256 are tried at a time, one byte of the key."""
    below = tl.full([], LOWEST_KEY - 1, tl.int64)
    for byte in tl.static_range(4):
        step = 1 << (24 - 8 * byte)
        key = below + (tl.arange(0, CHOICES).to(tl.int64) + 1) * step
        inside = key <= top_key
        w = weight(largest - scaled_logit(value_of(tl.where(inside, key, top_key).to(tl.int32)), scale))
        below += tl.sum((inside & (w < min_weight)).to(tl.int32), axis=0).to(tl.int64) * step
    return (below + 1).to(tl.int32)


@triton.jit
def sum_all(row_logits, first, last, vocab, scale, largest):
    """The weight of the tokens from `first` on, before `last`."""
    total = tl.zeros([LANES], tl.int64)
    for start in range(first, last, TILE):
        total += tl.sum(weight(largest - scaled_logit(load_tile(row_logits, start, vocab), scale)), axis=1)
    return tl.sum(total, axis=0)


@triton.jit
def bound_of(x, low, start, scale, seed, position):
    """[LANES]: a bound of the scores of each quad's tokens that reach `low`."""
    x0, x1, x2, x3 = split_quads(tl.where(x >= low, x, float("-inf")))
    return tile_bound(x0, x1, x2, x3, start, scale, seed, position)


@triton.jit
def sum_min_p(
    row_logits, vocab, first_segment, last_segment, quads, segment_tiles, scale, largest, low, whole,
    bounds_here, seed, position, group_bound,
):  # fmt: skip
    """(weight of all tokens, weight and number of those that reach `low`) of some segments; stores bounds of the
    latter's scores. Tiles that hold none are passed by, unless the `whole` is asked for.
    """
    total = tl.zeros([LANES], tl.int64)
    kept = tl.zeros([LANES], tl.int64)
    count = tl.zeros([LANES], tl.int32)
    for segment in range(first_segment, last_segment):
        bound = tl.full([LANES], float("-inf"), tl.float32)
        start = segment * segment_tiles * TILE
        for _ in range(segment_tiles):
            x = load_tile(row_logits, start, vocab)
            keep = x >= low
            if whole | (tl.max(tl.max(keep.to(tl.int32), axis=1), axis=0) > 0):
                w = weight(largest - scaled_logit(x, scale))
                total += tl.sum(w, axis=1)
                kept += tl.sum(tl.where(keep, w, 0), axis=1)
                count += tl.sum(keep.to(tl.int32), axis=1)
                if bounds_here:
                    bound = tl.maximum(bound, bound_of(x, low, start, scale, seed, position))
            start += TILE
        if bounds_here:
            store_groups(group_bound, segment, bound, quads)
    return tl.sum(total, axis=0), tl.sum(kept, axis=0), tl.sum(count, axis=0)


@triton.jit
def list_interval(x, start, low, high, listed, list_token):
    """Appends a tile's tokens in [low, high) to the row's list, in no particular order. `listed` points at its length,
    which may exceed what it holds.
    """
    inside = (x >= low) & (x < high)
    tokens = start + tl.arange(0, LANES)[:, None] * 4 + tl.arange(0, 4)[None, :]
    place = tl.atomic_add(listed + tokens * 0, 1, mask=inside, sem="relaxed")
    tl.store(list_token + place, tokens, mask=inside & (place >= 0) & (place < LIST))


@triton.jit
def sum_around(
    row_logits, vocab, first_segment, last_segment, quads, segment_tiles, scale, largest, low, high,
    bounds_here, seed, position, group_bound, listed, list_token,
):  # fmt: skip
    """(weight of all tokens; weight and number of those that reach `high`; the same for `low`) of some segments; lists
    the tokens in between, as long as the list may hold them, and stores bounds of the scores of all that reach `low`.
    """
    total = tl.zeros([LANES], tl.int64)
    above, reached = tl.zeros([LANES], tl.int64), tl.zeros([LANES], tl.int64)
    above_count, reached_count = tl.zeros([LANES], tl.int32), tl.zeros([LANES], tl.int32)
    for segment in range(first_segment, last_segment):
        bound = tl.full([LANES], float("-inf"), tl.float32)
        start = segment * segment_tiles * TILE
        # What this program has listed so far, not the list's length: that changes under way, warps would read different
        # numbers, and some of them would miss the barriers in the branch below (wrong sums, seen on an H100).
        is_open = tl.sum(reached_count - above_count, axis=0) <= LIST
        for _ in range(segment_tiles):
            x = load_tile(row_logits, start, vocab)
            w = weight(largest - scaled_logit(x, scale))
            total += tl.sum(w, axis=1)
            above += tl.sum(tl.where(x >= high, w, 0), axis=1)
            above_count += tl.sum((x >= high).to(tl.int32), axis=1)
            reached += tl.sum(tl.where(x >= low, w, 0), axis=1)
            reached_count += tl.sum((x >= low).to(tl.int32), axis=1)
            if is_open:
                list_interval(x, start, low, high, listed, list_token)
            if bounds_here:
                bound = tl.maximum(bound, bound_of(x, low, start, scale, seed, position))
            start += TILE
        if bounds_here:
            store_groups(group_bound, segment, bound, quads)
    return (
        tl.sum(total, axis=0), tl.sum(above, axis=0), tl.sum(above_count, axis=0),
        tl.sum(reached, axis=0), tl.sum(reached_count, axis=0),
    )  # fmt: skip


@triton.jit
def write_interval(records, row, attempt, low, high, bounded, mode):
    """Notes where an interval lies, and whether bounds of scores were left with it; `mode` is the rest of MODE."""
    tl.store(records + row * RECORD + INTERVAL + attempt, join_words(key_of(low), key_of(high)))
    tl.store(records + row * RECORD + MODE, mode | tl.where(bounded, BOUNDED, 0))


NOT_SPECIALIZED = ["row_stride", "vocab", "quads", "segment_tiles", "segments", "segments_of_part", "parts", "want"]


@triton.jit(do_not_specialize=NOT_SPECIALIZED)
def mass(
    logits, row_stride, vocab, quads, segment_tiles, segments, segments_of_part, parts, want,
    records, group_bound, part_key, part_masses, part_counts, listed, list_token, row_pivots, part_rungs,
    ALIGNED: tl.constexpr,
):  # fmt: skip
    row = (tl.num_programs(0) - 1 - tl.program_id(0)).to(tl.int64)
    part = tl.num_programs(1) - 1 - tl.program_id(1)
    if ALIGNED:
        row_stride = (row_stride // 16) * 16
    row_logits = logits + row * row_stride
    scale, top_p = read_floats(records, row)
    top_k = read_field(records, row, TOP_K)
    min_weight = read_field(records, row, MIN_WEIGHT)
    pending = read_field(records, row, STATUS) == PENDING
    if pending & needs_mass(top_k, top_p, min_weight, want):
        top_key = largest_key(part_key, row, parts)
        largest = scaled_logit(value_of(top_key), scale)
        mode = read_field(records, row, MODE)
        seed = read_field(records, row, SEED)
        position = read_field(records, row, POSITION)
        unlimited = top_k == 0
        in_doubt = is_in_doubt(top_k, top_p)
        group_bound += row * segments * groups_of_segment(quads)
        masses = part_masses + (row * parts + part) * SUMS
        counts = part_counts + (row * parts + part) * SUMS
        first_segment = part * segments_of_part
        last_segment = tl.minimum(first_segment + segments_of_part, segments)

        total = tl.full([], 0, tl.int64)
        by_min_p = unlimited & (min_weight > 0)
        if by_min_p:
            low_key = lowest_key_of(scale, largest, top_key, min_weight)
            if part == 0:
                write_boundary(records, row, low_key, tl.full([], 0x7FFFFFFF, tl.int32))
            whole = needs_total(top_k, top_p, min_weight, want) & (in_doubt == 0)
            total, kept, count = sum_min_p(
                row_logits, vocab, first_segment, last_segment, quads, segment_tiles, scale, largest, value_of(low_key),
                whole, (mode & BOUNDED) != 0, seed, position, group_bound,
            )  # fmt: skip
            tl.store(masses + MINIMUM, kept)
            tl.store(counts + MINIMUM, count)
        if in_doubt:
            rate = rate_of(scale, unlimited)
            share = wanted_share(top_k, top_p, vocab)
            high, low = interval_around(
                row_pivots + row * RUNGS, part_rungs, row, parts, rate, share, value_of(top_key), MOST_SEGMENTS
            )
            bounds_here = (high < float("inf")) & (by_min_p == 0) & ((want & WANT_TOKEN) != 0)
            if part == 0:
                write_interval(records, row, 0, low, high, bounds_here, tl.where(by_min_p, mode, mode & GREEDY))
            total, above, above_count, reached, reached_count = sum_around(
                row_logits, vocab, first_segment, last_segment, quads, segment_tiles, scale, largest, low, high,
                bounds_here, seed, position, group_bound, listed + row * LISTS, list_token + row * LIST,
            )  # fmt: skip
            tl.store(masses + ABOVE, above)
            tl.store(masses + REACHED, reached)
            tl.store(counts + ABOVE, above_count)
            tl.store(counts + REACHED, reached_count)
        if (by_min_p == 0) & (in_doubt == 0):
            first = first_segment * segment_tiles * TILE
            last = tl.minimum(last_segment * segment_tiles * TILE, vocab)
            total = sum_all(row_logits, first, last, vocab, scale, largest)
        tl.store(masses + DRAWABLE, total)
