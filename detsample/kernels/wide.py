"""Kernel 5, grid (rows): finishes the rows that `narrow` left: kept sets of thousands of tokens.

The boundary is searched between keys, among the tokens that `collect` listed or, where it could not, among the
whole row: each look measures what reaches each of four pivots, and the interval between two of them becomes the
next one. Rounds cut values and keys in turn, and every look shrinks the interval to the keys that occur in it,
so no row takes more than about thirty looks, a usual one three, and a row of equal values one. The last few
dozen tokens are ranked like those of `narrow`.
"""

import triton
import triton.language as tl

from detsample.kernels.candidates import (
    CAPACITY,
    append,
    last_kept,
    load_candidates,
    ranks,
    top_p_target,
    weight_of_key,
)
from detsample.kernels.collect import LIST, UNLISTED
from detsample.kernels.lanes import draw_from_groups
from detsample.kernels.mass import largest_key, needs_mass
from detsample.kernels.narrow import MOST_DRAWS, sum_parts
from detsample.kernels.order import LAST_TOKEN, LOWEST_KEY, key_of, value_of, within
from detsample.kernels.outcome import write_drawn
from detsample.kernels.pivots import PIVOTS
from detsample.kernels.rows import (
    ABOVE_COUNT,
    ABOVE_MASS,
    BOUNDED,
    GREEDY,
    INTERVAL,
    LISTED,
    MIN_WEIGHT,
    MODE,
    PENDING,
    POSITION,
    SEED,
    STATUS,
    TOP_K,
    WANT_TOKEN,
    read_field,
    read_floats,
    write_boundary,
)
from detsample.kernels.scan import tile_bound
from detsample.kernels.tiles import GROUPS, LANES, MOST_GROUPS, TILE, fold_groups, load_span, load_tile, split_quads
from detsample.kernels.weight import scaled_logit, weight

SPAN = tl.constexpr(2048)  # tokens looked at at a time
FEW = tl.constexpr(64)


@triton.jit
def look_at(row_logits, list_token, start, size, listed):
    """(tokens, keys) number `start` and following: of the list where there is one, of the row otherwise."""
    place = start + tl.arange(0, SPAN)
    if listed:
        token = tl.load(list_token + place, mask=place < size, other=0)
        key = key_of(tl.load(row_logits + token, mask=place < size, other=float("-inf")).to(tl.float32))
    else:
        token = place
        key = key_of(load_span(row_logits, start, size, SPAN))
    return token, key


@triton.jit
def pivots_between(low, high, by_value):
    """Four keys that cut [low, high) into fifths, of its values or of its keys."""
    fifth = tl.arange(0, PIVOTS) + 1
    share = fifth.to(tl.float32) * 0.2
    first = value_of(low.to(tl.int32))
    last = value_of((high - 1).to(tl.int32))
    values = first * (1.0 - share) + last * share
    keys = low + ((high - low) * fifth.to(tl.int64)) // 5
    return tl.where(by_value, key_of(values), keys.to(tl.int32))


@triton.jit
def measure(row_logits, list_token, size, listed, scale, largest, pivots, low, high):
    """One look at the keys in [low, high): how many reach each pivot, and their weight; the smallest and the
    largest of them.
    """
    counts = tl.zeros([SPAN, PIVOTS], tl.int32)
    weights = tl.zeros([SPAN, PIVOTS], tl.int64)
    smallest = tl.full([SPAN], 0x7FFFFFFF, tl.int32)
    biggest = tl.full([SPAN], -2147483648, tl.int32)
    for start in range(0, size, SPAN):
        _, key = look_at(row_logits, list_token, start, size, listed)
        inside = (key >= low) & (key < high)
        reaches = (key[:, None] >= pivots[None, :]) & inside[:, None]
        counts += reaches.to(tl.int32)
        weights += tl.where(reaches, weight_of_key(key, scale, largest)[:, None], 0)
        smallest = tl.minimum(smallest, tl.where(inside, key, 0x7FFFFFFF))
        biggest = tl.maximum(biggest, tl.where(inside, key, -2147483648))
    return tl.sum(counts, axis=0), tl.sum(weights, axis=0), tl.min(smallest, axis=0), tl.max(biggest, axis=0)


