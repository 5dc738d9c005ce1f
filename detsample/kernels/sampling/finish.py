"""Kernel 4, grid (rows): finishes the rows that `settle` left. Some only wait for a sum; of others the boundary is
still unknown.

The boundary is searched by bisection between keys, among the tokens that `sum_weights` listed. If the guess was wrong
or the list too short, the whole row is searched. Each look at the row measures what reaches each of four cuts, and the
interval between two of them is the next one. A look cuts values, or keys, whichever halves the number of tokens that
are left. Every look also shrinks the interval to the keys that occur in it. So no row takes more than about forty
looks, and a row of equal values takes none. The last few dozen tokens are ranked like those of `settle`.
"""

import triton
import triton.language as tl

from detsample.kernels.contract.fraction import top_p_target
from detsample.kernels.contract.order import LAST_TOKEN, LOWEST_KEY, key_of, value_of, within
from detsample.kernels.contract.weight import gap, weight
from detsample.kernels.sampling.candidates import (
    CAPACITY,
    LIST,
    SCRATCH,
    append,
    code_of,
    key_of_code,
    last_kept,
    load_candidates,
    ranks,
    weight_of_key,
)
from detsample.kernels.sampling.dependent_launch import wait_for_earlier
from detsample.kernels.sampling.draw import MOST_DRAWS, NO_SCORE, best_of, better_of, draw_from_groups, exact_score
from detsample.kernels.sampling.outcome import write_drawn
from detsample.kernels.sampling.rows import (
    ABOVE,
    ABOVE_COUNT,
    AROUND,
    BOUNDED,
    COUNT,
    DRAWN,
    FILLED,
    GREEDY,
    IN_DOUBT,
    JOINT,
    KEPT,
    MEASURES,
    MIN_P_FIRST,
    MIN_WEIGHT,
    MINIMUM,
    MINIMUM_COUNT,
    MODE,
    NEEDS_MINIMUM,
    PENDING,
    POSITION,
    REACHED,
    REACHED_COUNT,
    SEED,
    STATUS,
    SUMS,
    TOP_K,
    TOP_KEY,
    TOTAL,
    WANT_KEPT,
    WANT_TOKEN,
    WINNER,
    end_of,
    is_bounded_from,
    is_likely,
    last_attempt,
    read_boundary,
    read_field,
    read_floats,
    read_interval,
    read_sum,
    write_boundary,
)
from detsample.kernels.sampling.score_bounds import tile_bound
from detsample.kernels.sampling.tiles import (
    LANES,
    MOST_GROUPS,
    PASSING,
    TILE,
    groups_of_segment,
    load_span,
    load_tile,
    load_tokens,
    logits_of_row,
    open_tile,
    split_quads,
    store_groups,
)

SPAN = tl.constexpr(2048)  # how many tokens are looked at at a time
COUNTED = tl.constexpr(8192)  # how many tokens are counted at a time, to find the n-th of equal ones
CUTS = tl.constexpr(4)
SCORED = tl.constexpr(1024)  # how many listed tokens are scored at a time


@triton.jit
def cuts_between(low, high, by_value):
    """Four keys that cut [low, high) into fifths, of its values or of its keys."""
    fifth = tl.arange(0, CUTS) + 1
    share = fifth.to(tl.float32) * 0.2
    first = value_of(low.to(tl.int32))
    last = value_of((high - 1).to(tl.int32))
    values = first * (1.0 - share) + last * share
    keys = low + ((high - low) * fifth.to(tl.int64)) // 5
    return tl.where(by_value, key_of(values), keys.to(tl.int32))


@triton.jit
def one_of(values, n):
    """Entry `n` of [CUTS] values, as a scalar."""
    return tl.sum(tl.where(tl.arange(0, CUTS) == n, values, 0), axis=0)


@triton.jit
def four(first, second, third, fourth):
    """Four scalars as a block of [CUTS]."""
    place = tl.arange(0, CUTS)
    return tl.where(place < 2, tl.where(place == 0, first, second), tl.where(place == 2, third, fourth))


