"""Why a row is invalid, and the error that says so (spec section 3)."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntFlag
from typing import Any

import numpy as np

from detsample import frameworks

NAMED = 8


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


def raise_for_status(status: Any) -> None:
    """Wait for the device and raise if a row is invalid.

    Raises
    ------
    ValueError
        Naming the first invalid rows, and why each is.
    """
    raise_where_set(status, "row", "rows of logits or parameters", describe)


def raise_where_set(status: Any, one: str, several: str, describe_one: Callable[[int], str]) -> None:
    """Wait for the device and raise if a status is not 0; `one` and `several` say what has a status."""
    bits = frameworks.of(status).fetch(status)
    bad = np.flatnonzero(bits)
    if bad.size:
        named = "; ".join(f"{one} {at}: {describe_one(int(bits[at]))}" for at in bad[:NAMED])
        more = f"; and {bad.size - NAMED} more" if bad.size > NAMED else ""
        raise ValueError(f"{bad.size} of {bits.size} {several} are invalid: {named}{more}")