@triton.jit
def list_inside(row_logits, list_token, size, listed, low, high, scratch_key, scratch_token):
    """Lists the tokens with keys in [low, high), known to be at most CAPACITY."""
    filled = tl.full([], 0, tl.int32)
    for start in range(0, size, SPAN):
        token, key = look_at(row_logits, list_token, start, size, listed)
        inside = (key >= low) & (key < high)
        if tl.max(inside.to(tl.int32), axis=0) > 0:
            filled = append(scratch_key, scratch_token, filled, key, token, inside)
    return filled


@triton.jit
def nth_token(row_logits, vocab, key, n):
    """The n-th token (n from 1) with this key, which is known to exist."""
    seen = tl.full([], 0, tl.int64)
    found = tl.full([], LAST_TOKEN, tl.int32)
    start = 0
    while (found == LAST_TOKEN) & (start < vocab):
        equal = (key_of(load_span(row_logits, start, vocab, SPAN)) == key).to(tl.int32)
        here = tl.sum(equal, axis=0)
        if seen + here >= n:
            order = tl.cumsum(equal, axis=0)
            token = start + tl.arange(0, SPAN)
            found = tl.min(tl.where((equal > 0) & (order == n - seen), token, LAST_TOKEN), axis=0)
        seen += here
        start += SPAN
    return found


