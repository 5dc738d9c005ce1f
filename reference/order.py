"""``x``, and the order of a row's tokens: ``x`` descending, then id ascending. Section 4, steps 1 and 2.

A token's value and id fit together in one 64-bit key that no other token of the row has, so that sorting keys
upwards, by any algorithm, gives the order.
"""

from __future__ import annotations

import numpy as np

from .parameters import to_fp32
from .temperature import FLT_MAX

__all__ = ["all_in_order", "as_x", "few", "first_in_order", "key_ids", "key_values", "order_keys"]

_EXCLUDED = 0x7F800000 << 32
"""The key of -inf and id 0: behind every token that counts."""
_SPARSITY = 16
"""Looking for the first k tokens by lanes pays when V is at least so many times k."""


def as_x(logits: np.ndarray) -> np.ndarray:
    """Logits of any type as float32, -0 as +0; contiguous.

    Examples
    --------
    >>> as_x(np.float16([-0.0, 0.5]))
    array([0. , 0.5], dtype=float32)
    """
    with np.errstate(invalid="ignore"):  # a signalling NaN warns
        return np.add(to_fp32(logits), np.float32(0), order="C")


def order_keys(x: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Keys that ascend in the order of the tokens.

    Parameters
    ----------
    x : float32 array, without NaN and -0
    ids : int64 array of a shape that broadcasts

    Returns
    -------
    int64 array

    Examples
    --------
    >>> keys = order_keys(np.float32([1, 2, 2, -np.inf]), np.arange(4))
    >>> np.sort(keys)[:3] == keys[[1, 2, 0]]
    array([ True,  True,  True])
    >>> key_ids(keys).tolist(), key_values(keys).tolist()
    ([0, 1, 2, 3], [1.0, 2.0, 2.0, -inf])
    """
    bits = x.view(np.int32)
    ascending = bits ^ (bits >> 31 & 0x7FFFFFFF)
    keys = (~ascending).astype(np.int64)
    keys <<= 32
    keys |= ids
    return keys


def key_ids(keys: np.ndarray) -> np.ndarray:
    """The token ids of keys, int64."""
    return keys & 0xFFFFFFFF


def key_values(keys: np.ndarray) -> np.ndarray:
    """The values ``x`` of keys, float32."""
    ascending = ~(keys >> 32).astype(np.int32)
    return (ascending ^ (ascending >> 31 & 0x7FFFFFFF)).view(np.float32)


def all_in_order(x: np.ndarray) -> np.ndarray:
    """The keys of all tokens of each row in order, int64 [R, V]; excluded ones last."""
    keys = order_keys(x, np.arange(x.shape[1]))
    keys.sort(axis=1)
    return keys


def few(top_k: np.ndarray, vocab: int) -> np.ndarray:
    """Whether ``first_in_order`` is the quicker way to the first ``top_k`` tokens."""
    return top_k <= vocab // _SPARSITY


def first_in_order(x: np.ndarray, count: int) -> np.ndarray:
    """The keys of at least the first ``count`` tokens of each row in order.

    Parameters
    ----------
    x : float32 array [R, V]
    count : int
        With ``few(count, V)``.

    Returns
    -------
    int64 array [R, C]
        Where a row has fewer than C keys to show, excluded ones (``x = -inf``) follow.
    """
    hits = np.flatnonzero(x >= _lower_bound(x, count)[:, None])
    rows, ids = np.divmod(hits, x.shape[1])
    found = np.bincount(rows, minlength=len(x))
    columns = np.arange(len(hits)) - np.repeat(np.cumsum(found) - found, found)
    keys = np.full((len(x), found.max()), _EXCLUDED)
    keys[rows, columns] = order_keys(x.reshape(-1)[hits], ids)
    keys.sort(axis=1)
    return keys


def _lower_bound(x: np.ndarray, count: int) -> np.ndarray:
    """A finite value that the ``count``-th token of each row, if there is one, is not below."""
    # The maxima of disjoint lanes are different tokens, so the count-th largest of them is such a value.
    # Tokens behind the last full stretch are left out, which can only lower it.
    lanes = min(max(2048, _SPARSITY * count), x.shape[1])
    full = x.shape[1] // lanes * lanes
    maxima = x[:, :full].reshape(len(x), -1, lanes).max(axis=1)
    maxima.partition(lanes - count, axis=1)
    return np.maximum(maxima[:, lanes - count], -FLT_MAX)
