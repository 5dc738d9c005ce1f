"""A few tokens that hold the whole kept set, or the part of it around an unknown boundary, and the cut through them
(spec section 6).

They lie in a scratch list of at most `CAPACITY` codes, in any order. A code is a token's key and its id in one integer.
The greater code comes first, also among equal logits. Ranks and prefix sums come from comparing all pairs, so nothing
is sorted.
"""

import triton
import triton.language as tl

from detsample.kernels.contract.order import LAST_TOKEN, value_of
from detsample.kernels.contract.weight import gap, weight
from detsample.kernels.sampling.draw import NO_SCORE, best_of, exact_score

CAPACITY = tl.constexpr(256)
MOST_SELECTED = tl.constexpr(192)  # the most groups to gather from; their numbers stand behind the codes, as int16
SCRATCH = tl.constexpr(304)  # CAPACITY + MOST_SELECTED / 4: int64 words that a row's scratch list has
MOST_K = tl.constexpr(128)  # the largest top_k whose candidates are expected to fit
MOST_K_LISTED = tl.constexpr(1024)  # the largest top_k whose tokens are listed by the groups' maxima
LIST = tl.constexpr(2048)  # how many tokens around an unknown boundary a row's list holds
BATCH = tl.constexpr(8)  # how many candidates are compared with all others at a time: more is longer code
NO_CODE = tl.constexpr(-9223372036854775808)


@triton.jit
def code_of(key, token):
    """The codes of tokens, int64. The token that comes first in the order has the greatest code."""
    return (key.to(tl.int64) << 32) | (token ^ LAST_TOKEN).to(tl.int64)


@triton.jit
def key_of_code(code):
    """The key of the token with this code."""
    return (code >> 32).to(tl.int32)


@triton.jit
def token_of_code(code):
    """The id of the token with this code."""
    return (code & LAST_TOKEN).to(tl.int32) ^ LAST_TOKEN


@triton.jit
def append(scratch_code, filled, code, chosen):
    """Appends the chosen tokens of a block to the list. Their order in the list is not defined, and nothing relies on
    it. `filled` points at the list's length. It may exceed CAPACITY; what is beyond is not stored.
    """
    place = tl.atomic_add(filled + chosen.to(tl.int64) * 0, chosen.to(tl.int64), mask=chosen, sem="relaxed")
    tl.store(scratch_code + place, code, mask=chosen & (place < CAPACITY))


@triton.jit
def load_candidates(scratch_code, filled):
    """The codes in a scratch list, [CAPACITY], and NO_CODE behind the last."""
    place = tl.arange(0, CAPACITY)
    return tl.load(scratch_code + place, mask=place < filled, other=NO_CODE)


@triton.jit
def weight_of_key(key, scale, largest):
    """The weight of tokens with these keys (spec section 5)."""
    return weight(gap(value_of(key), largest, scale))


@triton.jit
def ranks(scratch_code, filled, code, scale, largest):
    """For each candidate, how many candidates come before it, and the weight of these."""
    rank = tl.zeros([CAPACITY, BATCH], tl.int32)
    before = tl.zeros([CAPACITY, BATCH], tl.int64)
    for start in range(0, filled, BATCH):
        place = start + tl.arange(0, BATCH)
        other = tl.load(scratch_code + place, mask=place < filled, other=NO_CODE)
        precedes = other[None, :] > code[:, None]
        rank += precedes.to(tl.int32)
        before += tl.where(precedes, weight_of_key(key_of_code(other), scale, largest)[None, :], 0)
    return tl.sum(rank, axis=1), tl.sum(before, axis=1)


@triton.jit
def last_kept(keep, rank, code, count):
    """(key, token) of the last of the kept candidates, of which there are `count`."""
    last = tl.sum(tl.where(keep & (rank == count - 1), code, 0), axis=0)
    return key_of_code(last), token_of_code(last)


@triton.jit
def draw_from_candidates(keep, code, scale, largest, seed, position):
    """The kept candidate with the largest score; of equal scores the lowest id (spec section 8)."""
    token = token_of_code(code)
    score = exact_score(gap(value_of(key_of_code(code)), largest, scale), seed, token, position)
    _, winner = best_of(tl.where(keep, score, NO_SCORE), tl.where(keep, token, LAST_TOKEN))
    return winner
