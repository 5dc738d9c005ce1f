"""Requests that are broken in every way at once: kernels against the reference, and both against the rules."""

from __future__ import annotations

import collections

import numpy as np
import pytest
import speculative_path
from broken_requests import broken_call
from levels import amount

from detsample import reference

CALLS = amount(150, 15)


@pytest.mark.parametrize("first", [0, 1, 2], ids=["match", "rejection", "tree"])
def test_kernels_refuse_and_end_what_the_reference_does(first: int) -> None:
    """Catches a status bit that the two decide differently, a refused request that is written to or that harms another,
    and an offset that is followed out of the logits.
    """
    pytest.importorskip("triton", reason="Triton is not installed: no kernel runs")
    for seed in range(first, CALLS, 3):
        name, args, how = broken_call(seed)
        found = getattr(speculative_path, name)(*args, **how)
        speculative_path.assert_same(found, getattr(reference, name)(*args, **how), seed)


def test_every_bit_is_set_and_most_together() -> None:
    """Catches a generator that breaks nothing, or always the same: of 600 calls, every bit and many mixtures."""
    seen: collections.Counter[int] = collections.Counter()
    for seed in range(600):
        name, args, how = broken_call(seed)
        out = getattr(reference, name)(*args, **how)
        seen.update(out.status.tolist())
        refused = out.status & (16 | 32 | 64 | 128) != 0
        assert (out.token_ids[refused] == -1).all()
        assert (out.num_accepted[refused] == 0).all()
        assert (out.status[refused] & ~(16 | 32 | 64 | 128) == 0).all()
        assert (out.status[out.status & 16 != 0] == 16).all()
        assert (out.token_ids[out.status == 0, 0] >= 0).all()
    assert seen[0] > 300
    for bit in (1, 2, 4, 8, 16, 32, 64, 96, 128, 160, 256):
        assert seen[bit], bit


def test_a_refused_request_may_have_two_reasons() -> None:
    """Catches the first reason hiding the second, as the reference did and an H100 did not."""
    logits = np.zeros((2, 2), np.float32)
    how = {"position": 0, "row_offsets": np.array([0, 2]), "method": "rejection", "draft_logits": logits[:0]}
    assert reference.verify(logits, np.array([[7]]), np.array([1]), 0, **how).status.tolist() == [96]


def test_minus_one_ends_a_chain() -> None:
    """Catches a -1 of asynchronous scheduling taken for a token outside the vocabulary, or what is behind it read."""
    rng = np.random.default_rng(2)
    logits = rng.standard_normal((1, 4, 9), dtype=np.float32)
    how = {"position": 3, "top_p": 0.9}
    first = int(reference.sample(logits[:, 0], 5, **how).token_ids[0])
    for method in ("match", "rejection"):
        more = {"method": method} | ({"draft_logits": logits[:, :3]} if method == "rejection" else {})
        for drafts, many in (([-1, 99, -5], 0), ([first, -1, -1], 1), ([first, 2, -1], 2)):
            found = reference.verify(logits, np.array([drafts]), 3, 5, **how, **more)
            plain = np.where(np.arange(3) < many, drafts, 0)
            expected = reference.verify(logits, plain[None], many, 5, **how, **more)
            speculative_path.assert_same(found, expected, drafts)
            assert found.status.tolist() == [0]
        assert reference.verify(logits, np.array([[first, -2, 0]]), 3, 5, **how, **more).status.tolist() == [64]


def test_minus_one_in_a_tree_is_never_accepted() -> None:
    """Catches a node without a token that is refused, or that an invalid row's -1 accepts."""
    logits = np.zeros((1, 3, 4), np.float32)
    logits[0, 0, 2] = 9
    parents = np.array([[-1, 0, 1]])
    out = reference.verify_tree(logits, np.array([[0, -1, 0]]), parents, 5, position=3, temperature=0)
    assert (out.status.tolist(), out.token_ids.tolist(), out.num_accepted.tolist()) == ([0], [[2, -1, -1]], [0])
    logits[0, 0, 1] = np.nan
    out = reference.verify_tree(logits, np.array([[0, -1, 0]]), parents, 5, position=3, temperature=0)
    assert (out.status.tolist(), out.num_accepted.tolist()) == ([1], [0])
