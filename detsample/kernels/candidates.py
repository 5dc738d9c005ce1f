"""A few tokens that hold the whole kept set, or the part of it that is in doubt, and the cut through them (spec
section 6).

They lie in a scratch list of at most `CAPACITY` (key, token) pairs in any order. Ranks and prefix sums come
from comparing all pairs: no sort, and equal logits need no special case since a token id breaks every tie.
"""

import triton
import triton.language as tl

from detsample.kernels.fraction import ceil_product
from detsample.kernels.lanes import NO_SCORE, best_of, exact_score
from detsample.kernels.order import MINUS_INF_KEY, value_of, within
from detsample.kernels.weight import scaled_logit, weight

CAPACITY = tl.constexpr(512)
BATCH = tl.constexpr(8)  # candidates compared with all others at a time
EVERYTHING = tl.constexpr(1 << 62)  # a target that no sum of weights or count reaches


@triton.jit
def append(scratch_key, scratch_token, filled, key, token, chosen):
    """Appends the chosen tokens of a flat block to the list; gives the new length, which may exceed CAPACITY
    (the rest is not stored).
    """
    place = filled + tl.cumsum(chosen.to(tl.int32), axis=0) - 1
    fits = chosen & (place < CAPACITY)
    tl.store(scratch_key + place, key, mask=fits)
    tl.store(scratch_token + place, token, mask=fits)
    return filled + tl.sum(chosen.to(tl.int32), axis=0)


@triton.jit
def load_candidates(scratch_key, scratch_token, index, filled):
    key = tl.load(scratch_key + index, mask=index < filled, other=MINUS_INF_KEY)
    token = tl.load(scratch_token + index, mask=index < filled, other=0)
    return key, token


@triton.jit
def weight_of_key(key, scale, largest):
    return weight(largest - scaled_logit(value_of(key), scale))


@triton.jit
def ranks(scratch_key, scratch_token, filled, key, token, scale, largest):
    """For each candidate: how many candidates come before it, and their weight."""
    rank = tl.zeros([CAPACITY], tl.int32)
    before = tl.zeros([CAPACITY], tl.int64)
    for start in range(0, filled, BATCH):
        other_key, other_token = load_candidates(scratch_key, scratch_token, start + tl.arange(0, BATCH), filled)
        other_weight = weight_of_key(other_key, scale, largest)
        precedes = within(other_key[None, :], other_token[None, :], key[:, None], token[:, None])
        itself = (other_key[None, :] == key[:, None]) & (other_token[None, :] == token[:, None])
        precedes = precedes & (itself == 0) & (start + tl.arange(0, BATCH) < filled)[None, :]
        rank += tl.sum(precedes.to(tl.int32), axis=1)
        before += tl.sum(tl.where(precedes, other_weight[None, :], 0), axis=1)
    return rank, before


@triton.jit
def top_p_target(top_p, total):
    """The weight that a prefix must reach: 1 where only the first token is wanted, beyond reach where top-p is off."""
    inside = (top_p > 0.0) & (top_p < 1.0)
    product = ceil_product(tl.where(inside, top_p, 0.5), total)
    return tl.where(inside, product, tl.where(top_p >= 1.0, tl.full([], EVERYTHING, tl.int64), 1))


@triton.jit
def last_kept(keep, rank, key, token, count):
    """(key, token) of the candidate with the highest rank among the kept ones, which are `count`."""
    last = keep & (rank == count - 1)
    return tl.sum(tl.where(last, key, 0), axis=0), tl.sum(tl.where(last, token, 0), axis=0)


@triton.jit
def draw_from_candidates(keep, key, token, scale, seed, position):
    score = exact_score(value_of(key) * scale, seed, token, position)
    _, winner = best_of(tl.where(keep, score, NO_SCORE), tl.where(keep, token, 0x7FFFFFFF))
    return winner
