"""Tokens that may be drawn at all: "Where a set of tokens is an input" in section 10, and section 4, step 1."""

from __future__ import annotations

from typing import Any

import numpy as np

from .mask import as_octets, set_of_octets
from .order import as_x

__all__ = ["forbid", "read_allowed"]


def read_allowed(allowed: Any, rows: int, vocab: int) -> np.ndarray | None:
    """Check the allowed sets of a call, and return them as bytes; None where every token is allowed.

    Raises
    ------
    ValueError
        Another type or shape than section 10 has, such as sets for a smaller vocabulary.
    """
    return None if allowed is None else as_octets("allowed", allowed, rows, vocab)


def forbid(logits: np.ndarray, octets: np.ndarray | None) -> np.ndarray:
    """``x`` of logits [R, V], with -inf for the tokens that are not in the row's set; a copy.

    Examples
    --------
    >>> forbid(np.float32([[1, np.nan, -0.0]]), np.uint8([[0b11111101]])).tolist()
    [[1.0, -inf, 0.0]]
    """
    x = as_x(logits)
    if octets is not None:
        x[~set_of_octets(octets, x.shape[1])] = -np.inf
    return x
