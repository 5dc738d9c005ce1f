"""Readers of files given files that are a little different, half of them sealed anew."""

from __future__ import annotations

from pathlib import Path

import fuzzing
import guided_fuzzing
import pytest


@pytest.mark.parametrize("inputs", [600, pytest.param(20_000, marks=pytest.mark.full("twenty thousand inputs"))])
def test_what_nobody_wrote_is_refused_or_read(inputs: int) -> None:
    """Would catch a traceback, a hang, or a number out of range believed. A million: docs/results/fuzzing.json."""
    told = fuzzing.fuzz(inputs, inputs)
    assert sum(told.values()) == inputs
    assert {what.split()[0] for what in told} == set(fuzzing.SHARES)
    assert any("read" in what for what in told)


@pytest.mark.parametrize("name", fuzzing.READERS)
def test_the_corpus_is_refused_or_read(tmp_path: Path, name: str) -> None:
    """Would catch the same for each file by which Atheris reached something new, as it is and sealed anew."""
    path = tmp_path / fuzzing.NAMES[name]
    for content in fuzzing.corpus(name):
        for given in (content, fuzzing.SEALED.get(name, bytes)(content)):
            path.write_bytes(given)
            assert fuzzing.READERS[name](path) in ("read", "refused")


@pytest.mark.full("Atheris starts for each reader, and is not installed everywhere")
def test_guided_by_what_was_reached() -> None:
    """Would catch the same behind a branch that random changes do not find. More: docs/results/guided-fuzzing.json."""
    pytest.importorskip("atheris", reason="Atheris is not installed: pip install atheris")
    assert guided_fuzzing.guided(6_000)["inputs"] >= 6_000
