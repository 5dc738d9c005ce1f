"""Sharded vocabularies: every result has the bits of the unsharded row, however the row is cut."""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import cases
import numpy as np
import pytest
import sharded_cases
from cases import rng_of
from levels import FULL

import detsample
import reference
from detsample import sharded
from detsample.sharded import groups
from reference.mask import bits_of

RANKS = Path(__file__).parents[1] / "support" / "sharded_ranks.py"


@pytest.mark.parametrize("kind", sorted(cases.CASES))
def test_reference_shards_equal_the_whole(kind: str) -> None:
    """Would catch a sum, a tie, a first token or a noise counter that depends on where a row is cut."""
    rng = rng_of("shards", kind)
    for _ in range(20 if FULL else 4):
        logits, how = sharded_cases.call(rng, kind)
        expected = reference.sample(logits, **how, return_mask="bool")
        found = reference.sharded.sample(sharded_cases.cut(rng, logits), **how, return_mask="bool")
        for one in found:
            sharded_cases.require_equal(one, expected)
        assert (np.concatenate([one.mask for one in found], axis=1) == expected.mask).all()


@pytest.mark.parametrize("cut", [[5], [0, 5], [5, 0, 0], [1] * 5, [2, 3], [3, 2], [4, 1]], ids=str)
@pytest.mark.parametrize("order", ["top_k_first", "min_p_first", "joint"])
def test_ties_across_a_cut(cut: list[int], order: str) -> None:
    """Would catch ties that are kept by the rank that has them and not by the lowest ids of all."""
    logits = np.repeat(np.float32([[1, 2, 2, 2, 2], [0, 0, 0, 0, 0], [3, 3, 1, 3, 3]]), 30, axis=0)
    how: dict[str, Any] = {"top_k": np.tile(np.arange(6), 15), "top_p": np.tile(np.float32([0.3, 0.6, 0.9, 1, 0]), 18)}
    how |= {"filter_order": order, "min_p": np.repeat(np.float32([0, 0.4]), 45), "topp_seed": np.arange(90)}
    shards = list(np.split(logits, np.cumsum(cut)[:-1], axis=1))
    for found in sharded.sample(shards, **how, return_log_z=True):
        sharded_cases.require_equal(found, reference.sample(logits, **how, return_log_z=True))


@pytest.mark.parametrize("kind", ["bool", "bits", "csr"])
def test_masks_are_of_the_own_columns(kind: str) -> None:
    """Would catch ids of the whole vocabulary in a rank's mask, and bits that begin in the wrong word."""
    logits = rng_of("masks", kind).standard_normal((6, 100)).astype(np.float32)
    whole = reference.mask(logits, top_p=0.7).mask
    shards = list(np.split(logits, [0, 33, 34, 90], axis=1))
    for found, start, shard in zip(sharded.mask(shards, top_p=0.7, kind=kind), [0, 0, 33, 34, 90], shards, strict=True):
        own = whole[:, start : start + shard.shape[1]]
        if kind == "csr":
            assert found.mask.token_ids.tolist() == np.nonzero(own)[1].tolist()
            assert np.diff(found.mask.row_offsets).tolist() == own.sum(axis=1).tolist()
        else:
            assert np.array_equal(found.mask, own if kind == "bool" else bits_of(own))


@pytest.mark.parametrize("ragged", [False, True])
def test_verify_equals_the_whole(ragged: bool) -> None:
    """Would catch drafted tokens of another rank that are taken for foreign ones, and rows that are mixed up."""
    rng = rng_of("verify", ragged)
    logits = rng.standard_normal((8, 4, 60)).astype(np.float32) * 3
    logits[2, 1, 50] = np.nan
    seeds = rng.integers(0, 1 << 60, 8)
    drawn = reference.verify(logits, np.zeros((8, 3), np.int64), 0, seeds, position=4).token_ids[:, :1]
    drafts = np.concatenate([drawn, rng.integers(-1, 61, (8, 2))], axis=1)
    counts = rng.integers(0, 4, 8)
    how: dict[str, Any] = {"position": 4, "temperature": rng.random(8, np.float32) * 2, "top_p": 0.9}
    target = logits
    if ragged:
        how["row_offsets"] = np.concatenate([[0], np.cumsum(counts + 1)])
        target = np.concatenate([row[: n + 1] for row, n in zip(logits, counts, strict=True)])
    expected = reference.verify(target, drafts, counts, seeds, **how)
    for found in sharded.verify(list(np.split(target, [13, 13, 40], axis=-1)), drafts, counts, seeds, **how):
        sharded_cases.require_equal(found, expected)


