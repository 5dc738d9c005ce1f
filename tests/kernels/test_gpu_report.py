"""The report that owners of GPUs run: its jobs, its comparison, and all of it in Triton's interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import cases
import gpu_report
import numpy as np
import pytest
from gpu_report import LARGE, LAYOUTS, LEAST, MASKS, MIDDLE, ORDERS, Batch, Job, compare, jobs, kinds, make_batch


@pytest.mark.full("a report of hundreds of rows in the interpreter")
def test_the_report_of_the_interpreter(tmp_path: Path) -> None:
    """Catches a report that ends in an error, or finds a difference where there is none, before a GPU is at hand."""
    pytest.importorskip("triton", reason="Triton is not installed: no kernel runs")
    # The seed is of rows without saturated scores, which take the interpreter ten seconds each.
    out, rows, seed = tmp_path / "report.json", 24, 35
    few = list(jobs(rows, seed, 33, 2))
    met = [{getattr(job, name) for job in few} for name in ("mask", "layout", "dtype", "filter_order", "scalars")]
    assert [len(values) for values in met] == [3, 3, 3, 3, 2], "another seed meets all"
    assert set(LEAST) <= {job.kind for job in few}, "another seed does"
    size = ("--rows", str(rows), "--largest", "33", "--batch", "2", "--processes", "1", "--seed", str(seed))
    command = [sys.executable, gpu_report.__file__, "--framework", "interpreter", *size, "--out", str(out)]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    report = json.loads(out.read_text())
    assert list(report) == ["machine", "seed", "check"]
    assert list(report["check"]) == ["rows", "tokens", "mismatches", "rows_by_kind", "seconds"]
    assert (report["check"]["rows"], report["check"]["mismatches"]) == (rows, {})
    assert sum(report["check"]["rows_by_kind"].values()) == rows


def test_jobs_are_of_all_kinds() -> None:
    """Catches a kind of case, a mask, a layout of rows or a type that the report never meets, and numbers in the place
    of vectors.
    """
    made = list(jobs(2_000_000, 2))  # seeds 1 and 8 miss one of the rarest jobs
    assert set(kinds()) == {*cases.CASES, "exact_half_boundaries", "score_ties"} == {job.kind for job in made}
    assert {(job.kind, job.vocab) for job in made} >= {(kind, vocab) for kind in kinds() for vocab in (*MIDDLE, *LARGE)}
    assert sum(job.rows for job in made) >= 2_000_000
    for name, table in (("mask", MASKS), ("layout", LAYOUTS), ("filter_order", ORDERS)):
        count = Counter(getattr(job, name) for job in made)
        assert set(count) == set(table)
        assert all(abs(count[which] / len(made) - share) < 0.06 for which, share in table.items())
    assert len({(job.mask, job.layout) for job in made}) == 9
    assert len({(job.mask, job.dtype, job.scalars) for job in made}) == 18
    assert 0.05 < np.mean([job.scalars for job in made]) < 0.25
    assert len({job.number for job in made}) == len(made)
    assert max(job.vocab for job in jobs(500, 1, 33, 7)) <= 33
    assert max(job.rows for job in jobs(500, 1, 33, 7)) <= 7


@pytest.mark.parametrize("kind", ["randn", "exact_half_boundaries", "score_ties"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_batch_is_as_its_job_says(kind: str, layout: str) -> None:
    """Catches rows that lie side by side where they should not, a gap that is not NaN, numbers that are vectors."""
    plain = kind == "randn"
    batch = make_batch(Job(1, 9, 37, kind, "float32", "bits", layout, plain))
    stride = batch.logits.shape[1]
    assert {"dense": stride == 37, "aligned": stride % 16 == 0, "odd": stride % 2 == 1 and stride > 37}[layout]
    assert not np.isnan(batch.logits[:, :37]).any()
    assert np.isnan(batch.logits[:, 37:]).all()
    assert any(isinstance(value, (int, float)) for value in batch.parameters.values()) == plain
    if kind == "exact_half_boundaries":
        case = cases.exact_half_boundaries(np.random.default_rng(1), 9, 37)
        assert (batch.expected["num_kept"] == case.num_kept).all()
    if kind == "score_ties":
        assert (batch.expected["status"] == 0).all()


def mismatches(batch: Batch, found: dict[str, np.ndarray]) -> dict[str, int]:
    report: dict[str, Any] = {"rows": 0, "tokens": 0, "mismatches": {}, "rows_by_kind": {}}
    compare(batch, found, report)
    assert report["rows"] == batch.job.rows
    return report["mismatches"]


@pytest.mark.parametrize("mask", MASKS)
def test_one_wrong_bit_is_counted(mask: str) -> None:
    """Catches an output, or a form of mask, that is not compared."""
    batch = make_batch(Job(3, 20, 33, "randn", "float16", mask, "odd", False))
    assert mismatches(batch, batch.expected) == {}
    for name, expected in batch.expected.items():
        for place in (0, -1):
            found = expected.copy()
            found.reshape(-1).view(np.uint8)[place] ^= 1
            assert mismatches(batch, batch.expected | {name: found}) == {name: 1}, (name, place)


def test_the_end_of_a_csr_mask() -> None:
    """Catches tokens that are missing, or behind the last one anything but -1."""
    batch = make_batch(Job(3, 20, 33, "randn", "float32", "csr"))
    right = batch.expected["mask"]
    assert mismatches(batch, batch.expected | {"mask": np.append(right, [-1, -1])}) == {}
    assert mismatches(batch, batch.expected | {"mask": np.append(right, [-1, 3])}) == {"mask": 1}
    assert mismatches(batch, batch.expected | {"mask": right[:-1]}) == {"mask": 20}
