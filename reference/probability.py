"""Logits of probabilities, for engines that hand over a softmax: see docs/fastdeploy.md."""

from __future__ import annotations

import numpy as np

from .fixed_point import from_units
from .logarithm import logq, split

__all__ = ["log_probabilities"]


def log_probabilities(p: np.ndarray) -> np.ndarray:
    """``L(p)``: the logarithm in fixed point (spec section 7), rounded to fp32 once.

    Parameters
    ----------
    p : float32 array

    Returns
    -------
    float32 array
        ``p = M 2^e`` with an integer ``1 <= M < 2^24`` has ``L(p) = fp32(LOGQ(k + e, r)) 2^-32`` where ``(k, r) =
        SPLIT(M)``. ``-inf`` where p is 0; NaN where it is negative or NaN; ``+inf`` where it is.

    Examples
    --------
    >>> log_probabilities(np.float32([1.0, 0.5, 0.0, -1.0]))
    array([ 0.       , -0.6931472,       -inf,        nan], dtype=float32)
    """
    p = np.asarray(p, np.float32)
    bits = p.view(np.int32).astype(np.int64)
    exponent = bits >> 23 & 0xFF
    significand = bits & 0x7FFFFF | np.where(exponent > 0, 1 << 23, 0)
    e, r = split(np.maximum(significand, 1).astype(np.uint64))
    units = logq(e + np.maximum(exponent, 1) - 150, r)
    result = from_units(units)
    result = np.where(p == 0, np.float32(-np.inf), result)
    result = np.where(p == np.inf, p, result)
    return np.where(p >= 0, result, np.float32(np.nan)).astype(np.float32)
