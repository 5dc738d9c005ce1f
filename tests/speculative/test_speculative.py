"""`detsample.speculative`: kernels against the reference, as bits; layouts, bad input and its neighbours."""

from __future__ import annotations

import doctest
import importlib
from typing import Any

import kernel_path
import numpy as np
import pytest
import speculative_path
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_path import GPU, bits
from levels import amount, only
from speculative_cases import agreeing_drafts, chain_case, tree_case
from speculative_path import assert_same

import detsample
from detsample import reference, speculative

DOCTESTED = (
    "detsample.speculative.verification", "detsample.speculative.drafting", "detsample.speculative.status",
    "detsample.reference.speculative", "detsample.reference.speculative_rows", "detsample.reference.products",
    "detsample.reference.speculative_rejection",
)  # fmt: skip


@pytest.mark.parametrize("module", DOCTESTED)
def test_examples_in_docstrings(module: str) -> None:
    """Catches an example that fails, or prints something else."""
    found = importlib.import_module(module)
    result = doctest.testmod(found, extraglobs={"np": np})
    assert result.attempted > 0
    assert result.failed == 0


def test_status_bits_are_those_of_the_reference() -> None:
    """Catches a bit that the kernels, the package and the reference do not mean alike."""
    from detsample.kernels.speculative import rows as speculative_rows

    ours = {bit.name: int(bit) for bit in speculative.RequestStatus}
    assert ours == {bit.name: int(bit) for bit in reference.RequestStatus}
    assert ours == {bit.name: int(bit) for bit in detsample.Status} | {
        name: int(getattr(speculative_rows, f"STATUS_{name}").value)
        for name in ("LENGTH", "OFFSETS", "DRAFT_TOKEN", "TREE", "DRAFT_WEIGHTS")
    }


@settings(max_examples=400 if GPU else amount(30, 6), deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32))
def test_chains_equal_the_reference(seed: int) -> None:
    """Catches any bit in which the kernels' tokens, counts, log probabilities or status differ from the contract's."""
    arguments, how = chain_case(seed, "match", bool(GPU))
    assert_same(speculative_path.verify(*arguments, **how), reference.verify(*arguments, **how), seed)


@settings(max_examples=400 if GPU else amount(15, 4), deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32))
def test_rejection_equals_the_reference(seed: int) -> None:
    """Catches a coin, a product, a logarithm or a residual that differs in a bit."""
    arguments, how = chain_case(seed, "rejection", bool(GPU))
    assert_same(speculative_path.verify(*arguments, **how), reference.verify(*arguments, **how), seed)


@settings(max_examples=400 if GPU else amount(40, 8), deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32))
def test_trees_equal_the_reference(seed: int) -> None:
    """Catches any bit of a tree's output that differs, in trees of any shape and in what is no tree."""
    arguments, how = tree_case(seed)
    assert_same(speculative_path.verify_tree(*arguments, **how), reference.verify_tree(*arguments, **how), seed)


def test_all_kernels_together_equal_the_reference() -> None:
    """Catches launches that do not fit together: rows drawn by kernels as well, where other tests let the reference."""
    rng = np.random.default_rng(5)
    logits, drafts = rng.standard_normal((2, 2, 5)).astype(np.float32), rng.integers(0, 5, (2, 1))
    how = {"position": np.arange(2), "top_p": np.float32([0.9, 1]), "top_k": 4}
    with speculative_path.drawn_by_kernels():
        found = speculative_path.verify(logits, drafts, 1, 9, **how)
    assert_same(found, reference.verify(logits, drafts, 1, 9, **how))
    how |= {"method": "rejection", "draft_probs": rng.random((2, 1, 5), np.float32)}
    with speculative_path.drawn_by_kernels():
        found = speculative_path.verify(logits, drafts, 1, 9, **how)
    assert_same(found, reference.verify(logits, drafts, 1, 9, **how))


@pytest.mark.parametrize("most", only(lambda most: most == 1, [0, 1, 16], "150 requests in the interpreter"))
def test_many_requests(most: int) -> None:
    """Catches an owner that is looked up in the first block of requests only."""
    rng = np.random.default_rng(most)
    lengths = rng.integers(0, most + 1, 150)
    offsets = np.append(0, np.cumsum(lengths + 1))
    logits = np.ones((offsets[-1], 3), np.float32)
    drafts = rng.integers(0, 3, (150, most))
    how = {"position": np.arange(150), "row_offsets": offsets, "temperature": rng.choice([0.0, 1.0], 150)}
    expected = reference.verify(logits, drafts, lengths, 5, **how)
    assert_same(speculative_path.verify(logits, drafts, lengths, 5, **how), expected)