@triton.jit
def nothing(dtype: tl.constexpr):
    """A block of zeros, [SPAN], of this type."""
    return tl.zeros([SPAN], dtype)


@triton.jit
def add_reaching(count, total, key, cut, w):
    """Adds to a count and to a sum of weights the tokens whose keys reach `cut`."""
    reaches = key >= cut
    return count + reaches.to(tl.int32), total + tl.where(reaches, w, 0)


@triton.jit
def look_at_row(row_logits, vocab, scale, largest, cuts, low, high):
    """One look at the tokens with keys in [low, high): how many reach each cut, and their weight; and the smallest and
    the largest of their keys.
    """
    # One cut after the other: a block [SPAN, CUTS] would go through shared memory at every step.
    cut0, cut1, cut2, cut3 = one_of(cuts, 0), one_of(cuts, 1), one_of(cuts, 2), one_of(cuts, 3)
    count0, count1, count2, count3 = nothing(tl.int32), nothing(tl.int32), nothing(tl.int32), nothing(tl.int32)
    weight0, weight1, weight2, weight3 = nothing(tl.int64), nothing(tl.int64), nothing(tl.int64), nothing(tl.int64)
    smallest = tl.full([SPAN], 0x7FFFFFFF, tl.int32)
    biggest = tl.full([SPAN], -2147483648, tl.int32)
    ahead = load_span(row_logits, 0, vocab, SPAN)
    for start in range(0, vocab, SPAN):
        key = key_of(ahead)
        ahead = load_span(row_logits, start + SPAN, vocab, SPAN)
        inside = (key >= low) & (key < high)
        w = tl.where(inside, weight_of_key(key, scale, largest), 0)
        reaching = tl.where(inside, key, -2147483648)
        count0, weight0 = add_reaching(count0, weight0, reaching, cut0, w)
        count1, weight1 = add_reaching(count1, weight1, reaching, cut1, w)
        count2, weight2 = add_reaching(count2, weight2, reaching, cut2, w)
        count3, weight3 = add_reaching(count3, weight3, reaching, cut3, w)
        smallest = tl.minimum(smallest, tl.where(inside, key, 0x7FFFFFFF))
        biggest = tl.maximum(biggest, reaching)
    counts = four(tl.sum(count0, axis=0), tl.sum(count1, axis=0), tl.sum(count2, axis=0), tl.sum(count3, axis=0))
    weights = four(tl.sum(weight0, axis=0), tl.sum(weight1, axis=0), tl.sum(weight2, axis=0), tl.sum(weight3, axis=0))
    return counts, weights, tl.min(smallest, axis=0), tl.max(biggest, axis=0)


@triton.jit
def list_inside(row_logits, vocab, low, high, filled, scratch_code):
    """Lists the tokens with keys in [low, high). The caller knows that they are at most CAPACITY."""
    ahead = load_span(row_logits, 0, vocab, SPAN)
    for start in range(0, vocab, SPAN):
        key = key_of(ahead)
        ahead = load_span(row_logits, start + SPAN, vocab, SPAN)
        inside = (key >= low) & (key < high)
        if tl.max(inside.to(tl.int32), axis=0) > 0:
            append(scratch_code, filled, code_of(key, start + tl.arange(0, SPAN)), inside)


@triton.jit
def nth_token(row_logits, vocab, key, n):
    """The n-th token with this key, with n counted from 1. The caller knows that it exists."""
    seen = tl.full([], 0, tl.int64)
    found = tl.full([], LAST_TOKEN, tl.int32)
    start = 0
    ahead = load_span(row_logits, 0, vocab, COUNTED)
    while (found == LAST_TOKEN) & (start < vocab):
        equal = (key_of(ahead) == key).to(tl.int32)
        ahead = load_span(row_logits, start + COUNTED, vocab, COUNTED)
        here = tl.sum(equal, axis=0)
        if seen + here >= n:
            order = tl.cumsum(equal, axis=0)
            token = start + tl.arange(0, COUNTED)
            found = tl.min(tl.where((equal > 0) & (order == n - seen), token, LAST_TOKEN), axis=0)
        seen += here
        start += COUNTED
    return found


