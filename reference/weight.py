"""Weights: the integers that stand for ``2^40 exp(-a)``, section 5 of ``docs/contract/spec.md``."""

from __future__ import annotations

import numpy as np

from .chunks import by_pieces

__all__ = ["LARGEST_GAP", "ONE", "weight"]

ONE = 1 << 40
"""The weight of a most probable token."""

LARGEST_GAP = np.uint32(0x41FFFFFF).view(np.float32)
"""The float32 just below 32. All larger gaps have the same weight as this one."""
_LOG2E = np.uint64(0xB8AA3B29)
"""log2(e) in units of 2^-31."""
_C = np.array(
    [0x3F3504F3, 0xBEFAF234, 0x3E2DF14A, 0xBD20C133, 0x3BDEDD6E, 0xBA7862DF, 0x38E3908B], np.uint32
).view(np.float32)  # fmt: skip


def weight(a: np.ndarray) -> np.ndarray:
    """``W(a)``.

    Parameters
    ----------
    a : float32 array, at least 0, +inf allowed

    Returns
    -------
    int64 array of the same shape, within 0 .. 2^40

    Examples
    --------
    >>> [round(w / 2**40, 6) for w in weight(np.float32([0, 1, np.inf])).tolist()]
    [1.0, 0.367879, 0.0]
    """
    return by_pieces(_weight, np.int64, a)


def _weight(a: np.ndarray) -> np.ndarray:
    d = (np.minimum(a, LARGEST_GAP) * np.float32(1 << 27)).astype(np.int64).view(np.uint64)
    y = d * _LOG2E >> np.uint64(35)  # a * log2(e) in units of 2^-23, below 2^29
    n, b = (y >> np.uint64(23)).view(np.int64), y.astype(np.uint32) & np.uint32(0x7FFFFF)
    p = power(b).astype(np.int64)
    p <<= 17
    p >>= n
    p += 1
    p >>= 1
    return p


def power(b: np.ndarray) -> np.ndarray:
    """``P``: ``2^24 * 2^-(b / 2^23)`` nearly, for a fraction b of 23 bits.

    Parameters
    ----------
    b : uint32 array, below 2^23

    Returns
    -------
    int32 array, within 2^23 .. 2^24
    """
    t = (b | np.uint32(0x3F800000)).view(np.float32) - np.float32(1.5)
    h = np.full_like(t, _C[6])
    for c in _C[5::-1]:
        h *= t
        h += c
    return h.view(np.int32) - np.int32(0x3E800000)
