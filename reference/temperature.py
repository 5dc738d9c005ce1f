"""Temperature: steps 4 and 5 of section 4 of ``docs/spec.md``."""

from __future__ import annotations

import numpy as np

__all__ = ["FLT_MAX", "gaps", "scaled"]

FLT_MAX = np.finfo(np.float32).max


def scaled(x: np.ndarray, temperature: np.ndarray) -> np.ndarray:
    """``z``: logits over temperature, saturated.

    Parameters
    ----------
    x : float32 array [R, C]
        -inf becomes -FLT_MAX: who calls keeps excluded tokens apart.
    temperature : float32 array [R], above 0

    Returns
    -------
    float32 array [R, C]

    Examples
    --------
    >>> scaled(np.float32([[3, -1]]), np.float32([0.5])).tolist()
    [[6.0, -2.0]]
    """
    with np.errstate(over="ignore", under="ignore"):
        r = np.minimum(np.float32(1) / temperature, FLT_MAX)
        z = x * r[:, None]
    np.minimum(z, FLT_MAX, out=z)
    return np.maximum(z, -FLT_MAX, out=z)


def gaps(z: np.ndarray, m: np.ndarray) -> np.ndarray:
    """``a = fp32(m - z)``, at least 0 and possibly +inf: how far tokens are below the largest.

    Parameters
    ----------
    z : float32 array [R, C]
    m : float32 array [R]
    """
    with np.errstate(over="ignore", under="ignore"):
        return m[:, None] - z