@triton.jit
def search_row(
    row_logits, vocab, scale, largest, low, high, inside, above_count, above_weight, limit, target, by_weight,
    filled, scratch_code,
):  # fmt: skip
    """Searches the whole row: shrinks the interval [low, high) by looks at it, until its tokens fit the scratch list,
    which is then filled, or all have one key.

    This holds all the time, here and in `cut_list`: the tokens with keys from `low` on reach the goal, which is
    `target` by weight or `limit` by count. Those from `high` on do not reach it, and have `above_count` and
    `above_weight`. At most `inside` tokens lie between.
    """
    by_value = vocab > 0  # true, as a scalar of the GPU
    while (high - low > 1) & (inside > CAPACITY):
        before = inside
        cuts = cuts_between(low, high, by_value)
        counts, weights, smallest, biggest = look_at_row(row_logits, vocab, scale, largest, cuts, low, high)
        counts = counts.to(tl.int64) + above_count
        weights += above_weight
        reached = tl.where(by_weight, weights >= target, counts >= limit)
        low_count = tl.min(tl.where(reached, counts, above_count + inside), axis=0)
        above_count = tl.maximum(above_count, tl.max(tl.where(reached, 0, counts), axis=0))
        above_weight = tl.maximum(above_weight, tl.max(tl.where(reached, 0, weights), axis=0))
        inside = tl.minimum(inside, low_count - above_count)
        low = tl.maximum(low, tl.max(tl.where(reached, cuts, LOWEST_KEY), axis=0).to(tl.int64))
        high = tl.minimum(high, tl.min(tl.where(reached, 0x7FFFFFFF, cuts), axis=0).to(tl.int64))
        low = tl.maximum(low, smallest.to(tl.int64))
        high = tl.minimum(high, biggest.to(tl.int64) + 1)
        by_value = by_value ^ (inside * 2 > before)  # go on like this while it halves the interval
    if inside <= CAPACITY:
        list_inside(row_logits, vocab, low, high, filled, scratch_code)
    return low, high, inside, above_count, above_weight


@triton.jit
def cut_list(
    row_logits, list_token, found, scale, largest, low, high, above_count, above_weight, limit, target, by_weight
):  # fmt: skip
    """The same as `search_row` and `cut_interval`, where the listed tokens are all tokens of the interval. They stay in
    registers, and the interval is shrunk until all that is left in it has one key.
    """
    place = tl.arange(0, LIST)
    listed = place < found
    token = tl.load(list_token + place, mask=listed, other=0)
    key = key_of(load_tokens(row_logits, token, listed))
    w = tl.where(listed, weight_of_key(key, scale, largest), 0)
    goal = tl.where(by_weight, target - above_weight, limit - above_count)
    # Weight and number share one word, so that a round has one sum: the weight is at most 2^40, the number 2^11.
    both = (tl.where(by_weight, w, listed.to(tl.int64)).to(tl.uint64) << 12) | listed.to(tl.uint64)
    reached_number = found.to(tl.int64)
    above_number = tl.full([], 0, tl.int64)
    by_value = found >= 0  # true, as a scalar of the GPU
    while (high - low > 1) & (reached_number - above_number > 1):
        before = reached_number - above_number
        cuts = cuts_between(low, high, by_value)
        sums = tl.sum(tl.where(key[:, None] >= cuts[None, :], both[:, None], 0), axis=0)
        reached = (sums >> 12).to(tl.int64) >= goal
        number = (sums & 0xFFF).to(tl.int64)
        reached_number = tl.min(tl.where(reached, number, reached_number), axis=0)
        above_number = tl.max(tl.where(reached, above_number, number), axis=0)
        low = tl.maximum(low, tl.max(tl.where(reached, cuts, LOWEST_KEY), axis=0).to(tl.int64))
        high = tl.minimum(high, tl.min(tl.where(reached, 0x7FFFFFFF, cuts), axis=0).to(tl.int64))
        by_value = by_value ^ ((reached_number - above_number) * 2 > before)
    above_weight += tl.sum(tl.where(key >= high, w, 0), axis=0)
    equal = listed & (key >= low) & (key < high)
    boundary_key = tl.max(tl.where(equal, key, LOWEST_KEY), axis=0)
    each = weight_of_key(boundary_key, scale, largest)
    ties = tl.where(
        by_weight, (target - above_weight + each - 1) // tl.maximum(each, 1), limit - above_count - above_number
    )
    first = tl.min(tl.where(equal, token, LAST_TOKEN), axis=0)
    last = tl.max(tl.where(equal, token, 0), axis=0)
    while first < last:  # the id that as many of the equal tokens reach as are kept
        middle = first + ((last - first) >> 1)
        enough = tl.sum((equal & (token <= middle)).to(tl.int64), axis=0) >= ties
        first = tl.where(enough, first, middle + 1)
        last = tl.where(enough, middle, last)
    return boundary_key, last, above_count + above_number + ties, above_weight + ties * each


