"""The demo: it passes here, and fails on anything that is not the stored bits."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import Run

import detsample
from detsample.cli import demo


@pytest.fixture
def run(run: Run) -> Run:
    """The demo in this process: its exit status, stdout and stderr."""
    return functools.partial(run, "demo")


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the golden file, in place of it."""
    copy = tmp_path / demo.GOLDEN
    copy.write_text(demo.golden_file().read_text())
    monkeypatch.setattr(demo, "golden_file", lambda: copy)
    return copy


def sections() -> list[str]:
    return list(demo.golden())


def test_demo_passes(run: Run) -> None:
    """Defect caught: a result bit is not what it has been, on this machine or since the last release."""
    status, out, err = run()
    assert status == 0, out
    assert err == ""
    assert "equal to the golden one" in out
    assert "✗" not in out
    assert out.count("✓") == len(sections()) - 1 + 4  # but for the logits' own digest
    assert "The capital of France is" in out
    assert "␣Paris" in out


def test_demo_fits_a_terminal(run: Run) -> None:
    """Defect caught: lines that wrap, or characters of a vocabulary that move a terminal's cursor."""
    lines = run()[1].splitlines()
    assert max(map(len, lines)) <= 100
    assert len(lines) <= 90
    assert all(line.isprintable() for line in lines)


@pytest.mark.full("more wrong digests", every=4)
@pytest.mark.parametrize("section", sections())
def test_wrong_golden_digest_fails(run: Run, stored: Path, section: str) -> None:
    """Defect caught: the digest of a section or of the logits is not compared, or not in the exit status."""
    golden = json.loads(stored.read_text())
    digest = golden["digests"][section]
    golden["digests"][section] = digest[:-1] + ("0" if digest[-1] != "0" else "1")
    stored.write_text(json.dumps(golden))
    status, out, _ = run()
    assert status == 1
    assert "NOT the golden one" in out
    assert out.splitlines()[-1] == f"✗ {section}"


def test_extra_or_missing_section_fails(run: Run, stored: Path) -> None:
    """Defect caught: a golden file with sections that no longer run passes."""
    golden = json.loads(stored.read_text())
    golden["digests"]["another"] = "0" * 64
    stored.write_text(json.dumps(golden))
    assert run()[0] == 1
    del golden["digests"]["another"], golden["digests"]["greedy"]
    stored.write_text(json.dumps(golden))
    assert run()[0] == 1


def test_golden_file_missing_or_of_another_contract(run: Run, stored: Path) -> None:
    """Defect caught: a traceback, or another contract's bits taken for a mismatch."""
    golden = json.loads(stored.read_text())
    stored.write_text(json.dumps(golden | {"contract_version": 3}))
    status, out, err = run()
    assert (status, out) == (2, "")
    assert "is of contract 3, this is contract 2" in err
    stored.unlink()
    status, out, err = run()
    assert (status, out) == (2, "")
    assert "missing" in err


@pytest.mark.full("one changed bit in more outputs", every=5)
@pytest.mark.parametrize("field", ["token_ids", "num_kept", "logprobs", "log_z", "mask"])
def test_one_changed_bit_fails(run: Run, monkeypatch: pytest.MonkeyPatch, field: str) -> None:
    """Defect caught: an output that is not part of the digest."""
    right = detsample.sample

    def off_by_a_bit(logits: np.ndarray, *given: Any, **named: Any) -> Any:
        out = right(logits, *given, **named)
        changed = getattr(out, field).copy()
        if named.get("temperature") is demo.SETTINGS[0].parameters["temperature"]:
            changed.view(np.uint8).reshape(-1)[-1] ^= 1
        return dataclasses.replace(out, **{field: changed})

    monkeypatch.setattr(demo.detsample, "sample", off_by_a_bit)
    status, out, _ = run()
    assert status == 1
    assert out.splitlines()[-1] == "✗ greedy"


def test_a_sampler_that_sees_its_batch_fails(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Defect caught: the comparison with other surroundings compares a result with itself."""
    right = detsample.sample

    def by_batch(logits: np.ndarray, topp_seed: Any, **named: Any) -> Any:
        out = right(logits, topp_seed, **named)
        if len(logits) == 1:
            out.logprobs.view(np.uint32)[0] ^= 1
        return out

    monkeypatch.setattr(demo.detsample, "sample", by_batch)
    status, out, _ = run()
    assert status == 1
    assert "✗ each row alone" in out
    assert "✓ the batch reversed" in out


def test_golden_file_is_written_on_request_only(run: Run, stored: Path) -> None:
    """Defect caught: a run rewrites what it is compared with, or the written file is not that of a run."""
    before = stored.read_text()
    golden = json.loads(before)
    golden["digests"]["greedy"] = "0" * 64
    stored.write_text(json.dumps(golden))
    assert run()[0] == 1
    assert json.loads(stored.read_text()) == golden
    assert run("--write-golden")[0] == 0
    assert stored.read_text() == before
    assert run()[0] == 0


@pytest.mark.full("the demo as another program")
def test_demo_as_a_program_on_a_poor_terminal() -> None:
    """Defect caught: an encoding without the vocabulary's characters ends the demo."""
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "detsample.cli", "demo"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "equal to the golden one" in done.stdout
