"""What Linux has and macOS or Windows has not: the NumPy path and the files work without it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detsample import files
from detsample.rollout import auditing


def test_windows_opens_no_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Defect caught: a golden file or a record that is on the disk, and then PermissionError for its folder."""
    as_it_is = os.open

    def of_windows(path: Any, *flags: Any, **more: Any) -> int:
        if os.path.isdir(path):
            raise PermissionError(path)
        return as_it_is(path, *flags, **more)

    monkeypatch.delattr(os, "O_DIRECTORY")
    monkeypatch.delattr(os, "O_NONBLOCK")
    monkeypatch.setattr(os, "open", of_windows)
    files.make_folder(tmp_path / "a" / "b")
    with files.whole(tmp_path / "a" / "b" / "file") as file:
        file.write(b"all")
    with files.open_regular(tmp_path / "a" / "b" / "file") as file:
        assert file.read() == b"all"


def test_processors_without_affinities(monkeypatch: pytest.MonkeyPatch) -> None:
    """Defect caught: `audit` needs a function that only Linux has, or more processes than Windows waits for."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    for count, due in ((None, 1), (8, 8), (128, 61)):
        monkeypatch.setattr(os, "cpu_count", lambda count=count: count)
        assert auditing._processors() == due


def test_sampling_needs_nothing_of_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    """Defect caught: a call on arrays asks the system for what only Linux has."""
    import detsample

    for name in ("sched_getaffinity", "O_DIRECTORY", "O_NONBLOCK", "fork"):
        monkeypatch.delattr(os, name, raising=False)
    assert detsample.sample(np.zeros((2, 9), np.float32), np.array([1, 2])).status.tolist() == [0, 0]
