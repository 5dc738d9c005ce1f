"""Why a request was refused or stopped, and the error that says so (contract, section 14)."""

from __future__ import annotations

from enum import IntFlag
from typing import Any

from detsample.sampler.status import REASONS, raise_where_set


class RequestStatus(IntFlag):
    """The bits of a request's status; 0 is a request in order. The first four are those of `detsample.Status`."""

    NAN = 1
    INF = 2
    EMPTY = 4
    PARAMETER = 8
    LENGTH = 16
    OFFSETS = 32
    DRAFT_TOKEN = 64
    TREE = 128
    DRAFT_WEIGHTS = 256


REQUEST_REASONS = {
    RequestStatus.LENGTH: "the number of drafted tokens is out of range",
    RequestStatus.OFFSETS: "row_offsets do not give it its rows",
    RequestStatus.DRAFT_TOKEN: "a draft token is outside the vocabulary",
    RequestStatus.TREE: "parents do not make a tree with node 0 as its root",
    RequestStatus.DRAFT_WEIGHTS: "the draft's probabilities are no distribution",
}


def describe(status: int) -> str:
    """The reasons behind a status, in words.

    >>> describe(RequestStatus.NAN | RequestStatus.DRAFT_TOKEN)
    'a logit is NaN, a draft token is outside the vocabulary'
    """
    reasons: dict[Any, str] = {**REASONS, **REQUEST_REASONS}
    return ", ".join(reason for bit, reason in reasons.items() if status & bit)


def raise_for_status(status: Any) -> None:
    """Wait for the device and raise if a request is not in order.

    Raises
    ------
    ValueError
        Naming the first such requests, and why each is.
    """
    raise_where_set(status, "request", "requests", describe)
