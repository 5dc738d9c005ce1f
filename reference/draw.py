"""The draw: section 8 of the contract."""

from __future__ import annotations

import numpy as np

from .fixed_point import fixed_point
from .gumbel import gumbel, uniform, uniform_rows
from .kept import Kept
from .parameters import Parameters

__all__ = ["draw"]


def draw(kept: Kept, p: Parameters, vocab: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw a token of each row.

    Parameters
    ----------
    kept : Kept of R rows
    p : Parameters of the same rows
    vocab : int

    Returns
    -------
    token : int64 array [R]
    a : float32 array [R]
        The gap of the token.
    """
    score = _noise(kept, p, vocab) - fixed_point(kept.a)
    start = kept.start
    best = score == np.maximum.reduceat(score, start)[kept.row]
    token = np.minimum.reduceat(np.where(best, kept.token, vocab), start)
    return token, kept.a[kept.token == token[kept.row]]


def _noise(kept: Kept, p: Parameters, vocab: int) -> np.ndarray:
    if len(kept.row) * 4 > len(p.position) * vocab:
        s = uniform_rows(p.topp_seed, p.position, vocab)[kept.row, kept.token]
    else:
        s = uniform(p.topp_seed[kept.row], p.position[kept.row], kept.token)
    return gumbel(s)