@triton.jit
def cut_interval(
    row_logits, vocab, scale, largest, low, inside, above_count, above_weight, limit, target, by_weight, scratch_code,
):  # fmt: skip
    """The shortest prefix that reaches the goal: the key and the id of its last token, its count and its weight. The
    scratch list must hold the interval, or all of the interval must have one key.
    """
    boundary_key = low.to(tl.int32)
    boundary_token = tl.full([], LAST_TOKEN, tl.int32)
    prefix_count = tl.full([], 0, tl.int64)
    prefix_weight = tl.full([], 0, tl.int64)
    if inside <= CAPACITY:
        tl.debug_barrier()
        filled = inside.to(tl.int32)
        code = load_candidates(scratch_code, filled)
        rank, before = ranks(scratch_code, filled, code, scale, largest)
        short = tl.where(by_weight, before < target - above_weight, rank < limit - above_count)
        keep = (tl.arange(0, CAPACITY) < filled) & short
        count = tl.sum(keep.to(tl.int32), axis=0)
        boundary_key, boundary_token = last_kept(keep, rank, code, count)
        own = weight_of_key(key_of_code(code), scale, largest)
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
    ahead = load_span(row_logits, 0, vocab, SPAN)
    for start in range(0, vocab, SPAN):
        x = ahead
        ahead = load_span(row_logits, start + SPAN, vocab, SPAN)
        key = key_of(x)
        w = weight(gap(x, largest, scale))
        keep = within(key, start + tl.arange(0, SPAN), boundary_key, boundary_token)
        keep = keep & (w >= min_weight) & (x > float("-inf"))
        count += keep.to(tl.int32)
        total += tl.where(keep, w, 0)
        smallest = tl.minimum(smallest, tl.where(keep, key, 0x7FFFFFFF))
    return tl.sum(count, axis=0).to(tl.int64), tl.sum(total, axis=0), tl.min(smallest, axis=0)


@triton.jit
def only_kept(x, token, boundary_key, boundary_token):
    """The logits of kept tokens, and -inf for all others."""
    return tl.where(within(key_of(x), token, boundary_key, boundary_token), x, float("-inf"))


@triton.jit
def bound_kept(
    row_logits, vocab, quads, stretches, stretch_tiles, scale, largest, seed, position, boundary_key, boundary_token,
    last_token, group_bound,
):  # fmt: skip
    """Stores, group by group, bounds of the scores of the kept tokens alone, measured from the largest logit. No kept
    token may lie behind `last_token`.
    """
    token = tl.arange(0, LANES) * 4
    for stretch in range(stretches):
        bound = tl.full([LANES], float("-inf"), tl.float32)
        start = stretch * stretch_tiles * TILE
        end = tl.minimum(start + stretch_tiles * TILE, last_token + 1)
        for here in range(start, end, TILE):
            x0, x1, x2, x3 = split_quads(open_tile(load_tile(row_logits, here, vocab, PASSING), row_logits))
            x0 = only_kept(x0, here + token, boundary_key, boundary_token)
            x1 = only_kept(x1, here + token + 1, boundary_key, boundary_token)
            x2 = only_kept(x2, here + token + 2, boundary_key, boundary_token)
            x3 = only_kept(x3, here + token + 3, boundary_key, boundary_token)
            bound = tl.maximum(bound, tile_bound(x0, x1, x2, x3, here, largest, scale, seed, position))
        store_groups(group_bound, stretch, bound, quads)


