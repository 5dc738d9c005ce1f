"""Readers of files given files that are a little different, half of them sealed anew."""

from __future__ import annotations

import fuzzing
import pytest


@pytest.mark.parametrize("inputs", [600, pytest.param(20_000, marks=pytest.mark.full("twenty thousand inputs"))])
def test_what_nobody_wrote_is_refused_or_read(inputs: int) -> None:
    """Would catch a traceback, a hang, or a number out of range believed. A million: docs/results/fuzzing.json."""
    told = fuzzing.fuzz(inputs, inputs)
    assert sum(told.values()) == inputs
    assert {what.split()[0] for what in told} == set(fuzzing.SHARES)
    assert any("read" in what for what in told)
