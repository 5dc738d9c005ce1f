"""Top-k, top-p and min-p: section 6 of ``docs/contract/spec.md``.

Each filter keeps a prefix of the order, so each function here returns the length of a prefix.
"""

from __future__ import annotations

import numpy as np

from .parameters import Parameters
from .weight import ONE

__all__ = ["min_p_weight", "prefix_length", "top_k_length", "top_k_on", "top_p_mass"]


def top_k_on(top_k: np.ndarray, vocab: int) -> np.ndarray:
    """Whether top-k is on: ``1 <= top_k < V``."""
    return (top_k >= 1) & (top_k < vocab)


def top_k_length(top_k: np.ndarray, vocab: int, tokens: np.ndarray) -> np.ndarray:
    """The number of survivors of top-k, int64 [R].

    Parameters
    ----------
    top_k : int64 array [R]
    vocab : int
        V.
    tokens : int64 array [R]
        How many tokens the row has, excluded ones not counted.
    """
    return np.where(top_k_on(top_k, vocab), np.minimum(top_k, tokens), tokens)


def top_p_mass(top_p: np.ndarray, mass: np.ndarray) -> np.ndarray:
    """``T = ceil(top_p * S)``, exactly, int64.

    Parameters
    ----------
    top_p : float32 array [R], within 0 < top_p < 1
    mass : int64 array [R]
        S, within 1 .. 2^61.

    Examples
    --------
    >>> top_p_mass(np.float32([0.5, 0.5, 1e-45]), np.int64([3, 4, 2**61])).tolist()
    [2, 2, 1]
    """
    bits = top_p.view(np.uint32)
    exponent, fraction = bits >> np.uint32(23), bits & np.uint32(0x7FFFFF)
    m = np.where(exponent > 0, fraction | np.uint32(1 << 23), fraction).astype(np.uint64)
    s = 150 - np.maximum(exponent, np.uint32(1)).astype(np.int64)  # top_p = m * 2^-s, and s >= 24
    # m * S has up to 85 bits, so it is held as two words: the low 32 bits, and the rest.
    low, word = m * (mass.view(np.uint64) & np.uint64(0xFFFFFFFF)), np.uint64(32)
    high = m * (mass.view(np.uint64) >> word) + (low >> word)
    low &= np.uint64(0xFFFFFFFF)
    # Rounding up in two steps gives the same as in one. The first divides by 2^24, which leaves at most 2^61, the
    # second by the rest.
    by24 = (high << np.uint64(8)) + (low >> np.uint64(24)) + ((low & np.uint64(0xFFFFFF)) > 0)
    rest = np.minimum(s - 24, 62).view(np.uint64)
    return (by24 + (np.uint64(1) << rest) - np.uint64(1) >> rest).view(np.int64)


def min_p_weight(min_p: np.ndarray) -> np.ndarray:
    """The weight that min-p asks for, ``min(ceil(min_p * 2^40), 2^40)``; 0 where it is off. int64.

    Examples
    --------
    >>> min_p_weight(np.float32([0, 0.5, 7, 1e-45])).tolist() == [0, 2**39, 2**40, 1]
    True
    """
    # A float32 times a power of two is exact in float64.
    product = np.ceil(np.clip(min_p.astype(np.float64), 0, 1) * ONE)
    return np.maximum(product, 0).astype(np.int64)


def prefix_length(
    w: np.ndarray, survivors: np.ndarray, p: Parameters, total: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The number of kept tokens: the shortest of the three prefixes.

    Parameters
    ----------
    w : int64 array [R, C]
        Weights in order.
    survivors : int64 array [R]
        The number of survivors of top-k, within 1 .. C.
    p : Parameters of R rows
    total : int64 array [R]
        The sum of all tokens' weights, for the order ``"joint"``.

    Returns
    -------
    num_kept, mass : int64 arrays [R]
        The number of kept tokens and the sum of their weights.
    """
    rows = np.arange(len(w))
    sums = np.cumsum(w, axis=1)
    off, first = p.top_p >= 1, p.top_p <= 0
    # Weights never rise in order. What comes after the survivors does not matter, because the shortest prefix is taken.
    num_kept = np.minimum(survivors, (w >= min_p_weight(p.min_p)[:, None]).sum(axis=1))
    if p.filter_order != "joint":
        total = sums[rows, (num_kept if p.filter_order == "min_p_first" else survivors) - 1]
    assert total is not None
    target = top_p_mass(np.where(off | first, np.float32(0.5), p.top_p), total)
    by_mass = (sums < target[:, None]).sum(axis=1) + 1
    num_kept = np.where(off, num_kept, np.minimum(num_kept, np.where(first, 1, by_mass)))
    return num_kept, sums[rows, num_kept - 1]