@triton.jit
def draw_from_list(row_logits, list_token, size, scale, largest, seed, position, boundary_key, boundary_token):
    """The token with the largest score, if all kept tokens are listed."""
    best = tl.full([], NO_SCORE, tl.int64)
    winner = tl.full([], LAST_TOKEN, tl.int32)
    for start in range(0, size, SCORED):
        place = start + tl.arange(0, SCORED)
        token = tl.load(list_token + place, mask=place < size, other=0)
        x = load_tokens(row_logits, token, place < size)
        kept = (place < size) & within(key_of(x), token, boundary_key, boundary_token)
        score = tl.where(kept, exact_score(gap(x, largest, scale), seed, token, position), NO_SCORE)
        top, at = best_of(score, token)
        best, winner = better_of(best, winner, top, at)
    return winner


@triton.jit
def draw(
    row_logits, vocab, quads, stretches, stretch_tiles, scale, largest, seed, position, boundary_key, boundary_token,
    group_bound, bounded, shift, top_key,
):  # fmt: skip
    """(token, shift): draws the token through bounds of groups. If there are bounds already, they are tried first; they
    may be of more tokens than the kept ones, and have this shift. If they do not decide the draw, bounds of the kept
    tokens are made and used. The shift returned is that of the bounds that there are now.
    """
    # Of equal logits those with the lowest ids are kept: tokens behind need not be looked at.
    last_token = tl.where(boundary_key == top_key, tl.minimum(boundary_token, vocab - 1), vocab - 1)
    winner = tl.full([], -1, tl.int32)
    decided = vocab < 0  # false; the oldest interpreter makes no int1 of a constant
    most = MOST_DRAWS
    while decided == 0:
        if bounded == 0:
            tl.debug_barrier()
            bound_kept(
                row_logits, vocab, quads, stretches, stretch_tiles, scale, largest, seed, position,
                boundary_key, boundary_token, last_token, group_bound,
            )  # fmt: skip
            tl.debug_barrier()
            most = MOST_GROUPS
            shift = shift * 0.0
        winner, decided = draw_from_groups(
            row_logits, vocab, quads, stretch_tiles, stretches * groups_of_segment(quads), group_bound,
            shift, scale, largest, seed, position, boundary_key, boundary_token, most,
        )  # fmt: skip
        bounded = False
    return winner, shift


@triton.jit
def read_measured(records, sums, row, top_key):
    """(low, high, above count, above, reached count, reached): the row's last interval [low, high) of keys, and the
    numbers and weights of the tokens above it, and of those above or in it.
    """
    attempt = last_attempt(records, row)
    first_key, end_key = read_interval(records, row, attempt)
    around = attempt * MEASURES + AROUND
    return (
        first_key.to(tl.int64), end_of(end_key, top_key),
        read_sum(sums, row, around + ABOVE_COUNT), read_sum(sums, row, around + ABOVE),
        read_sum(sums, row, around + REACHED_COUNT), read_sum(sums, row, around + REACHED),
    )  # fmt: skip


@triton.jit
def weight_before(row_logits, list_token, number, scale, largest, key, token):
    """The weight of the listed tokens that come before a token in the order."""
    place = tl.arange(0, LIST)
    other = tl.load(list_token + place, mask=place < number, other=0)
    other_key = key_of(load_tokens(row_logits, other, place < number))
    before = (place < number) & within(other_key, other, key, token - 1)
    return tl.sum(tl.where(before, weight_of_key(other_key, scale, largest), 0), axis=0)


