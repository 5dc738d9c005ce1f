"""The first tokens of a row whose vocabulary is cut into shards, from the first tokens of each shard."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .order import key_values
from .temperature import gaps
from .weight import weight

__all__ = ["AFTER_ALL", "Heads", "first_keys", "merge"]

AFTER_ALL = np.int64(0x7FFFFFFFFFFFFFFF)
"""An order key behind that of every token."""
_EXCLUDED = np.int64(0x7F800000 << 32)
"""Order keys from here on are of tokens with a logit of -inf."""


def first_keys(keys: np.ndarray, count: int) -> np.ndarray:
    """The first ``count`` order keys of each row in order, int64 [R, count]; ``AFTER_ALL`` where there are fewer.

    Examples
    --------
    >>> first_keys(np.int64([[5, 3, 4]]), 2).tolist(), bool(first_keys(np.int64([[5]]), 2)[0, 1] == AFTER_ALL)
    ([[3, 4]], True)
    """
    found = np.full((len(keys), count), AFTER_ALL)
    some = min(count, keys.shape[1])
    if some:
        found[:, :some] = np.sort(np.partition(keys, some - 1, axis=1)[:, :some], axis=1)
    return np.where(found < _EXCLUDED, found, AFTER_ALL)


@dataclass(frozen=True)
class Heads:
    """What is known of R rows from the first tokens of their shards."""

    keys: np.ndarray
    """int64 [R, C]: order keys in order; ``AFTER_ALL`` behind the last one that is known to be in its place."""
    known: np.ndarray
    """int64 [R]: how many are known to be in their place."""
    a: np.ndarray
    """float32 [R, C]: gaps; +inf behind the last."""
    sums: np.ndarray
    """int64 [R, C]: the sums of the weights of the first 1, 2, ... tokens."""

    @property
    def largest(self) -> np.ndarray:
        """M, float32 [R]."""
        return key_values(self.keys[:, 0])


def merge(gathered: np.ndarray, temperature: np.ndarray) -> Heads:
    """Put the first tokens of the shards together.

    Parameters
    ----------
    gathered : int64 array [shards, R, count]
        What ``first_keys`` returned for each shard.
    temperature : float32 array [R]

    Examples
    --------
    Of the second shard only one token is known, so what comes behind it may be of that shard.

    >>> merge(np.int64([[[1, 5]], [[2, 3]]]), np.float32([1])).known.tolist()
    [3]
    """
    keys = np.sort(np.concatenate(list(gathered), axis=1), axis=1)
    # Behind the last head of a shard that may have more tokens, nothing is sure.
    keys[keys > gathered[:, :, -1].min(axis=0)[:, None]] = AFTER_ALL
    known = keys < AFTER_ALL
    with np.errstate(invalid="ignore"):
        x = np.where(known, key_values(keys), -np.float32(np.inf))
    a = gaps(x, x[:, 0], temperature)
    return Heads(keys, known.sum(axis=1), a, np.cumsum(weight(a), axis=1))
