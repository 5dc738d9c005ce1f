"""Why a row is invalid, and the error that says so (spec section 3)."""

from __future__ import annotations

from enum import IntFlag
from typing import Any

import numpy as np

from detsample.frameworks import Framework

ROWS_NAMED = 8


class Status(IntFlag):
    """The bits of a row's status; 0 is a valid row."""

    NAN = 1
    INF = 2
    EMPTY = 4
    PARAMETER = 8


REASONS = {
    Status.NAN: "a logit is NaN",
    Status.INF: "a logit is +inf",
    Status.EMPTY: "no logit is finite",
    Status.PARAMETER: "a parameter is out of range",
}


def describe(status: int) -> str:
    """The reasons behind a status, in words.

    >>> describe(9)
    'a logit is NaN, a parameter is out of range'
    """
    return ", ".join(reason for bit, reason in REASONS.items() if status & bit)


def raise_for_status(framework: Framework, status: Any) -> None:
    """Wait for the device and raise if a row is invalid.

    Raises
    ------
    ValueError
        Naming the first invalid rows, and why each is.
    """
    bits = framework.fetch(status)
    invalid = np.flatnonzero(bits)
    if invalid.size:
        named = "; ".join(f"row {row}: {describe(int(bits[row]))}" for row in invalid[:ROWS_NAMED])
        more = f"; and {invalid.size - ROWS_NAMED} more" if invalid.size > ROWS_NAMED else ""
        raise ValueError(f"{invalid.size} of {bits.size} rows of logits or parameters are invalid: {named}{more}")
