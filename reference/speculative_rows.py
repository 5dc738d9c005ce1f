"""Which rows of logits belong to which request, and why a request is refused: section 14 of the contract."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntFlag
from typing import Any

import numpy as np

from .allowed import forbid, read_allowed
from .parameters import Parameters, as_integers, check_logits, parameters

__all__ = ["Batch", "RequestStatus", "bad_requests_message", "check_floats", "draft_ids", "rows_of"]


class RequestStatus(IntFlag):
    """The bits of a request's ``status`` (section 14); 0 is a request in order. The first four are ``Status``."""

    NAN = 1
    """Some logit is NaN, in the row at which decoding stopped."""
    INF = 2
    """Some logit is +inf, in that row."""
    EMPTY = 4
    """No logit is finite, in that row."""
    PARAMETER = 8
    """A parameter of the request is not valid."""
    LENGTH = 16
    """``num_draft`` or ``num_nodes`` is out of range."""
    OFFSETS = 32
    """``row_offsets`` do not give the request its number of rows, or give it rows of an earlier request."""
    DRAFT_TOKEN = 64
    """A draft token is outside the vocabulary."""
    TREE = 128
    """The parents are not those of one tree whose root is node 0."""
    DRAFT_WEIGHTS = 256
    """The draft probabilities or logits of that row are no distribution."""


_REASONS = {
    RequestStatus.NAN: "a logit is NaN",
    RequestStatus.INF: "a logit is +inf",
    RequestStatus.EMPTY: "no logit is finite",
    RequestStatus.PARAMETER: "a parameter is not valid",
    RequestStatus.LENGTH: "the number of drafted tokens is out of range",
    RequestStatus.OFFSETS: "row_offsets do not give it its rows",
    RequestStatus.DRAFT_TOKEN: "a draft token is outside the vocabulary",
    RequestStatus.TREE: "parents do not make a tree",
    RequestStatus.DRAFT_WEIGHTS: "the draft's probabilities are no distribution",
}


@dataclass(frozen=True)
class Batch:
    """B requests and the rows of logits that are theirs; slot j of a request is its j-th row."""

    logits: np.ndarray
    """[R, V]."""
    width: int
    """The most rows a request may have: K + 1 for drafts of at most K tokens."""
    count: np.ndarray
    """int64 [B]: how many rows a request has; 0 where ``status`` is not 0."""
    first: np.ndarray
    """int64 [B]: its first row; without meaning where ``status`` is not 0."""
    status: np.ndarray
    """int32 [B]: bits of ``RequestStatus``."""
    given: Parameters
    """Of the requests, [B] each."""

    @property
    def slots(self) -> np.ndarray:
        """Bool [B, width]: which slots have a row."""
        return np.arange(self.width) < self.count[:, None]

    def allowing(self, allowed: Any, leading: tuple[int, ...]) -> Batch:
        """The batch with -inf for every token that its row does not allow; ``leading`` is the logits' shape without V.
        """
        if isinstance(allowed, np.ndarray) and allowed.shape[:-1] != leading:
            raise ValueError(f"allowed: expected one set for each row of {list(leading)}, got {list(allowed.shape)}")
        flat = allowed.reshape(len(self.logits), -1) if isinstance(allowed, np.ndarray) else allowed
        octets = read_allowed(flat, *self.logits.shape)
        return self if octets is None else replace(self, logits=forbid(self.logits, octets))

    def shortened(self, count: np.ndarray) -> Batch:
        """The batch with at most ``count`` rows of each request (int64 [B]) looked at."""
        return replace(self, count=np.minimum(self.count, count))

    def refuse(self, bad: np.ndarray, why: RequestStatus) -> Batch:
        """The batch with some requests (bool [B]) refused."""
        status = self.status | np.where(bad, why, 0).astype(np.int32)
        return replace(self, count=np.where(bad, 0, self.count), status=status)


