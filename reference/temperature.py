"""Gaps: how far tokens are below the largest, over the temperature. Section 4 of the contract, steps 4 and 5."""

from __future__ import annotations

import numpy as np

__all__ = ["FLT_MAX", "gaps"]

FLT_MAX = np.finfo(np.float32).max


def gaps(x: np.ndarray, largest: np.ndarray, temperature: np.ndarray | None = None) -> np.ndarray:
    """``a = fp32(fp32(M - x) * r)``, at least 0 and possibly +inf, as it is for excluded tokens.

    Parameters
    ----------
    x : float32 array [R, C]
        No larger than ``largest``; -inf allowed.
    largest : float32 array [R], finite
        M.
    temperature : float32 array [R], above 0; None stands for 1

    Returns
    -------
    float32 array [R, C]

    Examples
    --------
    >>> gaps(np.float32([[3, -1, -np.inf]]), np.float32([3]), np.float32([0.5])).tolist()
    [[0.0, 8.0, inf]]
    """
    with np.errstate(over="ignore", under="ignore"):
        a = largest[:, None] - x
        if temperature is not None:
            a *= _inverse(temperature)[:, None]
    return a


def _inverse(temperature: np.ndarray) -> np.ndarray:
    """``r = min(fp32(1 / temperature), FLT_MAX)``, always above 0."""
    return np.minimum(np.float32(1) / temperature, FLT_MAX)
