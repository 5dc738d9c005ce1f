"""Every call that a writer, a saver or a reader makes fails once; allocations do, a few of them here."""

from __future__ import annotations

from pathlib import Path

import injection
import pytest


@pytest.mark.full("more calls that fail", every=5)
@pytest.mark.parametrize("late", [False, True], ids=["before", "behind"])
@pytest.mark.parametrize("error", injection.ERRORS)
@pytest.mark.parametrize("name", injection.SCENARIOS)
def test_every_call_fails_once(tmp_path: Path, name: str, error: str, late: bool) -> None:
    """Would catch tokens lost or doubled, a file that no reader takes, an error that is none, a writer that is stuck.

    All allocations, one by one: docs/results/injection.json.
    """
    told = injection.calls_failing(name, error, late, tmp_path)
    assert sum(told.values()) > 5


@pytest.mark.full("more allocations that fail", every=5)
@pytest.mark.parametrize("first", [1, 500, 2000])
@pytest.mark.parametrize("name", injection.SCENARIOS)
def test_allocations_fail(tmp_path: Path, name: str, first: int) -> None:
    """Would catch the same where memory is short."""
    pytest.importorskip("_testcapi", reason="this Python cannot let allocations fail")
    told = injection.allocations_failing(name, first, 10, tmp_path)
    assert sum(told.values()) == 10
