"""The draw (spec section 8): the largest exact score of the kept set, found through bounds of groups."""

import triton
import triton.language as tl

from detsample.kernels.contract.fixed_point import fixed_point
from detsample.kernels.contract.gumbel import token_gumbel
from detsample.kernels.contract.order import LAST_TOKEN, key_of, within
from detsample.kernels.contract.weight import gap
from detsample.kernels.sampling.score_bounds import may_beat
from detsample.kernels.sampling.tiles import (
    MOST_GROUPS,
    load_tokens,
    token_of_group,
)

NO_SCORE = tl.constexpr(-9223372036854775808)
MEMBERS = tl.constexpr(256)  # how many tokens of a group are scored at a time
MOST_DRAWS = tl.constexpr(16)  # how many groups are evaluated one by one before the kept set alone gets bounds


@triton.jit
def exact_score(a, seed, token, position):
    """The scores of tokens with the gaps `a`, as int64 in units of 2^-32: noise minus gap (spec section 8)."""
    return token_gumbel(seed, token, position) - fixed_point(a)


@triton.jit
def best_of(score, token):
    """The largest score, and the lowest token id among those that have it."""
    top = tl.max(score, axis=0)
    return top, tl.min(tl.where(score == top, token, LAST_TOKEN), axis=0)


@triton.jit
def better_of(score, token, other_score, other_token):
    """The better of two pairs (score, token): the larger score, or the lower id if the scores are equal."""
    other = (other_score > score) | ((other_score == score) & (other_token < token))
    return tl.where(other, other_score, score), tl.where(other, other_token, token)


@triton.jit
def score_group(
    row_logits, vocab, quads, stretch_tiles, group, scale, largest, seed, position, boundary_key, boundary_token
):  # fmt: skip
    """(score, token) of the best kept token of one group, from exact scores."""
    best = tl.full([], NO_SCORE, tl.int64)
    winner = tl.full([], LAST_TOKEN, tl.int32)
    size = 4 * quads * stretch_tiles
    for start in range(0, size, MEMBERS):
        member = start + tl.arange(0, MEMBERS)
        token = token_of_group(group, member, quads, stretch_tiles)
        valid = (member < size) & (token < vocab)
        x = load_tokens(row_logits, token, valid)
        kept = (x > float("-inf")) & within(key_of(x), token, boundary_key, boundary_token)
        score = tl.where(kept, exact_score(gap(x, largest, scale), seed, token, position), NO_SCORE)
        top, at = best_of(score, token)
        best, winner = better_of(best, winner, top, at)
    return best, winner


@triton.jit
def draw_from_groups(
    row_logits, vocab, quads, stretch_tiles, groups, group_bound, shift, scale, largest, seed, position,
    boundary_key, boundary_token, most_groups,
):  # fmt: skip
    """Draws from the kept set through the bounds of groups, and returns (token, decided).

    Groups are evaluated exactly, in falling order of their bounds, until no group is left that may hold the winner. If
    `most_groups` evaluations are not enough, `decided` is false and the token means nothing.

    `group_bound` points at the row's bounds, which may be of more tokens than the kept set. `shift` says from where
    they are measured: see `score_bounds`.
    """
    index = tl.arange(0, MOST_GROUPS)
    bounds = tl.load(group_bound + index, mask=index < groups, other=float("-inf"))
    best = tl.full([], NO_SCORE, tl.int64)
    winner = tl.full([], LAST_TOKEN, tl.int32)
    top = tl.max(bounds, axis=0)
    evaluated = 0
    while may_beat(top, best, shift) & (evaluated < most_groups):
        group = tl.min(tl.where(bounds == top, index, MOST_GROUPS), axis=0)
        score, token = score_group(
            row_logits, vocab, quads, stretch_tiles, group, scale, largest, seed, position, boundary_key, boundary_token
        )
        best, winner = better_of(best, winner, score, token)
        bounds = tl.where(index == group, float("-inf"), bounds)
        top = tl.max(bounds, axis=0)
        evaluated += 1
    return winner, may_beat(top, best, shift) == 0
