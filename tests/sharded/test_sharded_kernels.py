"""The kernels of sharded rows against the unsharded reference, a few tokens a row: the interpreter is slow."""

from __future__ import annotations

from typing import Any

import cases
import numpy as np
import pytest
import sharded_cases
import sharded_path
from cases import rng_of
from levels import only

import reference
from reference.mask import bits_of

CUT = [151, 151]  # an empty shard in the middle, and one whose first token is no multiple of four


def rows(*kinds: str, vocab: int = 300) -> np.ndarray:
    return np.concatenate([cases.CASES[kind](rng_of("rows", kind), 1, vocab) for kind in kinds])


def compare(logits: np.ndarray, kind: str | None, how: dict[str, Any], cut: list[int] = CUT) -> None:
    """Require the bits of the whole rows, of results and masks."""
    how = {"topp_seed": np.arange(len(logits)) * 2**40, "position": 5, "return_log_z": True, **how}
    expected = reference.sample(logits, **how, return_mask="bool")
    shards = list(np.split(logits, cut, axis=1))
    for found, own in zip(sharded_path.sample(shards, kind, **how), np.split(expected.mask, cut, axis=1), strict=True):
        sharded_cases.require_equal(found, expected)
        if kind == "csr":
            assert found.mask.token_ids.tolist() == np.nonzero(own)[1].tolist()
        elif kind is not None:
            assert np.array_equal(found.mask, bits_of(own) if kind == "bits" else own)


ROUNDS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "top_k": {"top_k": 9, "top_p": 0.8},
    "joint": {"top_k": 9, "top_p": 0.8, "filter_order": "joint"},
    "no_filter": {},
    "min_p": {"min_p": 0.3, "return_log_z": False},
    "large_top_k": {"top_k": 200},
    "top_p": {"top_p": 0.9},
}


@pytest.mark.parametrize("name", only(lambda name: name in ("min_p", "joint"), ROUNDS, "other rounds"))
def test_rounds(name: str) -> None:
    """Would catch a kind of call that takes other rounds, or results that are left unwritten in one of them."""
    kinds = ("few_levels", "randn", "invalid_sprinkled")
    kind = {"greedy": "bits", "no_filter": "csr", "top_p": "bool"}.get(name)
    compare(rows(*kinds), kind, ROUNDS[name])


@pytest.mark.full("a minute in the interpreter")
@pytest.mark.parametrize("order", ["min_p_first", "joint", "top_k_first"])
def test_all_filters_of_mixed_rows(order: str) -> None:
    """Would catch a search that ends one token early or late, and ties that a wrong rank keeps."""
    logits = np.concatenate([rows("few_levels", "randn"), np.zeros((1, 300), np.float32), rows("peaked")] * 2)
    f32 = np.float32
    compare(logits, "bool", {
        "temperature": f32([1, 2, 1, 0.5, 1, 1, 1e5, 0]), "top_k": np.int64([200, 250, 0, 5, 0, 140, 290, 0]),
        "top_p": f32([0.9, 1, 0.5, 0.9, 0.97, 0.99, 0.3, 0.5]), "min_p": f32([0, 0.01, 0, 0, 0, 0.001, 0, 0]),
        "filter_order": order,
    })  # fmt: skip


def test_few_tokens_in_many_shards() -> None:
    """Would catch shards with fewer tokens than they could tell of, among them those of one token."""
    compare(rows("tied_runs", "neg_inf_some", vocab=7), "bool", {"top_k": 3}, cut=[1, 2, 2, 6])


@pytest.mark.parametrize("count", [1, 5])
def test_rows_that_are_exchanged(count: int) -> None:
    """Would catch rows that no rank draws, or rows taken from another place, where ranks do not share them evenly; and
    ties that a wrong rank keeps.
    """
    logits = np.concatenate([np.repeat(np.float32([[0, 0.5]]), 45, axis=1), rows("randn", vocab=90)] * 3)[:count]
    compare(logits, "bits", {"top_p": np.linspace(0.9, 0.1, count, dtype=np.float32)}, cut=[31, 83])


@pytest.mark.parametrize(
    "how", [{"top_k": 3}, {"return_log_z": True}, {"top_p": 0.9}], ids=["first tokens", "sums", "exchanged"]
)
def test_allowed_tokens(how: dict[str, Any]) -> None:
    """Would catch a kernel that reads no bits, or those of other tokens where a shard begins within four."""
    logits = rows("randn", "few_levels", "few_levels", vocab=40)
    sets = np.ones(logits.shape, bool)
    sets[0, logits[0].argmax()] = sets[1, 7:30] = sets[2] = False
    cut = [3, 3, 23]
    how = {"topp_seed": np.arange(3), **how}
    expected = reference.sample(logits, **how, allowed=bits_of(sets), return_mask="bool")
    own = [bits_of(each) for each in np.split(sets, cut, axis=1)]
    found = sharded_path.sample(np.split(logits, cut, axis=1), "bool", allowed=own, **how)
    for one, mask in zip(found, np.split(expected.mask, cut, axis=1), strict=True):
        sharded_cases.require_equal(one, expected)
        assert np.array_equal(one.mask, mask)
