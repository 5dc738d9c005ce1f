"""Products of 64-bit integers, exactly, as two words: section 17 of ``docs/contract/verification.md``."""

from __future__ import annotations

import numpy as np

from .logarithm import floor_log2, logq, split

__all__ = ["Wide", "at_least", "ln_wide", "minus", "product"]

Wide = tuple[np.ndarray, np.ndarray]
"""The high and the low 64 bits of integers below 2^128, uint64 each."""

_HALF, _LOW, _ONE = np.uint64(32), np.uint64(0xFFFFFFFF), np.uint64(1)


def product(a: np.ndarray, b: np.ndarray) -> Wide:
    """The product of two uint64 arrays of shapes that broadcast.

    Examples
    --------
    >>> high, low = product(np.uint64([2**64 - 1]), np.uint64([2**64 - 1]))
    >>> (int(high[0]) << 64 | int(low[0])) == (2**64 - 1) ** 2
    True
    """
    a0, a1, b0, b1 = a & _LOW, a >> _HALF, b & _LOW, b >> _HALF
    lowest, cross = a0 * b0, a1 * b0
    middle = a0 * b1 + (lowest >> _HALF)  # (2^32 - 1)^2 + 2^32 - 1 is below 2^64
    middle_low = (middle & _LOW) + (cross & _LOW)
    high = a1 * b1 + (middle >> _HALF) + (cross >> _HALF) + (middle_low >> _HALF)
    return high, middle_low << _HALF | lowest & _LOW


def at_least(a: Wide, b: Wide) -> np.ndarray:
    """Whether ``a >= b``, bool."""
    return (a[0] > b[0]) | ((a[0] == b[0]) & (a[1] >= b[1]))


def minus(a: Wide, b: Wide) -> Wide:
    """``a - b`` where ``a >= b``; elsewhere modulo 2^128."""
    return a[0] - b[0] - (a[1] < b[1]), a[1] - b[1]


def ln_wide(a: Wide) -> np.ndarray:
    """``LNW``: the logarithm of positive integers below 2^127, int64 in units of 2^-32. It depends on their leading 64
    bits only.

    Examples
    --------
    >>> ln_wide((np.uint64([1]), np.uint64([0]))).tolist() == [round(64 * np.log(2) * 2**32)]
    True
    """
    high, low = a
    large = high > 0
    e = np.where(large, floor_log2(np.where(large, high, _ONE)) + 1, 0)  # bits to drop
    up = np.where(large, 64 - e, 0).view(np.uint64)
    n = np.where(large, high << (up & np.uint64(63)) | low >> (e.view(np.uint64) & np.uint64(63)), low)
    exponent, r = split(n)
    return logq(exponent + e, r)
