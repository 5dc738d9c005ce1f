"""The operations in NumPy, where they have no gradient."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def widened(x: np.ndarray) -> np.ndarray:
    """See `Operations`."""
    return x.astype(np.float32) if x.dtype.itemsize == 2 else x


def copied(x: np.ndarray) -> np.ndarray:
    """See `Operations`."""
    return x.copy()


def placed(array: np.ndarray, x: np.ndarray) -> np.ndarray:
    """See `Operations`."""
    return array


def beside(array: np.ndarray, x: np.ndarray) -> np.ndarray:
    """See `Operations`."""
    return array.astype(x.dtype) if array.dtype.kind == "f" else array


def take(x: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """See `Operations`."""
    return x[rows]


def join(parts: Sequence[np.ndarray]) -> np.ndarray:
    """See `Operations`."""
    return np.concatenate(parts)


def where(condition: np.ndarray, x: np.ndarray, otherwise: float) -> np.ndarray:
    """See `Operations`."""
    return np.where(condition, x, x.dtype.type(otherwise))


def exp(x: np.ndarray) -> np.ndarray:
    """See `Operations`."""
    return np.exp(x)


def log(x: np.ndarray) -> np.ndarray:
    """See `Operations`."""
    return np.log(x)


def sum_of_rows(x: np.ndarray) -> np.ndarray:
    """See `Operations`."""
    return x.sum(axis=1)


def largest_of_rows(x: np.ndarray) -> np.ndarray:
    """See `Operations`."""
    return x.max(axis=1)


def both(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """See `Operations`."""
    return one & other