def test_integers_of_rejection() -> None:
    """Catches a carry, a borrow or a bit of the coin that is lost, which random calls meet once in 2^32: against
    Python's integers, with coins on both sides of where acceptance turns.
    """
    pytest.importorskip("triton", reason="Triton is not installed: no kernel runs")
    from detsample.reference.gumbel import gumbel
    from detsample.reference.products import ln_wide
    from detsample.reference.speculative_rejection import residual_uniform
    from speculative_probe import integers

    from detsample import frameworks

    rng = np.random.default_rng(15)
    size = 512
    edges = np.uint64([0, 1, 2**31, 2**32 - 1, 2**32, 2**63, 2**64 - 1, 2**64 - 2**32])
    a, b = (rng.integers(0, 2**64, size, dtype=np.uint64) >> rng.integers(0, 64, size).astype(np.uint64) for _ in "ab")
    a[:64], b[:64] = np.repeat(edges, 8), np.tile(edges, 8)
    w, v = (rng.integers(1, 2**40 + 1, size) >> rng.integers(0, 30, size) for _ in "wv")
    mass, draft_mass = (2 ** rng.integers(40, 61, size) + rng.integers(0, 2**40, size) for _ in "pq")
    turn = [-(-(int(w[i]) * int(draft_mass[i]) << 64) // max(1, int(v[i]) * int(mass[i]))) for i in range(size)]
    coin = np.array([min(max(t - i % 2, 0), 2**64 - 1) for i, t in enumerate(turn)], np.uint64)
    expected = [
        int(coin[i]) * int(v[i]) * int(mass[i]) < int(w[i]) * int(draft_mass[i]) << 64 for i in range(size)
    ]
    assert 100 < sum(expected) < 400

    results = [np.zeros(size, np.int64) for _ in range(6)] + [np.zeros(size, np.int32)]
    given = [x.view(np.int64) for x in (a, b, coin)] + [w, mass, v, draft_mass]
    tensors = [kernel_path.on_device(x) for x in (*given, *results)]
    framework = frameworks.of(tensors[0])
    with framework.launching(framework.device(tensors[0])):
        integers[(1,)](*map(framework.buffer, tensors), SIZE=size, num_warps=4, enable_fp_fusion=False)
    high, low, less_high, less_low, ln, noise, verdict = (kernel_path.to_array(x) for x in tensors[7:])
    products = [int(x) * int(y) for x, y in zip(a, b, strict=True)]
    words = [(int(h) % 2**64, int(x) % 2**64) for h, x in zip(high, low, strict=True)]
    assert words == [divmod(n, 2**64) for n in products]
    less = [(n - ((int(x) >> 1) << 64) - int(y)) % 2**128 for n, x, y in zip(products, a, b, strict=True)]
    found = [int(h) % 2**64 << 64 | int(x) % 2**64 for h, x in zip(less_high, less_low, strict=True)]
    assert found == less
    assert np.array_equal(ln, ln_wide((high.view(np.uint64) >> np.uint64(1), low.view(np.uint64) | np.uint64(1))))
    assert verdict.astype(bool).tolist() == expected
    position = coin[1:2].view(np.int64) & (2**63 - 1)
    assert np.array_equal(noise, gumbel(residual_uniform(a[:1], position, size))[0])


# ---- what is the same by other means


def test_a_chain_is_a_tree() -> None:
    """Catches a tree whose positions or acceptance are not those of the chain that it is."""
    rng = np.random.default_rng(8)
    logits, drafts = rng.standard_normal((20, 6, 9)).astype(np.float32), rng.integers(0, 9, (20, 5))
    lengths = rng.integers(0, 6, 20)
    how = {"position": rng.integers(0, 2**50, 20), "top_p": 0.8}
    drafts = agreeing_drafts(rng, lambda d: reference.verify(logits, d, lengths, 3, **how), drafts, lengths)
    chain = reference.verify(logits, drafts, lengths, 3, **how)
    parents = np.broadcast_to(np.arange(6) - 1, (20, 6))
    with_root = np.concatenate([np.full((20, 1), -7), drafts], axis=1)
    tree = reference.verify_tree(logits, with_root, parents, 3, num_nodes=lengths + 1, **how)
    assert chain.num_accepted.max() > 2
    assert_same(chain, reference.VerifyOutput(tree.token_ids, tree.num_accepted, tree.status, tree.logprobs))


def test_what_lies_behind_the_last_token_does_not_matter() -> None:
    """Catches a row behind the stop, or a draft behind a request's last, that shows in its output."""
    rng = np.random.default_rng(9)
    logits, drafts = rng.standard_normal((30, 5, 6)).astype(np.float32), rng.integers(0, 6, (30, 4))
    lengths = rng.integers(0, 5, 30)
    for verify in (reference.verify, speculative_path.verify):
        first = verify(logits, drafts, lengths, 3, position=4)
        behind = np.arange(5) > first.num_accepted[:, None]
        spoilt = np.where(behind[..., None], np.float32(np.nan), logits)
        foreign = np.where(np.arange(4) >= lengths[:, None], -5, drafts)
        assert_same(verify(spoilt, foreign, lengths, 3, position=4), first)


@pytest.mark.parametrize("way", ["torch", "paddle"])
def test_cpu_tensors_are_served_by_the_reference(way: str) -> None:
    """Catches an argument that is not brought over, or a result of another framework."""
    framework = pytest.importorskip(way, reason=f"{way} is not installed")
    tensor = framework.from_numpy if way == "torch" else lambda a: framework.to_tensor(a, place=framework.CPUPlace())
    rng = np.random.default_rng(10)
    logits, drafts = rng.standard_normal((4, 4, 6)).astype(np.float32), rng.integers(0, 6, (4, 3))
    lengths, seeds = np.array([3, 0, 2, 1]), rng.integers(-(2**63), 2**63, 4)
    probs, parents = rng.random((4, 3, 6)).astype(np.float32), np.array([[-1, 0, 0, 2]] * 4)
    offsets = np.array([0, 4, 5, 8, 10])

    def same(found: Any, expected: Any) -> None:
        assert all(type(getattr(found, name)) is type(tensor(drafts)) for name in ("token_ids", "status"))
        assert_same(speculative_path.arrays(found), expected)

    one = speculative.verify(*map(tensor, (logits, drafts, lengths, seeds)), position=tensor(np.arange(4)))
    same(one, reference.verify(logits, drafts, lengths, seeds, position=np.arange(4)))
    flat = np.ascontiguousarray(logits.reshape(16, 6)[:11])
    ragged = {"row_offsets": offsets, "temperature": np.float32([1, 0, 2, 0.5])}
    one = speculative.verify(
        *map(tensor, (flat, drafts, lengths)), 9, position=3, shared_noise=True,
        **{n: tensor(v) for n, v in ragged.items()},
    )  # fmt: skip
    same(one, reference.verify(flat, drafts, lengths, 9, position=3, **ragged))
    one = speculative.verify(
        tensor(logits), tensor(drafts), 3, 9, position=3, shared_noise=True, method="rejection",
        draft_probs=tensor(probs),
    )  # fmt: skip
    same(one, reference.verify(logits, drafts, 3, 9, position=3, method="rejection", draft_probs=probs))
    given = map(tensor, (logits, np.append(drafts, drafts[:, :1], 1), parents))
    one = speculative.verify_tree(*given, 9, position=3, shared_noise=True)
    same(one, reference.verify_tree(logits, np.append(drafts, drafts[:, :1], 1), parents, 9, position=3))
    out = speculative.draft(tensor(logits), tensor(seeds), position=tensor(np.arange(4)), return_logprobs=True)
    expected = speculative.draft(logits, seeds, position=np.arange(4), return_logprobs=True)
    for name in ("token_ids", "status", "logprobs"):
        found = kernel_path.to_array(getattr(out, name))
        assert np.array_equal(bits(found), bits(getattr(expected, name)))


# ---- bad input


def test_a_drafted_token_that_the_draft_could_not_draw() -> None:
    """Catches an empty residual: drafter and target have one distribution, in which the drafted token has no share."""
    logits, probs = np.float32([[[0, 50, -np.inf]] * 2]), np.float32([[[0, 1, 0]]])
    for verify in (reference.verify, speculative_path.verify):
        out = verify(logits, np.array([[2]]), 1, 5, position=0, temperature=0, method="rejection", draft_probs=probs)
        assert (out.token_ids.tolist(), out.logprobs[0, 0], out.status.tolist()) == ([[1, -1]], 0, [0])


RAGGED = {
    "one too many": ([0, 4, 7, 12], [32, 32, 0]),
    "beyond the rows": ([0, 3, 7, 99], [0, 0, 32]),
    "negative": ([0, 3, -1, 12], [0, 32, 32]),
    "twice the same": ([0, 3, 0, 5], [0, 32, 32]),
    "descending": ([2, 5, 9, 8], [0, 0, 32]),
    "wild": ([-(2**63), 2**63 - 1, -(2**63), 2**63 - 1], [32, 32, 32]),
}


@pytest.mark.parametrize(("row_offsets", "status"), RAGGED.values(), ids=RAGGED)
@pytest.mark.parametrize("path", ["reference", "kernels"])
def test_offsets_that_do_not_add_up(path: str, row_offsets: list[int], status: list[int]) -> None:
    """Catches offsets that read beyond the logits, go unnoticed, or change a request that has its own rows."""
    verify = reference.verify if path == "reference" else speculative_path.verify
    rng = np.random.default_rng(11)
    logits, drafts = rng.standard_normal((12, 5)).astype(np.float32), rng.integers(0, 5, (3, 4))
    lengths, seeds = np.array([2, 3, 4]), np.array([7, 8, 9])
    out = verify(logits, drafts, lengths, seeds, position=5, row_offsets=np.array(row_offsets))
    assert out.status.tolist() == status
    for b in range(3):
        if status[b]:
            assert (out.token_ids[b] == -1).all()
            assert np.isnan(out.logprobs[b]).all()
            assert out.num_accepted[b] == 0
        else:
            own = logits[row_offsets[b] : row_offsets[b + 1]]
            alone = reference.verify(own[None], drafts[b : b + 1, : lengths[b]], int(lengths[b]), seeds[b], position=5)
            assert out.token_ids[b, : lengths[b] + 1].tolist() == alone.token_ids[0].tolist()


def test_rows_claimed_twice_are_the_first_ones() -> None:
    """Catches two requests that share rows and are both served, or the first one that is not."""
    logits, drafts = np.zeros((6, 5), np.float32), np.zeros((3, 1), np.int64)
    offsets = np.array([0, 2, 1, 3])  # request 2 claims row 1, which is request 0's
    for verify in (reference.verify, speculative_path.verify):
        out = verify(logits, drafts, 1, 3, position=0, row_offsets=offsets)
        assert out.status.tolist() == [0, 32, 32]


FOREIGN = [-2, 5, 2**31, -(2**63)]


@pytest.mark.parametrize("token", FOREIGN)
@pytest.mark.parametrize("path", ["reference", "kernels"])
def test_draft_tokens_outside_the_vocabulary(path: str, token: int) -> None:
    """Catches a foreign id that is read with, accepted, or that disturbs a neighbour."""
    chain, tree = (reference.verify, reference.verify_tree) if path == "reference" else (
        speculative_path.verify, speculative_path.verify_tree
    )  # fmt: skip
    rng = np.random.default_rng(12)
    logits, drafts = rng.standard_normal((3, 4, 5)).astype(np.float32), rng.integers(0, 5, (3, 3))
    before = chain(logits, drafts, 3, 6, position=2)
    drafts[1, 2] = token
    out = chain(logits, drafts, 3, 6, position=2)
    assert out.status.tolist() == [0, 64, 0]
    assert (out.token_ids[1] == -1).all()
    assert np.array_equal(out.token_ids[[0, 2]], before.token_ids[[0, 2]])
    assert chain(logits, drafts, np.array([3, 2, 3]), 6, position=2).status.tolist() == [0, 0, 0]  # it is not used
    nodes = np.concatenate([np.full((3, 1), token), drafts], axis=1)  # of the root nobody asks
    out = tree(logits, nodes, np.array([[-1, 0, 0, 1]] * 3), 6, position=2)
    assert out.status.tolist() == [0, 64, 0]
    assert (out.nodes[1] == -1).all()


NO_TREES = {
    "a cycle": [-1, 0, 3, 2], "itself": [-1, 0, 2, 0], "two roots": [-1, -1, 0, 1], "no root": [1, 0, 0, 0],
    "beyond": [-1, 0, 4, 0], "below": [-1, 0, -2, 0], "the root on a cycle": [3, 0, 1, 2],
}  # fmt: skip


@pytest.mark.parametrize("parents", NO_TREES.values(), ids=NO_TREES)
@pytest.mark.parametrize("path", ["reference", "kernels"])
def test_parents_that_make_no_tree(path: str, parents: list[int]) -> None:
    """Catches a climb that does not end, a parent read out of bounds, or a neighbour that is disturbed."""
    tree = reference.verify_tree if path == "reference" else speculative_path.verify_tree
    rng = np.random.default_rng(13)
    logits, drafts = rng.standard_normal((3, 4, 5)).astype(np.float32), rng.integers(0, 5, (3, 4))
    good = [-1, 0, 1, 0]
    before = tree(logits, drafts, np.array([good, good, good]), 6, position=2)
    out = tree(logits, drafts, np.array([good, parents, good]), 6, position=2)
    assert out.status.tolist() == [0, 128, 0]
    assert (out.token_ids[1] == -1).all()
    assert (out.nodes[1] == -1).all()
    for name in ("token_ids", "nodes", "logprobs"):
        assert np.array_equal(bits(getattr(out, name)[[0, 2]]), bits(getattr(before, name)[[0, 2]]))


@pytest.mark.parametrize("path", ["reference", "kernels"])
def test_a_bad_row_stops_its_own_request(path: str) -> None:
    """Catches a bad row that takes accepted tokens with it, or that counts where it is not reached."""
    verify = reference.verify if path == "reference" else speculative_path.verify
    logits = np.zeros((3, 3, 4), np.float32)
    logits[..., 2] = 50.0
    logits[0, 1, 0] = logits[1, 2, 0] = np.nan
    drafts = np.array([[2, 2], [1, 2], [2, 2]])
    out = verify(logits, drafts, 2, 5, position=1)
    assert out.status.tolist() == [1, 0, 0]
    assert out.num_accepted.tolist() == [1, 0, 2]
    assert out.token_ids.tolist() == [[2, -1, -1], [2, -1, -1], [2, 2, 2]]
    assert np.isnan(out.logprobs[0, 1:]).all()


NO_DISTRIBUTIONS = {
    "draft_probs": [[np.nan, 1, 0], [-0.1, 1, 0], [2, 0, 0], [0, 0, 0], [1, np.inf, 0]],
    "draft_logits": [[np.nan, 1, 0], [1, np.inf, 0], [-np.inf] * 3],
}


@pytest.mark.full("another kind of drafts in the interpreter", every=3)
@pytest.mark.parametrize("given", NO_DISTRIBUTIONS)
@pytest.mark.parametrize("path", ["reference", "kernels"])
def test_drafts_that_are_no_distribution(path: str, given: str) -> None:
    """Catches bad probabilities that accept, that count where they are not reached, or that disturb a neighbour."""
    verify = reference.verify if path == "reference" else speculative_path.verify
    logits, drafts = np.float32([[[9, -np.inf, -np.inf]] * 3] * 3), np.array([[0, 0], [1, 0], [0, 0]])
    good = np.full((3, 2, 3), 0.5, np.float32)
    before = verify(logits, drafts, 2, 5, position=1, method="rejection", **{given: good})
    assert before.token_ids.tolist() == [[0, 0, 0], [0, -1, -1], [0, 0, 0]]
    for row in NO_DISTRIBUTIONS[given]:
        bad = good.copy()
        bad[0, 1] = bad[1, 1] = row  # of request 0 it is reached, of request 1 it is not
        out = verify(logits, drafts, 2, 5, position=1, method="rejection", **{given: bad})
        assert out.status.tolist() == [256, 0, 0]
        assert out.token_ids.tolist() == [[0, -1, -1], [0, -1, -1], [0, 0, 0]]
        assert np.isnan(out.logprobs[0, 1:]).all()


@pytest.mark.parametrize("path", ["reference", "kernels"])
def test_positions_beyond_63_bits(path: str) -> None:
    """Catches a position that wraps around to the noise of another."""
    verify = reference.verify if path == "reference" else speculative_path.verify
    logits, position = np.zeros((1, 3, 1), np.float32), np.array([2**63 - 2])
    out = verify(logits, np.zeros((1, 2), np.int64), 2, 5, position=position)
    assert out.status.tolist() == [8]
    assert out.token_ids.tolist() == [[0, 0, -1]]
    how = {"method": "rejection", "draft_probs": np.ones((1, 2, 1), np.float32)}
    out = verify(logits, np.zeros((1, 2), np.int64), 2, 5, position=position, **how)
    assert (out.status.tolist(), out.token_ids.tolist()) == ([8], [[0, 0, -1]])


def test_check_raises_and_names_the_requests() -> None:
    """Catches an error that does not say which request is bad, or why."""
    logits, drafts = np.zeros((2, 3, 4), np.float32), np.array([[1, 1], [1, 9]])
    with pytest.raises(ValueError, match="1 of 2 requests are invalid: request 1: a draft token is outside"):
        speculative.verify(logits, drafts, 2, 5, position=0, shared_noise=True, check=True)
    parents = np.array([[-1, 0, 1], [-1, 2, 1]])
    with pytest.raises(ValueError, match="request 1: parents do not make a tree"):
        speculative.verify_tree(
            logits, np.zeros((2, 3), np.int64), parents, 5, position=0, shared_noise=True, check=True
        )
    with pytest.raises(ValueError, match=r"request 1 .parents do not make a tree"):
        reference.verify_tree(logits, np.zeros((2, 3), np.int64), parents, 5, position=0, check=True)


LOGITS, DRAFTS = np.zeros((2, 3, 4), np.float32), np.zeros((2, 2), np.int64)
REFUSED: list[tuple[tuple[Any, ...], dict[str, Any], type[Exception], str]] = [
    ((LOGITS, DRAFTS[:, :1], 1), {}, ValueError, r"target_logits must have shape \[2, 2, V\]"),
    ((LOGITS[0], DRAFTS, 1), {}, ValueError, "target_logits must have shape"),
    ((LOGITS, DRAFTS[0], 1), {}, ValueError, r"draft_tokens must have shape \[B, K\]"),
    ((LOGITS, DRAFTS.astype(np.float32), 1), {}, TypeError, "draft_tokens must be of type int64 or int32"),
    ((LOGITS, DRAFTS.tolist(), 1), {}, TypeError, "draft_tokens must be a numpy tensor"),
    ((LOGITS, DRAFTS, 3), {}, ValueError, "num_draft must be between 0 and 2, got 3"),
    ((LOGITS, DRAFTS, 1.0), {}, TypeError, "num_draft must be an integer"),
    ((LOGITS, DRAFTS, np.zeros(3, np.int64)), {}, ValueError, r"num_draft must have shape \[2\], got \[3\]"),
    ((LOGITS, DRAFTS, 1), {"top_p": np.ones(6, np.float32)}, ValueError, r"top_p must be a number or have shape \[2\]"),
    ((LOGITS, DRAFTS, 1), {"temperature": -1.0}, ValueError, "temperature must be finite and at least 0"),
    ((LOGITS, DRAFTS, 1), {"row_offsets": np.zeros(3, np.int64)}, ValueError, r"must have shape \[R, V\] with row_off"),
    ((LOGITS[0], DRAFTS, 1), {"row_offsets": np.zeros(2, int)}, ValueError, r"row_offsets must have shape \[3\]"),
    ((LOGITS, DRAFTS, 1), {"method": "typical"}, ValueError, "method must be 'match' or 'rejection', got 'typical'"),
    ((LOGITS, DRAFTS, 1), {"draft_probs": LOGITS}, ValueError, "draft_probs and draft_logits must be None"),
    ((LOGITS, DRAFTS, 1), {"method": "rejection"}, ValueError, "one of draft_probs and draft_logits must be given"),
    ((LOGITS, DRAFTS, 1), {"method": "rejection", "draft_probs": LOGITS}, ValueError, "draft_probs must have shape"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "how", "error", "message"), REFUSED, ids=[c[3][:40] for c in REFUSED])
def test_what_the_host_can_see_raises(
    arguments: tuple[Any, ...], how: dict[str, Any], error: type[Exception], message: str
) -> None:
    """Catches an error without the argument's name, or an argument that is taken for something else."""
    with pytest.raises(error, match=message):
        speculative.verify(*arguments, 5, position=0, shared_noise=True, **how)


def test_nothing_to_verify() -> None:
    """Catches empty batches and drafts without tokens that raise, or that are not plain draws."""
    empty = speculative.verify(np.zeros((0, 3, 4), np.float32), np.zeros((0, 2), np.int64), 2, 5, position=0)
    assert empty.token_ids.shape == (0, 3)
    logits = np.random.default_rng(1).standard_normal((5, 1, 9)).astype(np.float32)
    out = speculative.verify(logits, np.zeros((5, 0), np.int64), 0, 5, position=np.arange(5))
    plain = detsample.sample(logits[:, 0], 5, position=np.arange(5))
    assert np.array_equal(out.token_ids[:, 0], plain.token_ids)
    assert np.array_equal(bits(out.logprobs[:, 0]), bits(plain.logprobs))
