"""The last token of a prefix of a sharded row's order, found by narrowing the sort key of its logit, some bits a
round."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np

__all__ = ["BITS", "Prefix", "Rounds", "search"]

BITS = (11, 11, 10)
"""How many bits of the 32 of a sort key each round decides."""

Rounds = Generator[np.ndarray, np.ndarray, "Prefix"]
"""Yields a message, int64 [R, F], is sent those of all shards, [shards, R, F], and returns."""


@dataclass(frozen=True)
class Prefix:
    """A prefix of the order of each of R rows."""

    count: np.ndarray
    """int64 [R]: how many tokens it has."""
    mass: np.ndarray
    """int64 [R]: the sum of their weights."""
    last: np.ndarray
    """int64 [R]: an order key. The prefix has those tokens of this shard whose order key is at most this."""

    def where(self, chosen: np.ndarray, other: Prefix) -> Prefix:
        """This prefix in the rows ``chosen`` (bool [R]), the other one elsewhere."""
        return Prefix(
            np.where(chosen, self.count, other.count), np.where(chosen, self.mass, other.mass),
            np.where(chosen, self.last, other.last),
        )  # fmt: skip


def search(
    rank: int, keys: np.ndarray, w: np.ndarray, drawable: np.ndarray, goal: np.ndarray, by_weight: bool
) -> Rounds:
    """Find the shortest prefix that reaches a goal.

    Parameters
    ----------
    rank : int
        Which shard this is.
    keys, w : int64 arrays [R, C]
        The shard's order keys and weights.
    drawable : bool array [R, C]
        Which of its tokens are not excluded.
    goal : int64 array [R]
        At least 1, and reached by all tokens of the row together; rows with a goal of 0 are left alone, and what is
        returned of them means nothing.
    by_weight : bool
        Whether the goal is a sum of weights, or a number of tokens.
    """
    rows = np.arange(len(keys))
    sort_key = (keys >> 32) + (1 << 31)  # 0 .. 2^32 - 1
    looked_at = drawable & (goal > 0)[:, None]
    low, before = np.zeros(len(keys), np.int64), np.zeros((2, len(keys)), np.int64)
    shift = 32
    for bits in BITS:
        shift -= bits
        inside = looked_at & (sort_key >> (shift + bits) == low[:, None])
        digit = np.where(inside, sort_key >> shift & (1 << bits) - 1, 0)
        sums = [_histogram(digit, np.where(inside, each, 0), bits) for each in (np.ones_like(w), w)]
        found = (yield np.concatenate(sums, axis=1)).reshape(-1, len(keys), 2, 1 << bits)
        whole = found.sum(axis=0)
        reached = before[int(by_weight)][:, None] + np.cumsum(whole[:, int(by_weight)], axis=1)
        step = np.minimum((reached < goal[:, None]).sum(axis=1), (1 << bits) - 1)
        low = low << bits | step
        before += np.where(np.arange(1 << bits) < step[:, None, None], whole, 0).sum(axis=2).T
    # What is left are tokens with one and the same logit, which have the same weight. Those of lower shards come first.
    ties, weight = whole[rows, :, step].T
    each = weight // np.maximum(ties, 1)
    lacking = goal - before[int(by_weight)]
    taken = -(-lacking // np.maximum(each, 1)) if by_weight else lacking
    of_shard = found[:, rows, 0, step]
    mine = np.clip(taken - of_shard[:rank].sum(axis=0), 0, of_shard[rank])
    tied = looked_at & (sort_key == low[:, None])
    last = np.where(tied & (np.cumsum(tied, axis=1) <= mine[:, None]), keys, (low - (1 << 31) << 32)[:, None] - 1)
    return Prefix(before[0] + taken, before[1] + taken * each, last.max(axis=1, initial=np.iinfo(np.int64).min))


def _histogram(digit: np.ndarray, values: np.ndarray, bits: int) -> np.ndarray:
    """Sums of values for each row and digit, int64 [R, 2^bits], exactly: ``bincount`` adds up in float64."""
    rows = len(digit)
    place = (digit + (np.arange(rows) << bits)[:, None]).reshape(-1)
    halves = ((values >> shift & (1 << 21) - 1).reshape(-1) for shift in (0, 21))
    low, high = (np.bincount(place, half, rows << bits).astype(np.int64) for half in halves)
    return (low + (high << 21)).reshape(rows, 1 << bits)
