"""Splits long computations into pieces. No result depends on this, because elements, and rows, are computed
independently.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import DTypeLike

__all__ = ["by_pieces", "pieces", "row_blocks"]

_PIECE = 1 << 13
"""Elements in a piece. Temporaries of 64 KiB stay in the cache, and their memory is not returned to the system in
between.
"""


_BLOCK = 1 << 18
"""Logits in a block of rows. It limits the memory and keeps temporaries in the cache."""


def row_blocks(rows: int, vocab: int) -> Iterator[slice]:
    """Slices that cover ``rows`` rows, of some whole rows each.

    Examples
    --------
    >>> list(row_blocks(3, 1 << 17))
    [slice(0, 2, None), slice(2, 3, None)]
    """
    step = max(1, _BLOCK // vocab)
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def pieces(size: int) -> Iterator[slice]:
    """Slices that cover ``0 .. size``.

    Examples
    --------
    >>> [piece.stop for piece in pieces(10_000)]
    [8192, 16384]
    """
    return (slice(start, start + _PIECE) for start in range(0, size, _PIECE))


def by_pieces(function: Callable[..., np.ndarray], dtype: DTypeLike, *arrays: np.ndarray) -> np.ndarray:
    """Apply an elementwise function to arrays of one shape, piece by piece.

    Parameters
    ----------
    function : callable
        A function from one-dimensional arrays to an array of ``dtype``.
    dtype : NumPy dtype
    arrays : arrays of one shape

    Examples
    --------
    >>> by_pieces(np.add, np.int64, np.arange(3), np.arange(3)).tolist()
    [0, 2, 4]
    """
    result = np.empty(arrays[0].shape, dtype)
    flat, flats = result.reshape(-1), [array.reshape(-1) for array in arrays]
    for piece in pieces(flat.size):
        flat[piece] = function(*(array[piece] for array in flats))
    return result
