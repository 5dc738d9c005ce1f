"""The contract's test vectors: data that implementations in other languages check themselves with."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import kernel_path
import numpy as np
import pytest
from paths import TESTS

from detsample import reference

FILE = TESTS / "vectors" / "contract-1.json"
DATA = json.loads(FILE.read_text())


def words(array: np.ndarray) -> list[str]:
    """32-bit numbers as the vectors write them."""
    return [f"{word:08x}" for word in array.view(np.uint32).tolist()]


def floats(words: list[str]) -> np.ndarray:
    return np.array([int(word, 16) for word in words], np.uint32).view(np.float32)


def batches() -> dict[int, list[dict[str, Any]]]:
    """The rows by their vocabulary."""
    found: dict[int, list[dict[str, Any]]] = {}
    for row in DATA["rows"]:
        found.setdefault(len(row["logits"]), []).append(row)
    return found


BATCHES = batches()


@pytest.mark.parametrize("path", ["reference", "kernels"])
@pytest.mark.parametrize("vocab", BATCHES)
def test_vectors(path: str, vocab: int) -> None:
    """Catches any change of contract 1, in either implementation."""
    if path == "kernels":
        pytest.importorskip("triton", reason="Triton is not installed: no kernel runs")
    rows = BATCHES[vocab]
    given = {name: floats([row[name] for row in rows]) for name in ("temperature", "top_p", "min_p")}
    given |= {name: np.array([row[name] for row in rows], np.int64) for name in ("top_k", "topp_seed", "position")}
    sample = reference.sample if path == "reference" else kernel_path.sample
    logits = np.stack([floats(row["logits"]) for row in rows])
    out = sample(logits, **given, return_log_z=True, return_mask="bits")
    assert out.token_ids.tolist() == [row["token_id"] for row in rows]
    assert out.num_kept.tolist() == [row["num_kept"] for row in rows]
    assert out.status.tolist() == [row["status"] for row in rows]
    assert words(out.logprobs) == [row["logprob"] for row in rows]
    assert words(out.log_z) == [row["log_z"] for row in rows]
    assert [words(mask) for mask in out.mask] == [row["mask"] for row in rows]


def test_the_vectors_are_of_this_contract() -> None:
    """Catches a new contract that forgets that the old vectors stay as they are."""
    assert DATA["contract"] == reference.CONTRACT_VERSION == 1


def test_nobody_edits_the_vectors() -> None:
    """Catches vectors that were made again, to agree with whatever now computes them."""
    digest = hashlib.sha256(FILE.read_bytes()).hexdigest()
    assert digest == "81c1b6b3db721550ad835675049a8ab60fd427195fa2a8334f57b1c79b79e591"
    assert len(DATA["rows"]) == 80
