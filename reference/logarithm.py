"""The logarithm of integers, in fixed point: section 7 of ``docs/contract/spec.md``."""

from __future__ import annotations

import numpy as np

__all__ = ["horner", "ln_mass", "logq", "split"]

_Q = (
    2147483648, -1073741831, 715827829, -536869550, 429500373, -357993763,
    306742235, -266521740, 237140951, -234035186, 228418008, -125534836,
)  # fmt: skip
_LN2 = 195103586505167
"""ln 2 in units of 2^-48."""
_SQRT2 = 3037000499
"""floor(2^31 sqrt(2)): mantissas above belong to the next exponent."""


def horner(coefficients: tuple[int, ...], f: np.ndarray) -> np.ndarray:
    """``acc = ((acc * f) >> 31) + c`` from the last coefficient to the first; int64."""
    acc = np.full_like(f, coefficients[-1])
    for c in coefficients[-2::-1]:
        acc *= f
        acc >>= 31
        acc += c
    return acc


def floor_log2(n: np.ndarray) -> np.ndarray:
    """Floor(log2 n) of a uint64 array of positive integers, as int64."""
    # Clearing every bit below a set one keeps the conversion to float64 from rounding up to the next power.
    leading = (n & ~(n >> np.uint64(1))).astype(np.float64)
    return (leading.view(np.int64) >> 52) - 1023


def split(n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``SPLIT(N) = (e, r)``, with ``ln N = e ln 2 + r / 2^32`` nearly (section 7).

    Parameters
    ----------
    n : uint64 array, at least 1

    Returns
    -------
    e, r : int64 arrays; r in units of 2^-32

    Examples
    --------
    >>> e, r = split(np.uint64([1, 3]))
    >>> [round(float(v), 9) for v in e * np.log(2) + r / 2**32], round(float(np.log(3)), 9)
    ([0.0, 1.098612289], 1.098612289)
    """
    e = floor_log2(n)
    t = (n << (63 - e).view(np.uint64) >> np.uint64(32)).view(np.int64)
    upper = t > _SQRT2
    e += upper
    f = (t >> upper) - (1 << 31)
    r = horner(_Q, f)
    r *= f
    r >>= 30
    return e, r


def logq(e: np.ndarray, r: np.ndarray) -> np.ndarray:
    """``LOGQ(e, r)``: the logarithm in units of 2^-32, int64 (section 7)."""
    return ((e * _LN2) >> 16) + r


def ln_mass(mass: np.ndarray) -> np.ndarray:
    """``LN(N)``: the logarithm of a sum of weights, the weight 2^40 counting as 1 (section 9).

    Parameters
    ----------
    mass : int64 array, at least 1

    Returns
    -------
    int64 array, in units of 2^-32

    Examples
    --------
    >>> ln_mass(np.int64([1 << 40])).tolist()
    [0]
    """
    e, r = split(mass.view(np.uint64))
    return logq(e - 40, r)