def rows_of(
    target_logits: Any, width: int, counted: str, count: np.ndarray, row_offsets: Any, how: dict[str, Any]
) -> Batch:
    """Find the rows of each request (section 14).

    Parameters
    ----------
    target_logits : array [B, width, V], or [R, V] with ``row_offsets``; float32, float16 or bfloat16
    width : int
        The most rows a request may have.
    counted : str
        Which argument of the caller ``count`` is made of, for the message of an error.
    count : int64 array [] or [B]
        Rows of each request, as the caller says it: valid within ``1 .. width``.
    row_offsets : None or integer array [B + 1]
    how : dict
        The parameters, scalars or arrays [B].

    Returns
    -------
    Batch

    Raises
    ------
    TypeError, ValueError
        For what is wrong with all requests at once.
    """
    flat = _flat(target_logits, width, row_offsets is not None)
    if row_offsets is None:
        requests = target_logits.shape[0]
        bounds = np.arange(requests + 1) * width
    else:
        bounds = as_integers("row_offsets", row_offsets)
        if bounds.ndim != 1 or not bounds.size:
            raise ValueError(f"row_offsets: expected shape [B + 1], got {list(bounds.shape)}")
        requests = len(bounds) - 1
    given = parameters(requests, **how)
    if count.ndim and count.shape != (requests,):
        raise ValueError(f"{counted}: expected an integer or shape [{requests}], got shape {list(count.shape)}")
    counts = np.broadcast_to(count, (requests,))
    good = (counts >= 1) & (counts <= width)
    status = np.where(good, 0, RequestStatus.LENGTH).astype(np.int32)
    batch = Batch(flat, width, np.where(good, counts, 0), bounds[:-1], status, given)
    if row_offsets is None:
        return batch
    return batch.refuse(good & ~_owners(bounds[:-1], bounds[1:], counts, good, len(flat)), RequestStatus.OFFSETS)


def check_floats(name: str, array: Any) -> None:
    """Refuse what is no NumPy array of float32, float16 or bfloat16.

    Raises
    ------
    TypeError
        Naming the argument.

    Examples
    --------
    >>> check_floats("draft_probs", np.zeros(3, np.int64))
    Traceback (most recent call last):
    TypeError: draft_probs: expected float32, float16 or bfloat16, got int64
    """
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{name}: expected a NumPy array, got {type(array).__name__}")
    if array.dtype.name not in ("float32", "float16", "bfloat16"):
        raise TypeError(f"{name}: expected float32, float16 or bfloat16, got {array.dtype}")


def _flat(target_logits: Any, width: int, ragged: bool) -> np.ndarray:
    """The target's logits as rows [R, V]."""
    check_floats("target_logits", target_logits)
    shape = target_logits.shape
    if ragged:
        expected, fits = "[R, V] with row_offsets", len(shape) == 2
    else:
        expected, fits = f"[B, {width}, V] without row_offsets", len(shape) == 3 and shape[1] == width
    if not fits:
        raise ValueError(f"target_logits: expected shape {expected}, got {list(shape)}")
    flat: np.ndarray = target_logits if ragged else target_logits.reshape(shape[0] * width, shape[2])
    try:
        check_logits(flat)
    except ValueError as error:  # it knows them as "logits"
        raise ValueError(f"target_{error}") from None
    return flat


def _owners(first: np.ndarray, end: np.ndarray, count: np.ndarray, good: np.ndarray, rows: int) -> np.ndarray:
    """Bool [B]: whether a request's offsets give it ``count`` rows that no earlier request claims."""
    fits = good & (first >= 0) & (first < end) & (end <= rows)
    claims = fits & (np.where(fits, end - first, 0) == count)
    claimed, owns = np.zeros(rows, bool), claims.copy()
    for b in np.flatnonzero(claims):
        owns[b] = not claimed[first[b] : end[b]].any()
        claimed[first[b] : end[b]] = True
    return owns


def draft_ids(draft_tokens: Any, requests: int | None = None) -> np.ndarray:
    """Draft tokens as int64 [B, K].

    Raises
    ------
    TypeError, ValueError
        Not integers, or of another shape.
    """
    ids = as_integers("draft_tokens", draft_tokens)
    if ids.ndim != 2 or (requests is not None and len(ids) != requests):
        raise ValueError(f"draft_tokens: expected shape [{requests or 'B'}, K], got {list(ids.shape)}")
    return ids


def bad_requests_message(status: np.ndarray, shown: int = 8) -> str | None:
    """Say which requests are not in order and why; None when all are.

    Examples
    --------
    >>> bad_requests_message(np.int32([0, 96]))
    '1 of 2 requests: request 1 (row_offsets do not give it its rows, a draft token is outside the vocabulary)'
    """
    bad = np.flatnonzero(status)
    if not bad.size:
        return None
    named = [
        f"request {b} ({', '.join(text for bit, text in _REASONS.items() if status[b] & bit)})"
        for b in bad[:shown].tolist()
    ]
    more = f"; and {bad.size - shown} more" if bad.size > shown else ""
    return f"{bad.size} of {len(status)} requests: {'; '.join(named)}{more}"