@triton.jit
def boundary_of_row(
    row_logits, vocab, drawable, sums, row, list_token, mode, scale, largest, top_key, top_k, top_p, min_weight, total,
    interval_low, interval_high, counted, weighed, counted_in, weighed_in, scratch_code,
):  # fmt: skip
    """The key and the id of the last token of the prefix that all filters keep, its count and weight, and whether all
    of it is in the row's list. `total` is the weight of which top-p takes its share if top-k is off. `drawable` tokens
    are above -inf. The interval, and what is known of it, only mean something for rows in doubt.
    """
    limit = tl.where(top_k > 0, tl.minimum(top_k, drawable), drawable)
    boundary_key = tl.full([], LOWEST_KEY, tl.int32)
    boundary_token = tl.full([], LAST_TOKEN, tl.int32)
    count = limit
    kept_weight = total
    measured = ((mode & IN_DOUBT) != 0) & (counted_in > 0)  # `sum_weights` is not always launched
    hit = drawable < 0  # false, as a scalar of the GPU
    all_listed = hit
    # Top-k cuts first, by count, then top-p by weight, with min-p before or after it. It is a loop, to compile it once.
    # Min-p cuts further only if the boundary weighs too little. Without top-k, `total` has it if it comes first.
    cut_at = tl.where((mode & MIN_P_FIRST) != 0, tl.where(top_k > 0, 1, 3), 2)
    for stage in range(3):
        by_weight = stage == 1
        if stage == cut_at:
            if weight_of_key(boundary_key, scale, largest) < min_weight:
                count, kept_weight, boundary_key = sum_kept(
                    row_logits, vocab, scale, largest, boundary_key, boundary_token, min_weight
                )
                boundary_token = tl.full([], LAST_TOKEN, tl.int32)
        target = top_p_target(top_p, tl.where((mode & JOINT) != 0, total, kept_weight))
        if tl.where(by_weight, target <= kept_weight, tl.where(stage == 0, top_k, 0) > 0):
            filled = sums + row * SUMS + FILLED + 1 + stage
            # What top-p keeps of what top-k keeps is at least as high as the interval that held the boundary of top-k.
            low = tl.where(hit, interval_low, LOWEST_KEY)
            high = top_key.to(tl.int64) + 1
            above_count = tl.full([], 0, tl.int64)
            above_weight = tl.full([], 0, tl.int64)
            inside = tl.where(hit, counted_in, drawable)
            listed = all_listed
            if measured & (by_weight == (top_k == 0)):  # the goal that `sum_weights` worked towards
                too_high = tl.where(by_weight, weighed >= target, counted >= limit)
                too_low = tl.where(by_weight, weighed_in < target, counted_in < limit)
                hit = (too_high == 0) & (too_low == 0)
                # If all tokens have one value, nothing is listed, and there is nothing to search.
                listed = hit & (counted_in - counted <= LIST) & (interval_high - interval_low > 1)
                low = tl.where(too_high, interval_high, tl.where(too_low, low, interval_low))
                high = tl.where(too_high, high, tl.where(too_low, interval_low, interval_high))
                above_count = tl.where(too_high, 0, tl.where(too_low, counted_in, counted))
                above_weight = tl.where(too_high, 0, tl.where(too_low, weighed_in, weighed))
                inside = tl.where(too_high, counted, tl.where(too_low, drawable, counted_in)) - above_count
                all_listed = listed & (counted == 0)
            tl.debug_barrier()  # the scratch list is used twice
            if listed:
                boundary_key, boundary_token, count, kept_weight = cut_list(
                    row_logits, list_token, (counted_in - counted).to(tl.int32), scale, largest, low, high,
                    above_count, above_weight, limit, target, by_weight,
                )  # fmt: skip
            else:
                low, high, inside, above_count, above_weight = search_row(
                    row_logits, vocab, scale, largest, low, high, inside, above_count, above_weight,
                    limit, target, by_weight, filled, scratch_code,
                )  # fmt: skip
                boundary_key, boundary_token, count, kept_weight = cut_interval(
                    row_logits, vocab, scale, largest, low, inside, above_count, above_weight,
                    limit, target, by_weight, scratch_code,
                )  # fmt: skip
    return boundary_key, boundary_token, count, kept_weight, all_listed


