"""Scores and logarithms in units of 2^-32, int64: sections 7 to 9 of the contract."""

from __future__ import annotations

import numpy as np

__all__ = ["fixed_point", "from_units"]

_LIMIT = np.float32(2.0**30)
_UNITS = np.float32(2.0**32)


def fixed_point(a: np.ndarray) -> np.ndarray:
    """``Z(a) = trunc(min(a, 2^30) * 2^32)``: int64 of float32 gaps.

    Examples
    --------
    >>> fixed_point(np.float32([1, np.inf, 1e-40])).tolist() == [2**32, 2**62, 0]
    True
    """
    return (np.minimum(a, _LIMIT) * _UNITS).astype(np.int64)  # a power of two: the product is exact


def from_units(units: np.ndarray) -> np.ndarray:
    """The float32 number nearest to an integer number of units.

    Examples
    --------
    >>> from_units(np.int64([2**32, -1])).tolist() == [1.0, -(2.0**-32)]
    True
    """
    return units.astype(np.float32) * np.float32(2.0**-32)