def test_parcels_arrive_without_all_to_all() -> None:
    """Would catch parcels for another rank, in a group that can only gather."""
    sent = np.arange(12, dtype=np.float32).reshape(4, 3)

    class Second:
        rank, size = 1, 2

        def all_gather(self, message: Any) -> Any:
            return np.stack([message + 100, message])

    assert groups.exchange(Second(), sent).tolist() == [*(sent[2:] + 100).tolist(), *sent[2:].tolist()]


def test_wrong_calls_are_refused() -> None:
    """Would catch a call that waits for ranks which cannot answer, or that takes a gap in the vocabulary for tokens."""
    one = np.zeros((2, 4), np.float32)

    class Lone:
        rank, size = 0, 1

        def all_gather(self, message: Any) -> Any:
            return message[None]

    with pytest.raises(TypeError, match=r"group must have rank, size and all_gather for NumPy arrays, got NoneType"):
        sharded.sample(one, np.arange(2), vocab_start=0, vocab=4)
    with pytest.raises(ValueError, match="vocab must be 4, the columns of all ranks together, got 5"):
        sharded.sample(one, np.arange(2), vocab_start=0, vocab=5, group=Lone())
    with pytest.raises(ValueError, match="vocab_start must be 0 on rank 0, where the ranks before it end, got 1"):
        sharded.sample(one, np.arange(2), vocab_start=1, vocab=4, group=Lone())
    with pytest.raises(TypeError, match="vocab_start, vocab and group must be None where local_logits is a list"):
        sharded.sample([one, one], np.arange(2), vocab=8)
    with pytest.raises(ValueError, match=r"local_logits must have one number of rows, got \[2, 1\]"):
        sharded.sample([one, one[:1]], 1, shared_noise=True)
    with pytest.raises(TypeError, match=r"local_logits must be of one type, got \['float32', 'float16'\]"):
        sharded.sample([one, one.astype(np.float16)], np.arange(2))
    with pytest.raises(ValueError, match="1 of 2 rows of logits or parameters are invalid: row 1: a logit is NaN"):
        sharded.sample([one, np.float32([[1], [np.nan]])], np.arange(2), check=True)


@pytest.mark.full("two more processes of another framework", every=2)
@pytest.mark.parametrize("library", ["torch", "paddle"])
def test_two_processes(library: str) -> None:
    """Would catch collectives that mix up ranks, an error on one rank only, and a wait without end for a dead one."""
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    calls = [[sys.executable, str(RANKS), library, str(rank), "2", str(port)] for rank in range(2)]
    ranks = [subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for call in calls]
    told = [rank.communicate(timeout=600) for rank in ranks]
    for rank, (out, err) in enumerate(told):
        lines = [line for line in out.splitlines() if not line.startswith("I1")]
        assert lines[:5] == [
            "equal",
            "all ranks must call alike: the number of rows is 4 on rank 0 and 5 on rank 1",
            "all ranks must call alike: vocab is 1000 on rank 0 and 1001 on rank 1",
            "all ranks must call alike: top_k is 5 on rank 0 and a tensor on rank 1",
            "vocab_start must be 0 on rank 0, where the ranks before it end, got 7",
        ], err
        assert lines[5:] == (["the group says that a rank is gone"] if (library, rank) == ("torch", 0) else []), err


def test_torch_tensors_give_torch_tensors() -> None:
    """Would catch results of another library, or on another device, than the logits are."""
    torch = pytest.importorskip("torch")
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(1)).bfloat16()
    seeds = torch.arange(3)
    expected = detsample.sample(logits, seeds, top_p=0.9, return_mask="bool")
    found = sharded.sample([logits[:, :20], logits[:, 20:]], [seeds, seeds.clone()], top_p=0.9, return_mask="bool")
    assert torch.equal(torch.cat([one.mask for one in found], dim=1), expected.mask)
    assert all(torch.equal(one.token_ids, expected.token_ids) for one in found)


def test_allowed_tokens_are_of_the_own_columns() -> None:
    """Would catch a rank that reads its bits from where they would stand in a whole row."""
    logits = rng_of("allowed").standard_normal((5, 100)).astype(np.float32)
    sets = logits < 1
    sets[2] = False
    expected = reference.sample(logits, np.arange(5), top_p=0.8, allowed=bits_of(sets))
    cut = [0, 33, 34, 90]
    own = [bits_of(each) for each in np.split(sets, cut, axis=1)]
    for found in sharded.sample(list(np.split(logits, cut, axis=1)), np.arange(5), top_p=0.8, allowed=own):
        sharded_cases.require_equal(found, expected)
