"""Two levels of the suite: the short one of `make test`, and with DETSAMPLE_TEST_LEVEL=full that of `make test-full`.

The lists of tests and parameters are the same at both levels. The short level leaves out what is marked `full`:

- `@pytest.mark.full("why")` on a test, or `marks=full("why")` on a parameter, is left out;
- `@pytest.mark.full("why", every=7)` on a test with parameters keeps the first of them and each seventh after it.

`amount` is for what a test does more of at the full level: draws, rows, examples that Hypothesis makes.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from typing import Any, NamedTuple

import pytest

LEVEL = os.environ.get("DETSAMPLE_TEST_LEVEL", "short")
if LEVEL not in ("short", "full"):
    raise pytest.UsageError(f"DETSAMPLE_TEST_LEVEL must be 'short' or 'full', got {LEVEL!r}")
FULL = LEVEL == "full"


class LeftOut(NamedTuple):
    """A test, or one parameter of a test, that the short level does not run."""

    test: str
    reason: str


TAKEN = pytest.StashKey[list[str]]()
"""Of a session: what the short level runs of what was collected."""
LEFT_OUT = pytest.StashKey[list[LeftOut]]()
"""Of a session: what the short level does not run of what was collected."""


def amount(full: int, short: int) -> int:
    """How much of something a test does at this level."""
    return full if FULL else short


def first_of_each(values: Iterable[Any], group: Callable[[Any], Hashable], reason: str) -> list[Any]:
    """Parameters of a test, of which the short level takes the first of each group."""
    seen: set[Hashable] = set()
    parameters = []
    for value in values:
        marks = (pytest.mark.full(reason),) if group(value) in seen else ()
        parameters.append(pytest.param(value, marks=marks))
        seen.add(group(value))
    return parameters


def only(kept: Callable[[Any], bool], values: Iterable[Any], reason: str) -> list[Any]:
    """Parameters of a test, of which the short level takes those that are to be kept."""
    return [pytest.param(v, marks=() if kept(v) else pytest.mark.full(reason)) for v in values]


def _mark(reason: str, every: int | None = None) -> tuple[str, int | None]:
    """The arguments of a mark, checked."""
    if not isinstance(reason, str) or not reason.strip():
        raise pytest.UsageError(f"mark full: expected a reason, got {reason!r}")
    return reason, every


def left_out(items: Iterable[pytest.Item]) -> dict[pytest.Item, str]:
    """The items that the short level does not run, with the reason for each."""
    found = {}
    count: Counter[tuple[pytest.Item | pytest.Collector | None, str]] = Counter()
    for item in items:
        marks = [_mark(*mark.args, **mark.kwargs) for mark in item.iter_markers("full")]
        reasons = [reason for reason, every in marks if every is None]
        shares = [(reason, every) for reason, every in marks if every is not None]
        if not reasons and shares:
            reason, every = shares[0]
            function = (item.parent, getattr(item, "originalname", item.name))
            if count[function] % every:
                reasons = [reason]
            count[function] += 1
        if reasons:
            found[item] = reasons[0]
    return found


def summary(found: list[LeftOut]) -> list[str]:
    """What the short level says of what it left out."""
    whole = {left.test for left in found if "[" not in left.test}
    parameters = [left.test for left in found if "[" in left.test]
    tests = {test.partition("[")[0] for test in parameters}
    lines = [
        f"short level: left out {len(whole)} tests, and {len(parameters)} parameters of {len(tests)} tests;"
        " `make test-full` runs all of them"
    ]
    return lines + [f"{n:6d}: {reason}" for reason, n in Counter(left.reason for left in found).most_common()]
