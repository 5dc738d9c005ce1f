"""The generator that batteries of statistical tests are fed with is the reference's."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from detsample.reference.gumbel import uniform_rows
from paths import SUPPORT

COMPILER = shutil.which("cc") or shutil.which("gcc")


@pytest.mark.skipif(COMPILER is None, reason="there is no C compiler")
def test_the_stream_of_a_battery_is_the_references(tmp_path: Path) -> None:
    """Would catch a battery passed by another generator than ours."""
    program = tmp_path / "noise_stream"
    subprocess.run([str(COMPILER), "-O2", "-o", str(program), str(SUPPORT / "noise_stream.c")], check=True, timeout=120)

    def told(kind: str) -> np.ndarray:
        done = subprocess.run([str(program), kind, "2"], capture_output=True, check=True, timeout=60)
        return np.frombuffer(done.stdout, np.uint64)

    rows, positions, seeds = told("rows"), told("positions"), told("seeds")
    assert rows.size == positions.size == seeds.size == 1 << 18
    zero, count = np.zeros(1, np.uint64), 1 << 16
    expected = uniform_rows(np.zeros(2, np.uint64), np.arange(2), 151936).reshape(-1)
    assert np.array_equal(rows, expected[: rows.size])
    expected = uniform_rows(np.zeros(count, np.uint64), np.arange(count), 4)
    assert np.array_equal(positions.reshape(-1, 4), expected)
    expected = uniform_rows(np.arange(count, dtype=np.uint64) + zero, np.zeros(count, np.int64), 4)
    assert np.array_equal(seeds.reshape(-1, 4), expected)
