"""Kernels broken on purpose, one way at a time: the probes of mutations.py must notice each."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import mutations
import pytest
from levels import first_of_each
from mutations import FOUND, MUTATIONS, Mutation
from paths import ROOT

pytest.importorskip("triton", reason="Triton is not installed: no kernel runs")


def copy_package(folder: Path) -> Path:
    """The package with the reference inside, as it is installed; without its data."""
    ignore = shutil.ignore_patterns("*.npz", ".*")
    shutil.copytree(ROOT / "detsample", folder / "detsample", ignore=ignore)
    shutil.copytree(ROOT / "reference", folder / "detsample" / "reference", ignore=ignore, dirs_exist_ok=True)
    return folder / "detsample"


def run_probes(folder: Path, *names: str) -> subprocess.CompletedProcess[str]:
    """The probes on the package in this folder, in Triton's interpreter."""
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-W", "ignore", mutations.__file__, *names]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=300)


def kind(mutation: Mutation) -> str:
    """The short level has one of each: a file of the kernels, and all launches, which go the same way."""
    return mutation.file if mutation.file.startswith("kernels/") else "launches"


@pytest.mark.full("all probes on the kernels as they are")
def test_the_kernels_as_they_are_pass_every_probe(tmp_path: Path) -> None:
    """Catches probes that fail for a reason of their own, which would make every mutation look noticed."""
    copy_package(tmp_path)
    done = run_probes(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "mutation",
    first_of_each(MUTATIONS, kind, "another mutation of the same file, or of another launch"),
    ids=lambda mutation: mutation.name,
)
def test_a_mutation_is_noticed(mutation: Mutation, tmp_path: Path) -> None:
    """Catches rows too tame to show this breakage, and a comparison that does not look."""
    file = copy_package(tmp_path) / mutation.file
    text = file.read_text()
    assert mutation.old in text, f"{mutation.file} has changed: bring the mutation up to date"
    file.write_text(text.replace(mutation.old, mutation.new))
    done = run_probes(tmp_path, mutation.probe)
    assert done.returncode == FOUND, f"status {done.returncode}\n{done.stdout}{done.stderr[-2000:]}"


def test_the_documented_breakages_are_these() -> None:
    """Catches a table in docs/testing.md that promises what is not tested, or leaves something out."""
    page = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
    section = page.partition("## Kernels broken on purpose\n")[2].partition("\n## ")[0]
    told = re.findall(r"^\| ([^|]+) \| `([^`|]+)` \| ([^|]+) \|$", section, re.MULTILINE)
    assert told == [(mutation.name, mutation.file, mutation.probe) for mutation in MUTATIONS]


def test_every_probe_has_a_mutation() -> None:
    """Catches a probe that nobody has seen fail."""
    assert {mutation.probe for mutation in MUTATIONS} == set(mutations.PROBES)