@triton.jit
def is_cut_by_list(mode, target, measured, top_k, min_weight):
    """Whether top-p alone cuts the row, and its list holds all tokens of the interval that the boundary is in."""
    low, high, above_count, above, reached_count, reached = measured
    here = (above < target) & (target <= reached) & (reached_count - above_count <= LIST) & (high - low > 1)
    return here & ((mode & IN_DOUBT) != 0) & (top_k == 0) & (min_weight == 0)


@triton.jit
def has_bounds(records, row, mode, top_p, boundary_key):
    """Whether the row's bounds are of all tokens that are kept, or more. They may be of all tokens, of those that min-p
    keeps, or of those from the first interval on.
    """
    first_key, _end = read_interval(records, row, 0)
    covered = ((mode & NEEDS_MINIMUM) != 0) | is_likely(records, row, top_p) | (boundary_key >= first_key)
    return ((mode & BOUNDED) != 0) | (is_bounded_from(records, row, mode) & covered)


@triton.jit
def finish_listed(
    row, row_logits, vocab, quads, stretch_tiles, stretches, want, records, list_token, group_bound, mode, scale, top_p,
    top_key, total, target, measured, token_ids, num_kept, status, logprobs, log_z,
):  # fmt: skip
    """Finishes a row for which `is_cut_by_list` holds. If its token alone is wanted, it is drawn before the boundary is
    known, from all that is above or in the interval. If what comes before it weighs too much, it is not kept, nor is
    any behind it, and the best of those before it is next.
    """
    low, high, above_count, above, reached_count, reached = measured
    seed, position = read_field(records, row, SEED), read_field(records, row, POSITION)
    largest = value_of(top_key)
    number = (reached_count - above_count).to(tl.int32)
    count, kept_weight = reached_count, reached
    boundary_key, boundary_token = low.to(tl.int32), tl.full([], LAST_TOKEN, tl.int32)
    known = (want & WANT_KEPT) != 0
    if known:
        boundary_key, boundary_token, count, kept_weight = cut_list(
            row_logits, list_token, number, scale, largest, low, high, above_count, above, count, target, low < high
        )
        write_boundary(records, row, boundary_key, boundary_token)
    winner = tl.full([], -1, tl.int32)
    if (want & WANT_TOKEN) != 0:
        bounded = has_bounds(records, row, mode, top_p, boundary_key)
        shift = tl.where((mode & BOUNDED) != 0, largest * scale, 0.0)
        is_kept = number < 0
        while is_kept == 0:
            if above_count == 0:
                winner = draw_from_list(
                    row_logits, list_token, number, scale, largest, seed, position, boundary_key, boundary_token
                )
            else:
                winner, shift = draw(
                    row_logits, vocab, quads, stretches, stretch_tiles, scale, largest, seed, position,
                    boundary_key, boundary_token, group_bound, bounded, shift, top_key,
                )  # fmt: skip
                bounded = vocab > 0
            is_kept = known
            if known == 0:
                key = key_of(tl.load(row_logits[0] + winner).to(tl.float32))
                before = weight_before(row_logits, list_token, number, scale, largest, key, winner)
                is_kept = above + before < target
                boundary_key, boundary_token = key, winner - 1
    write_drawn(
        row_logits, records, token_ids, num_kept, status, logprobs, log_z, row, winner, count, scale, largest,
        kept_weight, total,
    )  # fmt: skip


