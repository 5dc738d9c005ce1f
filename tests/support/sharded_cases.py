"""Calls with sharded rows, and the comparison with unsharded ones."""

from __future__ import annotations

from typing import Any

import cases
import numpy as np

FIELDS = ("token_ids", "num_kept", "num_accepted", "status", "logprobs", "log_z")


def call(rng: np.random.Generator, kind: str) -> tuple[np.ndarray, dict[str, Any]]:
    """Rows of a kind and all parameters of a call."""
    rows, vocab = int(rng.integers(1, 9)), int(rng.choice([1, 2, 5, 33, 100, 300, 1000, 3000]))
    logits = cases.CASES[kind](rng, rows, vocab)
    how: dict[str, Any] = {**cases.parameters(rng, rows, vocab), "return_log_z": bool(rng.integers(2))}
    how["filter_order"] = ("top_k_first", "min_p_first", "joint")[rng.integers(3)]
    return logits, how


def cut(rng: np.random.Generator, logits: np.ndarray, most: int = 16) -> list[np.ndarray]:
    """Rows cut into 1 to `most` shards at random; in a third of the cases there are empty ones or some of one token."""
    vocab = logits.shape[1]
    ends = np.sort(rng.integers(0, vocab + 1, rng.integers(0, most)))
    if rng.integers(3) == 0 and len(ends) > 1:
        ends[1:] = np.minimum(ends[0] + np.arange(1, len(ends)) * rng.integers(0, 2), vocab)
    return list(np.split(logits, ends, axis=1))


def require_equal(found: Any, expected: Any) -> None:
    """Compare all results but masks, bit by bit."""
    for name in FIELDS:
        one, other = getattr(found, name, None), getattr(expected, name, None)
        assert (one is None) == (other is None), name
        if other is not None:
            assert one.dtype == other.dtype, (name, one, other)
            assert one.tobytes() == other.tobytes(), (name, one, other)
