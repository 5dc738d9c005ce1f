"""Type checkers refuse wrong calls and know what comes back from right ones."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from paths import ROOT, TESTS

WRONG = TESTS / "host" / "wrong_calls.py"


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The layout of an installed package, made of links: the checkers know nothing of pyproject.toml's."""
    (tmp_path / "detsample").mkdir()
    for path in [*(ROOT / "detsample").iterdir(), ROOT / "reference"]:
        (tmp_path / "detsample" / path.name).symlink_to(path)
    (tmp_path / WRONG.name).write_text(WRONG.read_text(encoding="utf-8"), encoding="utf-8")
    return tmp_path


def marked() -> set[int]:
    lines = WRONG.read_text(encoding="utf-8").splitlines()
    return {number for number, line in enumerate(lines, 1) if line.endswith("# wrong")}


def test_mypy_refuses_wrong_calls(installed: Path) -> None:
    """Defect caught: an argument that is Any, so that a misspelt mask or a text as seed is found at run time alone."""
    pytest.importorskip("mypy")
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), WRONG.name]
    done = subprocess.run(command, cwd=installed, capture_output=True, text=True, check=False)
    assert {int(n) for n in re.findall(rf"^{WRONG.name}:(\d+): error", done.stdout, re.M)} == marked(), done.stdout


@pytest.mark.full("pyright fetches its own program when it is first used")
def test_pyright_refuses_wrong_calls(installed: Path) -> None:
    """Defect caught: overloads that one checker understands and the other does not."""
    if find_spec("pyright") is None:
        pytest.skip("pyright is not installed")
    command = [sys.executable, "-m", "pyright", "--outputjson", WRONG.name]
    done = subprocess.run(command, cwd=installed, capture_output=True, text=True, check=False)
    found = json.loads(done.stdout)["generalDiagnostics"]
    assert {x["range"]["start"]["line"] + 1 for x in found if x["severity"] == "error"} == marked(), done.stdout
