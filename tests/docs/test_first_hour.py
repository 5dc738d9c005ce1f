"""A new user's first hour, in fresh environments of the oldest and the newest Python that are here."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT, SUPPORT

import detsample


def interpreter(version: str) -> str | None:
    """A Python of a version that starts: on the path, where pyenv's stand-ins may not, or where pyenv keeps them."""
    kept = sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python"))
    for python in (shutil.which(f"python{version}"), *map(str, reversed(kept))):
        if python and subprocess.run([python, "--version"], capture_output=True, check=False).returncode == 0:
            return python
    return None


def test_a_checkout_imports_as_it_is() -> None:
    """Defect caught: `reference` is not found beside the package's folder, which comes first on the path there."""
    code = "import detsample, detsample.reference; print(detsample.reference.CONTRACT_VERSION)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, str(detsample.CONTRACT_VERSION)), done.stderr


@pytest.mark.full("makes environments and asks a package registry: minutes")
@pytest.mark.parametrize("version", ["3.10", "3.13"])
def test_a_new_users_first_hour(version: str, tmp_path: Path) -> None:
    """Defect caught: README's commands fail from the checkout or elsewhere, a mistake is silent, another plugin's
    fixture is taken, or what a user has already cannot be installed beside detsample.
    """
    python = interpreter(version)
    if python is None:
        pytest.skip(f"no Python {version} here")
    ask = [sys.executable, "-m", "pip", "index", "versions", "numpy"]
    if subprocess.run(ask, capture_output=True, check=False).returncode:
        pytest.skip("no package registry can be reached")
    command = [sys.executable, str(SUPPORT / "first_hour.py"), python, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