@triton.jit
def finish_row(
    row, row_logits, vocab, quads, stretch_tiles, stretches, want, records, sums, list_token, group_bound, scratch_code,
    mode, scale, top_p, top_k, min_weight, top_key, total, measured, token_ids, num_kept, status, logprobs, log_z,
):  # fmt: skip
    """Finishes any other row that `settle` left."""
    low, high, above_count, above, reached_count, reached = measured
    largest = value_of(top_key)
    count = read_field(records, row, COUNT)
    kept_weight = read_field(records, row, KEPT)
    kept_weight = tl.where(kept_weight == 0, total, kept_weight)
    winner = read_field(records, row, WINNER).to(tl.int32)
    if (mode & DRAWN) == 0:
        seed = read_field(records, row, SEED)
        position = read_field(records, row, POSITION)
        boundary_key, boundary_token = read_boundary(records, row)
        all_listed = count < 0
        min_mass = read_sum(sums, row, MINIMUM)
        whole = tl.where(((mode & MIN_P_FIRST) != 0) & (top_k == 0), min_mass, total)
        if ((mode & NEEDS_MINIMUM) != 0) & (min_mass <= top_p_target(top_p, whole)):
            count = read_sum(sums, row, MINIMUM_COUNT)
            kept_weight = min_mass
        elif (top_k > 0) | (top_p < 1.0):
            boundary_key, boundary_token, count, kept_weight, all_listed = boundary_of_row(
                row_logits, vocab, count, sums, row, list_token, mode, scale, largest, top_key, top_k, top_p,
                min_weight, whole, low, high, above_count, above, reached_count, reached, scratch_code,
            )  # fmt: skip
            write_boundary(records, row, boundary_key, boundary_token)
        if (want & WANT_TOKEN) != 0:
            if all_listed:
                winner = draw_from_list(
                    row_logits, list_token, reached_count.to(tl.int32), scale, largest, seed, position,
                    boundary_key, boundary_token,
                )  # fmt: skip
            else:
                shift = tl.where((mode & BOUNDED) != 0, largest * scale, 0.0)
                winner, _shift = draw(
                    row_logits, vocab, quads, stretches, stretch_tiles, scale, largest, seed, position,
                    boundary_key, boundary_token, group_bound, has_bounds(records, row, mode, top_p, boundary_key),
                    shift, top_key,
                )  # fmt: skip
    total = tl.where((mode & GREEDY) != 0, kept_weight, total)
    write_drawn(
        row_logits, records, token_ids, num_kept, status, logprobs, log_z,
        row, winner, count, scale, largest, tl.maximum(kept_weight, 1), tl.maximum(total, 1),
    )  # fmt: skip


NOT_SPECIALIZED = ["row_stride", "allowed_stride", "vocab", "quads", "stretch_tiles", "stretches", "want", "pitch"]


@triton.jit(do_not_specialize=NOT_SPECIALIZED, do_not_specialize_on_alignment=["logits", "allowed"])
def finish(
    logits, row_stride, allowed, allowed_stride, vocab, quads, stretch_tiles, stretches, want,
    records, sums, list_token, pitch, group_bound, scratch_code,
    token_ids, num_kept, status, logprobs, log_z,
    ALIGNED: tl.constexpr, OVERLAP: tl.constexpr, ALLOWED: tl.constexpr,
):  # fmt: skip
    """Finishes the rows that `settle` left: finds the boundary, draws, and computes logarithms (spec sections 6, 8 and
    9).

    Grid (rows).
    """
    wait_for_earlier(OVERLAP)
    row = tl.program_id(0).to(tl.int64)
    row_logits = logits_of_row(logits, row, row_stride, allowed, allowed_stride, ALIGNED, ALLOWED)
    list_token += row * pitch
    group_bound += row * stretches * groups_of_segment(quads)
    if read_field(records, row, STATUS) == PENDING:
        mode = read_field(records, row, MODE)
        scale, top_p = read_floats(records, row)
        top_k = read_field(records, row, TOP_K)
        min_weight = read_field(records, row, MIN_WEIGHT)
        top_key = read_field(records, row, TOP_KEY).to(tl.int32)
        total = read_sum(sums, row, TOTAL)
        measured = read_measured(records, sums, row, top_key)
        target = top_p_target(top_p, total)
        if is_cut_by_list(mode, target, measured, top_k, min_weight):
            finish_listed(
                row, row_logits, vocab, quads, stretch_tiles, stretches, want, records, list_token, group_bound, mode,
                scale, top_p, top_key, total, target, measured, token_ids, num_kept, status, logprobs, log_z,
            )  # fmt: skip
        else:
            finish_row(
                row, row_logits, vocab, quads, stretch_tiles, stretches, want, records, sums, list_token, group_bound,
                scratch_code + row * SCRATCH, mode, scale, top_p, top_k, min_weight, top_key, total, measured,
                token_ids, num_kept, status, logprobs, log_z,
            )  # fmt: skip
