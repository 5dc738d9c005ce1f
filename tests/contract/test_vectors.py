"""The contract's test vectors: data that implementations in other languages check themselves with."""

from __future__ import annotations

import hashlib
import re

import kernel_path
import numpy as np
import pytest
import speculative_path
import vectors
from levels import amount
from paths import TESTS
from wrong_implementations import MISTAKES, broken

from detsample import reference

FOLDER = TESTS / "vectors"
DIGESTS = {
    "contract-2-allowed.json": "27ce1c393b23ee336e65c5c70a2c8e55ec72255586d4803bfadb801e5b5db78e",
    "contract-2-functions.json": "0e278576e34661e4190bd1cfc81537ad64857916d9ae157d4c3e6505e0164873",
    "contract-2-rows.json": "3f1f4561f919f83b726aa6148d74aa2bfa7c0169591eaf8fb74d17faea74be3c",
}
BATCHES = dict(vectors.batches())
BATCHES |= {f"allowed {name}": rows for name, rows in vectors.batches(vectors.ALLOWED)}


@pytest.mark.parametrize("name", [name for name, _ in vectors.functions(reference)])
def test_functions(name: str) -> None:
    """Catches any change of a function of contract 2 in the reference."""
    assert dict(vectors.functions(reference))[name]()


@pytest.mark.parametrize("batch", BATCHES)
def test_rows(batch: str) -> None:
    """Catches any change of contract 2 in the reference, in whole rows."""
    assert vectors.sample_agrees(reference.sample, BATCHES[batch])
    if "margin" in BATCHES[batch][0]:
        assert vectors.margins_agree(reference.margin, BATCHES[batch])


@pytest.mark.full("more vectors in the interpreter", every=18)
@pytest.mark.parametrize("batch", BATCHES)
def test_rows_by_the_kernels(batch: str) -> None:
    """Catches any change of contract 2 in the kernels."""
    pytest.importorskip("triton", reason="Triton is not installed: no kernel runs")
    assert vectors.sample_agrees(kernel_path.sample, BATCHES[batch])


def test_observations() -> None:
    """Catches any change of what is observed, sets as uint32 words among it."""
    assert vectors.observations_agree(reference.observe)


@pytest.mark.parametrize("path", ["reference", "kernels"])
def test_requests(path: str) -> None:
    """Catches any change of verification, of requests in order and of broken ones."""
    if path == "kernels":
        pytest.importorskip("triton", reason="Triton is not installed: no kernel runs")
    every = vectors.ROWS["requests"]
    calls, some = (reference, every) if path == "reference" else (speculative_path, every[:: amount(5, 15)])
    assert [n for n, vector in enumerate(some) if not vectors.request_agrees(calls, vector)] == []


@pytest.mark.full("more wrong implementations", every=2)
@pytest.mark.parametrize("name", MISTAKES)
@pytest.mark.filterwarnings("ignore")
def test_each_classic_mistake_fails_a_vector(name: str) -> None:
    """Catches vectors that let a wrong implementation pass."""
    mistake = MISTAKES[name]
    with broken(mistake):
        assert vectors.first_failure(reference, "margin" if mistake.module == "margin" else "")


def test_nothing_stays_broken() -> None:
    """Catches a broken function that outlives its test."""
    with broken(MISTAKES["no final rounding in W"]):
        assert vectors.first_failure(reference) == "W"
    assert vectors.first_failure(reference, "W") is None


def test_the_readme_lists_the_mistakes() -> None:
    """Catches a mistake that nobody is warned of, and a warning that no test holds."""
    listed = re.findall(r"^- (.*)$", (FOLDER / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert listed == list(MISTAKES)
    assert len(MISTAKES) >= 40


def test_the_vectors_are_of_this_contract() -> None:
    """Catches a new contract that forgets that the old vectors stay as they are."""
    assert vectors.FUNCTIONS["contract"] == vectors.ROWS["contract"] == reference.CONTRACT_VERSION == 2


@pytest.mark.parametrize("name", DIGESTS)
def test_nobody_edits_the_vectors(name: str) -> None:
    """Catches vectors that were made again, to agree with whatever now computes them."""
    content = (FOLDER / name).read_bytes()
    assert hashlib.sha256(content).hexdigest() == DIGESTS[name]
    assert len(content) < 1 << 20


def test_enough_rows_keep_several_tokens() -> None:
    """Catches rows that say nothing of filters: those with one kept token, or all."""
    kept = np.array([row["num_kept"] for row in vectors.ROWS["sample"]])
    assert (kept > 1).sum() > 100
