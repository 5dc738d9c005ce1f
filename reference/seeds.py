"""Makes seeds from seeds: ``fold_in`` of section 7 of ``docs/contract/spec.md``."""

from __future__ import annotations

from typing import Any, overload

import numpy as np

from .parameters import as_seeds
from .philox import philox4x32

__all__ = ["fold_in", "halves"]

_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)
_DOMAIN_FOLD_IN = np.uint64(2)


def halves(value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The low and the high 32 bits of a uint64 array, each as uint64."""
    return value & _LOW, value >> _HALF


@overload
def fold_in(topp_seed: int, i: int) -> int: ...
@overload
def fold_in(topp_seed: Any, i: Any) -> Any: ...
def fold_in(topp_seed: Any, i: Any) -> Any:
    """Derive the seed of an unrelated stream, for the i-th of several samples of one request (section 7).

    Parameters
    ----------
    topp_seed, i : int or integer array
        64-bit integers, signed or unsigned (taken modulo 2^64); arrays broadcast.

    Returns
    -------
    int in the range of int64 when both are scalars, otherwise an int64 array

    Raises
    ------
    TypeError
        Not integers.
    ValueError
        Beyond 64 bits, or shapes that do not broadcast.

    Examples
    --------
    >>> fold_in(1, 0) == fold_in(1, 1)
    False
    >>> fold_in(np.int64([1, 2]), 0).tolist() == [fold_in(1, 0), fold_in(2, 0)]
    True
    """
    seed, index = as_seeds("topp_seed", topp_seed), as_seeds("i", i)
    try:
        np.broadcast_shapes(seed.shape, index.shape)
    except ValueError:
        got = f"{list(seed.shape)} and {list(index.shape)}"
        raise ValueError(f"topp_seed and i: expected shapes that broadcast, got {got}") from None
    zero = np.zeros(1, np.uint64)
    low, high = halves(np.atleast_1d(index))
    words = philox4x32((zero, low, high, zero + _DOMAIN_FOLD_IN), halves(np.atleast_1d(seed)))
    folded = (words[0] | words[1] << _HALF).view(np.int64)
    return folded if seed.ndim or index.ndim else int(folded[0])
