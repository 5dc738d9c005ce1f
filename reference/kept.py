"""The kept set of rows: sections 4 to 6 of ``docs/contract/spec.md`` put together.

Rows are treated in three ways, by what their filters need; a row's result does not depend on which, because
each computes the same integers:

- *few*: top-k is on and small. The first tokens are looked for, and only they are put in order.
- *ordered*: another filter that needs the order. All tokens are sorted.
- *unordered*: neither top-k nor top-p is on. Whether a token is kept depends on its own weight.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .filters import min_p_weight, prefix_length, top_k_length, top_k_on
from .order import all_in_order, few, first_in_order, key_ids, key_values
from .parameters import Parameters
from .temperature import gaps
from .weight import weight

__all__ = ["FEW", "GREEDY", "ORDERED", "UNORDERED", "Kept", "kept_set", "ways"]

GREEDY, FEW, ORDERED, UNORDERED = range(4)


@dataclass(frozen=True)
class Kept:
    """The kept tokens of R rows: N in all, row after row, in each row in any order."""

    num_kept: np.ndarray
    """int64 [R], each at least 1."""
    row: np.ndarray
    """int64 [N]: 0 .. R - 1, ascending."""
    token: np.ndarray
    """int64 [N]."""
    a: np.ndarray
    """float32 [N]: gaps."""
    mass: np.ndarray | None
    """int64 [R]: the sum of the kept tokens' weights, where asked for."""
    total: np.ndarray | None
    """int64 [R]: the sum of all tokens' weights, where asked for."""

    @property
    def start(self) -> np.ndarray:
        """int64 [R]: where each row begins among the N."""
        return np.cumsum(self.num_kept) - self.num_kept


def ways(p: Parameters, vocab: int) -> np.ndarray:
    """How to treat each row: an array [R] of the four constants above."""
    by_k = top_k_on(p.top_k, vocab)
    way = np.where(by_k & few(p.top_k, vocab), FEW, np.where(by_k | (p.top_p < 1), ORDERED, UNORDERED))
    return np.where(p.temperature == 0, GREEDY, way)


def kept_set(way: int, x: np.ndarray, p: Parameters, want_mass: bool, want_total: bool) -> Kept:
    """The kept sets of valid rows that are not greedy and that are all treated in one way.

    Parameters
    ----------
    way : FEW, ORDERED or UNORDERED
    x : float32 array [R, V]
        Logits, with +0 for -0.
    p : Parameters of R rows
    want_mass, want_total : bool
        Whether the sums of weights are needed that filters may do without.
    """
    if way == UNORDERED:
        return _unordered(x, p, want_mass or want_total)
    if way == ORDERED:
        return _ordered(all_in_order(x), x.shape[1], p)
    keys = first_in_order(x, int(p.top_k.max()))
    total = None
    if want_total or (p.filter_order == "joint" and (p.top_p < 1).any()):
        total = weight(gaps(x, key_values(keys[:, 0]), p.temperature)).sum(axis=1)
    return _ordered(keys, x.shape[1], p, total)


def _ordered(keys: np.ndarray, vocab: int, p: Parameters, total: np.ndarray | None = None) -> Kept:
    """The kept set of rows whose tokens are given in order: all, or the first ones and the weight of all."""
    x = key_values(keys)
    tokens = (x > -np.inf).sum(axis=1)
    a = gaps(x, x[:, 0], p.temperature)
    w = weight(a)
    total = w.sum(axis=1) if total is None else total
    num_kept, mass = prefix_length(w, top_k_length(p.top_k, vocab, tokens), p, total)
    row, column = np.nonzero(np.arange(keys.shape[1]) < num_kept[:, None])
    return Kept(num_kept, row, key_ids(keys[row, column]), a[row, column], mass, total)


def _unordered(x: np.ndarray, p: Parameters, want_sums: bool) -> Kept:
    """The kept set of rows without top-k and top-p."""
    a = gaps(x, x.max(axis=1), p.temperature)
    kept, mass, total = x > -np.inf, None, None
    if want_sums or (p.min_p > 0).any():
        w = weight(a)
        kept &= w >= min_p_weight(p.min_p)[:, None]
        mass, total = np.where(kept, w, 0).sum(axis=1), w.sum(axis=1)
    row, token = np.nonzero(kept)
    return Kept(kept.sum(axis=1), row, token, a[kept], mass, total)
