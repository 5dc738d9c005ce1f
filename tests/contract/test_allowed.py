"""Allowed tokens: a forbidden one is as if its logit were -inf, in every call that takes sets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import speculative_path
from detsample.reference.mask import bits_of
from kernel_path import bits
from levels import amount

import detsample
from detsample import reference, rollout, speculative

RNG = np.random.default_rng(21)
X = RNG.standard_normal((6, 70)).astype(np.float32) * 2
FREE = RNG.random((6, 70)) < 0.4
X[0, ~FREE[0]], X[1, ~FREE[1]] = np.nan, np.inf
FREE[5] = False
SETS, PLAIN, SEEDS = bits_of(FREE), np.where(FREE, X, np.float32(-np.inf)), np.arange(6)
OCTETS = np.packbits(FREE, axis=1, bitorder="little")
HOW = {"temperature": 0.7, "top_p": 0.9}


def same(one: Any, other: Any, *names: str) -> None:
    for name in names:
        assert (bits(getattr(one, name)) == bits(getattr(other, name))).all(), name


@pytest.mark.parametrize("sets", [SETS, SETS.view(np.uint32), SETS.view(np.uint8), OCTETS])
def test_every_layout(sets: np.ndarray) -> None:
    """Defect caught: a layout read in another order; a forbidden NaN or +inf that counts; bits past V that do."""
    sets = sets.copy()
    if sets.dtype.itemsize == 4:
        sets[:, -1] |= sets.dtype.type(-1 & 0x7FFFFFC0)
    found = detsample.sample(X, SEEDS, **HOW, allowed=sets, return_log_z=True, return_mask="bits")
    same(found, detsample.sample(PLAIN, SEEDS, **HOW, return_log_z=True, return_mask="bits"),
         "token_ids", "num_kept", "status", "logprobs", "log_z", "mask")  # fmt: skip
    assert found.status.tolist() == [0, 0, 0, 0, 0, int(detsample.Status.EMPTY)]


def test_every_call() -> None:
    """Defect caught: a call that takes the sets and does not use them."""
    how: dict[str, Any] = {**HOW, "allowed": SETS}
    same(detsample.mask(X, **how), detsample.mask(PLAIN, **HOW), "mask", "num_kept", "status")
    same(detsample.plan(X, SEEDS, **how)(X), detsample.sample(PLAIN, SEEDS, **HOW), "token_ids", "logprobs")
    same(rollout.draw(X, SEEDS, **how), rollout.draw(PLAIN, SEEDS, **HOW), "token_ids", "logprobs", "kept", "log_z")


@pytest.mark.parametrize("path", ["reference", "calls", "kernels"])
@pytest.mark.parametrize("method", ["match", "rejection", "tree", "ragged"])
def test_drafts(path: str, method: str) -> None:
    """Defect caught: a row of a draft with another row's set; a forbidden logit that is the largest of a row."""
    calls: Any = {"reference": reference, "calls": speculative, "kernels": speculative_path}[path]
    if path == "kernels":
        pytest.importorskip("triton", reason="Triton is not installed: no kernel runs")
    for seed in range(amount(10, 2)):
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((2, 3, 70)).astype(np.float32)
        free = rng.random(x.shape) < 0.5
        x[~free] = 50
        plain = np.where(free, x, np.float32(-np.inf))
        sets = bits_of(free.reshape(6, 70)).reshape(2, 3, -1)
        drafts, how = plain.argmax(axis=-1), {"position": 4, "temperature": 0.3, "top_k": 5}
        noise = {"shared_noise": True} if path == "calls" else {}
        if method == "tree":
            given: tuple[Any, ...] = (drafts, np.array([[-1, 0, 1]] * 2), np.array([3, 4]))
            call = calls.verify_tree
        else:
            given, call = (drafts[:, :2], np.array([2, 2]), np.array([3, 4])), calls.verify
        if method == "rejection":
            how |= {"method": "rejection", "draft_logits": rng.standard_normal((2, 2, 70)).astype(np.float32)}
        if method == "ragged":
            how["row_offsets"] = np.array([0, 3, 6])
            x, plain, sets = x.reshape(6, 70), plain.reshape(6, 70), sets.reshape(6, -1)
        found, expected = call(x, *given, **how, **noise, allowed=sets), call(plain, *given, **how, **noise)
        same(found, expected, "token_ids", "num_accepted", "status", "logprobs")


@pytest.mark.parametrize(
    ("sets", "kind", "message"),
    [
        (SETS[:, :2], ValueError, r"allowed must have a bit for each of 70 tokens, as int32 \[6, 3\], got \[6, 2\]"),
        (SETS[:5], ValueError, r"int32 \[6, 3\], got \[5, 3\]"),
        (FREE, TypeError, "allowed must be of type int32, uint32 or uint8, got bool"),
        (SETS.tolist(), TypeError, "allowed must be a numpy tensor like the logits, got builtins.list"),
    ],
)
def test_errors(sets: Any, kind: type[Exception], message: str) -> None:
    """Defect caught: a set that is too short for the vocabulary, of which the rest could be drawn."""
    with pytest.raises(kind, match=message):
        detsample.sample(X, SEEDS, allowed=sets)


def test_sets_are_read_when_a_plan_is_called() -> None:
    """Defect caught: a plan that keeps the sets of its making."""
    sets = np.full_like(SETS, -1)
    draw = detsample.plan(PLAIN[:5], SEEDS[:5], allowed=sets[:5])
    sets[:] = bits_of(np.arange(70) == FREE.argmax(axis=1)[:, None])
    assert draw(PLAIN[:5]).token_ids.tolist() == FREE[:5].argmax(axis=1).tolist()
