"""Whether a row can be sampled, and if not, why: section 3 of ``docs/contract/spec.md``."""

from __future__ import annotations

from enum import IntFlag

import numpy as np

from .parameters import Parameters

__all__ = ["QUIET_NAN", "Status", "bad_rows_message", "logit_status", "parameter_status"]

QUIET_NAN = np.uint32(0x7FC00000).view(np.float32)
"""The NaN that stands for a number that a row does not have. Of the many NaNs the contract uses this one."""


class Status(IntFlag):
    """The bits of a row's ``status`` (section 3); 0 is a valid row.

    Examples
    --------
    >>> Status(5) == Status.NAN | Status.EMPTY
    True
    """

    NAN = 1
    """Some logit is NaN."""
    INF = 2
    """Some logit is +inf."""
    EMPTY = 4
    """No logit is finite."""
    PARAMETER = 8
    """A parameter of the row is not valid."""


_REASONS = {
    Status.NAN: "a logit is NaN",
    Status.INF: "a logit is +inf",
    Status.EMPTY: "no logit is finite",
    Status.PARAMETER: "a parameter is not valid (temperature, top_p, min_p or position)",
}


def logit_status(x: np.ndarray) -> np.ndarray:
    """Status bits 1, 2 and 4 of each row (section 3).

    Parameters
    ----------
    x : float32 array [R, V]

    Returns
    -------
    int32 array [R]

    Examples
    --------
    >>> logit_status(np.float32([[0, 1], [np.nan, np.inf], [-np.inf, -np.inf]])).tolist()
    [0, 7, 4]
    """
    status = np.zeros(len(x), np.int32)
    # A finite maximum clears all three bits (with NaN the maximum is NaN); few rows need a closer look.
    odd = np.flatnonzero(~np.isfinite(x.max(axis=1)))
    if odd.size:
        rows = x[odd]
        status[odd] |= np.where(np.isnan(rows).any(axis=1), Status.NAN, 0).astype(np.int32)
        status[odd] |= np.where((rows == np.inf).any(axis=1), Status.INF, 0).astype(np.int32)
        status[odd] |= np.where(np.isfinite(rows).any(axis=1), 0, Status.EMPTY).astype(np.int32)
    return status


def parameter_status(p: Parameters) -> np.ndarray:
    """Status bit 8 of each row (section 3), int32 [R]."""
    good = np.isfinite(p.temperature) & (p.temperature >= 0)
    good &= ~np.isnan(p.top_p) & ~np.isnan(p.min_p) & (p.position >= 0)
    return np.where(good, 0, Status.PARAMETER).astype(np.int32)


def bad_rows_message(status: np.ndarray, shown: int = 8) -> str | None:
    """Say which rows are not valid and why; None when all are.

    Examples
    --------
    >>> bad_rows_message(np.int32([0, 4, 3]))
    '2 of 3 rows cannot be sampled: row 1 (no logit is finite); row 2 (a logit is NaN, a logit is +inf)'
    """
    bad = np.flatnonzero(status)
    if not bad.size:
        return None
    rows = [
        f"row {row} ({', '.join(text for bit, text in _REASONS.items() if status[row] & bit)})"
        for row in bad[:shown].tolist()
    ]
    more = f"; and {bad.size - shown} more" if bad.size > shown else ""
    return f"{bad.size} of {len(status)} rows cannot be sampled: {'; '.join(rows)}{more}"
