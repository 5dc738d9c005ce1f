"""Log probabilities: section 9 of ``docs/contract/spec.md``."""

from __future__ import annotations

import numpy as np

from .fixed_point import fixed_point, from_units
from .logarithm import ln_mass

__all__ = ["log_z", "logprob"]


def logprob(a: np.ndarray, mass: np.ndarray) -> np.ndarray:
    """The log probability of a token among the kept ones, float32 [R].

    Parameters
    ----------
    a : float32 array [R]
        The gap of the token.
    mass : int64 array [R]
        The sum of the kept tokens' weights.

    Examples
    --------
    >>> logprob(np.float32([0]), np.int64([2 << 40]))
    array([-0.6931472], dtype=float32)
    """
    return from_units(-(fixed_point(a) + ln_mass(mass)))


def log_z(mass: np.ndarray, total: np.ndarray) -> np.ndarray:
    """The log of the kept mass of the full softmax, float32 [R].

    Parameters
    ----------
    mass, total : int64 array [R]
        The sums of the kept tokens' weights and of all tokens' weights.
    """
    return from_units(np.minimum(ln_mass(mass) - ln_mass(total), 0))
