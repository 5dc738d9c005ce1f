"""The two levels of the suite: what the short one leaves out, the full one runs, and a reason is given."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import levels
import pytest
from paths import ROOT


class Item:
    """As much of a collected test as the levels look at."""

    parent = None

    def __init__(self, name: str, *marks: pytest.MarkDecorator) -> None:
        self.name, self.originalname, self.marks = name, name.partition("[")[0], marks

    def iter_markers(self, name: str) -> Any:
        """Its marks of this name, the closest first."""
        return (mark.mark for mark in self.marks if mark.name == name)


def left_out(*items: Any) -> dict[str, str]:
    """Names of what is left out, with reasons."""
    return {item.name: reason for item, reason in levels.left_out(items).items()}


def test_a_mark_leaves_out_a_test_or_all_but_a_share_of_its_parameters() -> None:
    """Catches a share that is none: nothing of a test is left, or all of it."""
    share = pytest.mark.full("more of them", every=3)
    items = [Item(f"test_many[{i}]", share) for i in range(7)]
    found = left_out(Item("test_one"), Item("test_slow", pytest.mark.full("slow")), *items)
    assert found == {"test_slow": "slow"} | {f"test_many[{i}]": "more of them" for i in (1, 2, 4, 5)}


def test_a_parameter_that_is_left_out_counts_for_no_share() -> None:
    """Catches a share whose one test in so many is a parameter that is left out anyway."""
    share = pytest.mark.full("more of them", every=2)
    found = left_out(*(Item(f"test[{i}]", *([pytest.mark.full("slow")] if i < 2 else []), share) for i in range(4)))
    assert found == {"test[0]": "slow", "test[1]": "slow", "test[3]": "more of them"}


@pytest.mark.parametrize("mark", [pytest.mark.full(), pytest.mark.full(""), pytest.mark.full(every=3)])
def test_a_mark_gives_a_reason(mark: pytest.MarkDecorator) -> None:
    """Catches tests left out without a word why."""
    with pytest.raises((pytest.UsageError, TypeError)):
        levels.left_out([Item("test", mark)])  # type: ignore[list-item]


def test_first_of_each() -> None:
    """Catches a group of which the short level takes none."""
    values = levels.first_of_each([11, 12, 21, 13], lambda value: value // 10, "another of them")
    assert [bool(value.marks) for value in values] == [False, True, False, True]


def test_every_file_is_in_the_short_level(request: pytest.FixtureRequest) -> None:
    """Catches a file of tests that only the full level looks into."""
    taken = {name.partition("::")[0] for name in request.config.stash[levels.TAKEN]}
    left = {name.partition("::")[0] for name, _ in request.config.stash[levels.LEFT_OUT]}
    assert left - taken == set()


@pytest.mark.full("collects the whole suite once more")
def test_both_levels_have_the_same_tests(request: pytest.FixtureRequest) -> None:
    """Catches a list of parameters that depends on the level: what the short one has must be in the full one, and what
    it has not must be marked.
    """
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *request.config.args]
    environment = os.environ | {"DETSAMPLE_TEST_LEVEL": "short"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    short = {line for line in done.stdout.splitlines() if "::" in line}
    assert short == set(request.config.stash[levels.TAKEN])