@triton.jit
def search(
    row_logits, vocab, list_token, size, listed, scale, largest, low, high, inside, above_count, above_weight,
    limit, target, by_weight, scratch_key, scratch_token,
):  # fmt: skip
    """The shortest prefix that has `limit` tokens or, by weight, weighs `target`: (key, token) of its last
    token, its count, its weight.

    Invariant: the keys from `low` on reach the goal, those from `high` on do not and have `above_count` and
    `above_weight`; at most
    `inside` tokens lie between.
    """
    enough = tl.where(listed, FEW, CAPACITY)  # a look at the list costs less than ranking hundreds, one at the row more
    looks = 0
    while (high - low > 1) & (inside > enough):
        pivots = pivots_between(low, high, looks % 2 == 0)
        counts, weights, smallest, biggest = measure(
            row_logits, list_token, size, listed, scale, largest, pivots, low, high
        )
        counts = counts.to(tl.int64) + above_count
        weights += above_weight
        reached = tl.where(by_weight, weights >= target, counts >= limit)
        low_count = tl.min(tl.where(reached, counts, above_count + inside), axis=0)
        above_count = tl.maximum(above_count, tl.max(tl.where(reached, 0, counts), axis=0))
        above_weight = tl.maximum(above_weight, tl.max(tl.where(reached, 0, weights), axis=0))
        inside = tl.minimum(inside, low_count - above_count)
        low = tl.maximum(low, tl.max(tl.where(reached, pivots, LOWEST_KEY), axis=0).to(tl.int64))
        high = tl.minimum(high, tl.min(tl.where(reached, 0x7FFFFFFF, pivots), axis=0).to(tl.int64))
        low = tl.maximum(low, smallest.to(tl.int64))
        high = tl.minimum(high, biggest.to(tl.int64) + 1)
        looks += 1

    boundary_key = low.to(tl.int32)
    boundary_token = tl.full([], LAST_TOKEN, tl.int32)
    prefix_count = tl.full([], 0, tl.int64)
    prefix_weight = tl.full([], 0, tl.int64)
    if inside <= CAPACITY:
        tl.debug_barrier()
        filled = list_inside(row_logits, list_token, size, listed, low, high, scratch_key, scratch_token)
        tl.debug_barrier()
        place = tl.arange(0, CAPACITY)
        key, token = load_candidates(scratch_key, scratch_token, place, filled)
        rank, before = ranks(scratch_key, scratch_token, filled, key, token, scale, largest)
        short = tl.where(by_weight, before < target - above_weight, rank < limit - above_count)
        keep = (place < filled) & short
        count = tl.sum(keep.to(tl.int32), axis=0)
        boundary_key, boundary_token = last_kept(keep, rank, key, token, count)
        own = weight_of_key(key, scale, largest)
        prefix_count = above_count + count
        prefix_weight = above_weight + tl.sum(tl.where(keep, own, 0), axis=0)
    else:
        each = weight_of_key(boundary_key, scale, largest)
        ties = tl.where(by_weight, (target - above_weight + each - 1) // tl.maximum(each, 1), limit - above_count)
        if ties < inside:
            boundary_token = nth_token(row_logits, vocab, boundary_key, ties)
        prefix_count = above_count + ties
        prefix_weight = above_weight + ties * each
    return boundary_key, boundary_token, prefix_count, prefix_weight


@triton.jit
def sum_kept(row_logits, vocab, scale, largest, boundary_key, boundary_token, min_weight):
    """(count, weight, smallest key) of the tokens up to the boundary that min-p keeps."""
    count = tl.zeros([SPAN], tl.int32)
    total = tl.zeros([SPAN], tl.int64)
    smallest = tl.full([SPAN], 0x7FFFFFFF, tl.int32)
    for start in range(0, vocab, SPAN):
        x = load_span(row_logits, start, vocab, SPAN)
        key = key_of(x)
        w = weight(largest - scaled_logit(x, scale))
        keep = within(key, start + tl.arange(0, SPAN), boundary_key, boundary_token)
        keep = keep & (w >= min_weight) & (x > float("-inf"))
        count += keep.to(tl.int32)
        total += tl.where(keep, w, 0)
        smallest = tl.minimum(smallest, tl.where(keep, key, 0x7FFFFFFF))
    return tl.sum(count, axis=0).to(tl.int64), tl.sum(total, axis=0), tl.min(smallest, axis=0)


@triton.jit
def only_kept(x, token, boundary_key, boundary_token):
    return tl.where(within(key_of(x), token, boundary_key, boundary_token), x, float("-inf"))


@triton.jit
def bound_kept(
    row_logits, vocab, segments, segment_tiles, scale, seed, position, boundary_key, boundary_token, group_bound
):
    """Bounds of the scores of the kept tokens alone, group by group, as `scan` leaves them for all tokens."""
    token = tl.arange(0, LANES) * 4
    for segment in range(segments):
        bound = tl.full([LANES], float("-inf"), tl.float32)
        start = segment * segment_tiles * TILE
        for _ in range(segment_tiles):
            x0, x1, x2, x3 = split_quads(load_tile(row_logits, start, vocab))
            x0 = only_kept(x0, start + token, boundary_key, boundary_token)
            x1 = only_kept(x1, start + token + 1, boundary_key, boundary_token)
            x2 = only_kept(x2, start + token + 2, boundary_key, boundary_token)
            x3 = only_kept(x3, start + token + 3, boundary_key, boundary_token)
            bound = tl.maximum(bound, tile_bound(x0, x1, x2, x3, start, scale, seed, position))
            start += TILE
        tl.store(group_bound + segment * GROUPS + tl.arange(0, GROUPS), fold_groups(bound))


@triton.jit(do_not_specialize=["row_stride", "vocab", "segment_tiles", "segments", "parts", "want"])
def wide(
    logits, row_stride, vocab, segment_tiles, segments, parts, want,
    records, group_bound, part_key, part_count, part_mass, list_token,
    scratch_key, scratch_token, token_ids, num_kept, status, logprobs, log_z,
    ALIGNED: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    if ALIGNED:
        row_stride = tl.multiple_of(row_stride, 16)
    row_logits = logits + row * row_stride
    scratch_key += row * CAPACITY
    scratch_token += row * CAPACITY
    list_token += row * LIST
    group_bound += row * segments * GROUPS
    if read_field(records, row, STATUS) == PENDING:
        scale, top_p = read_floats(records, row)
        top_k = read_field(records, row, TOP_K)
        min_weight = read_field(records, row, MIN_WEIGHT)
        seed = read_field(records, row, SEED)
        position = read_field(records, row, POSITION)
        mode = read_field(records, row, MODE)
        top_key = largest_key(part_key, row, parts)
        largest = scaled_logit(value_of(top_key), scale)
        total = tl.full([], 0, tl.int64)
        if needs_mass(records, row, want):
            total = sum_parts(part_mass, row, parts)

        drawable = sum_parts(part_count, row, parts).to(tl.int64)  # tokens at -inf are never kept
        limit = tl.where(top_k > 0, tl.minimum(top_k, drawable), drawable)
        boundary_key = tl.full([], LOWEST_KEY, tl.int32)
        boundary_token = tl.full([], LAST_TOKEN, tl.int32)
        count = limit
        kept_weight = total
        for stage in range(2):  # first top-k by count, then top-p by weight; a loop, so that the code is compiled once
            by_weight = stage == 1
            if tl.where(by_weight, top_p < 1.0, top_k > 0):
                low = tl.full([], LOWEST_KEY, tl.int64)
                high = top_key.to(tl.int64) + 1
                above_count = tl.full([], 0, tl.int64)
                above_weight = tl.full([], 0, tl.int64)
                inside = read_field(records, row, LISTED)
                # `collect` worked towards the first goal of the row, and may have found more than its list holds.
                measured = (inside > 0) & (by_weight == (top_k == 0))
                if measured:
                    interval = read_field(records, row, INTERVAL)
                    low = interval.to(tl.int32).to(tl.int64)
                    high = interval >> 32
                    above_count = read_field(records, row, ABOVE_COUNT)
                    above_weight = read_field(records, row, ABOVE_MASS)
                else:
                    inside = tl.full([], UNLISTED, tl.int64)
                listed = inside <= LIST
                size = tl.where(listed, inside, vocab).to(tl.int32)
                boundary_key, boundary_token, count, kept_weight = search(
                    row_logits, vocab, list_token, size, listed, scale, largest,
                    low, high, inside, above_count, above_weight, limit, top_p_target(top_p, kept_weight), by_weight,
                    scratch_key, scratch_token,
                )  # fmt: skip
        # Min-p cuts further only where the boundary weighs too little, or where nothing else has cut.
        if weight_of_key(boundary_key, scale, largest) < min_weight:
            count, kept_weight, boundary_key = sum_kept(
                row_logits, vocab, scale, largest, boundary_key, boundary_token, min_weight
            )
            boundary_token = tl.full([], LAST_TOKEN, tl.int32)
        write_boundary(records, row, boundary_key, boundary_token)

        # The bounds that `scan` left are of all tokens; where they do not settle the draw, bounds of the kept
        # ones will.
        winner = tl.full([], -1, tl.int32)
        decided = (want & WANT_TOKEN) == 0
        bounded = (mode & BOUNDED) != 0
        most = MOST_DRAWS
        while decided == 0:
            if bounded == 0:
                tl.debug_barrier()
                bound_kept(
                    row_logits, vocab, segments, segment_tiles, scale, seed, position,
                    boundary_key, boundary_token, group_bound,
                )  # fmt: skip
                tl.debug_barrier()
                most = MOST_GROUPS
            winner, decided = draw_from_groups(
                row_logits, vocab, segment_tiles, segments * GROUPS, group_bound, scale, seed, position,
                boundary_key, boundary_token, most,
            )  # fmt: skip
            bounded = False
        write_drawn(
            row_logits, records, token_ids, num_kept, status, logprobs, log_z,
            row, winner, count, scale, largest, kept_weight, tl.maximum(total, 1), (mode & GREEDY) != 0,
        )  # fmt: skip
