"""Distributions: what rejection puts out and how often it accepts, and how often shared noise makes two draws agree.

Seeds are fixed. A right implementation fails any of these with a probability below 1e-6, by a bound on the statistic.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from detsample.reference import speculative_rejection
from detsample.reference.fixed_point import fixed_point
from detsample.reference.gumbel import gumbel
from detsample.reference.products import ln_wide, minus, product

import detsample
from detsample import reference, speculative

VOCAB = 6
DRAWS = 60_000


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x.astype(np.float64) - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def chi_square_limit(cells: int) -> float:
    """What chi-square with so many cells exceeds with probability 1e-6 (Wilson and Hilferty's approximation)."""
    degrees = cells - 1
    return degrees * (1 - 2 / (9 * degrees) + 4.76 * np.sqrt(2 / (9 * degrees))) ** 3


def assert_distribution(counts: np.ndarray, expected: np.ndarray) -> None:
    counts, expected = counts.ravel(), expected.ravel()
    assert counts[expected == 0].sum() == 0
    counts, expected = counts[expected > 0], expected[expected > 0] * counts.sum()
    assert ((counts - expected) ** 2 / expected).sum() < chi_square_limit(len(counts))


def assert_rate(successes: int, trials: int, rate: float) -> None:
    assert abs(successes / trials - rate) < 5 * np.sqrt(rate * (1 - rate) / trials) + 1e-9


@pytest.fixture(scope="module")
def laws() -> tuple[np.ndarray, np.ndarray]:
    """(target [V + 1, V], drafter [V + 1, V]) logits behind every first token, in the last row before it."""
    rng = np.random.default_rng(20)
    target = rng.standard_normal((VOCAB + 1, VOCAB)).astype(np.float32)
    return target, (target + rng.standard_normal((VOCAB + 1, VOCAB))).astype(np.float32)


def drafted(logits: np.ndarray, seeds: np.ndarray, position: int) -> np.ndarray:
    """Tokens drawn from drafter's rows with noise of the drafter's own."""
    return reference.sample(logits, seeds, position=position).token_ids


FILTERS: dict[str, dict[str, Any]] = {
    "none": {}, "temperature": {"temperature": 0.6}, "top-k": {"top_k": 3}, "top-p": {"top_p": 0.8},
    "min-p": {"min_p": 0.25}, "all": {"temperature": 1.4, "top_k": 4, "top_p": 0.9, "min_p": 0.1},
}  # fmt: skip


@pytest.mark.full("more filters", every=5)
@pytest.mark.parametrize("filters", FILTERS.values(), ids=FILTERS)
@pytest.mark.parametrize("given", ["draft_probs", "draft_logits"])
def test_rejection_gives_the_targets_distribution(
    laws: tuple[np.ndarray, np.ndarray], given: str, filters: dict[str, Any]
) -> None:
    """Catches a wrong p/q rule, residual or filter: two positions jointly, for drafts of two tokens, and the rate at
    which the first is accepted, which is 1 - TV.
    """
    target, drafter = laws
    seeds = np.arange(DRAWS)
    own = detsample.fold_in(seeds, 99)
    start = np.full(DRAWS, VOCAB)
    one = drafted(drafter[start], own, 10)
    two = drafted(drafter[one], own, 11)
    drafts = np.stack([one, two], axis=1)
    logits = np.stack([target[start], target[one], target[two]], axis=1)
    values = np.stack([drafter[start], drafter[one]], axis=1)
    values = softmax(values).astype(np.float32) if given == "draft_probs" else values
    out = reference.verify(
        logits, drafts, 2, seeds, position=10, method="rejection", **{given: values}, **filters
    )  # fmt: skip
    assert not out.status.any()

    temperature = filters.get("temperature", 1.0)
    kept = reference.mask(target, **filters).mask
    p = softmax(np.where(kept, target / np.float32(temperature), -np.inf))
    q = softmax(drafter)
    first = out.token_ids[:, 0]
    assert_rate(int((out.num_accepted > 0).sum()), DRAWS, 1 - np.abs(p[VOCAB] - q[VOCAB]).sum() / 2)
    assert_distribution(np.bincount(first, minlength=VOCAB), p[VOCAB])
    # The second token is there if the first was accepted; where it was not, the next call draws it, without a draft.
    again = reference.verify(
        target[first][:, None], np.zeros((DRAWS, 0), np.int64), 0, seeds, position=11, method="rejection",
        draft_probs=np.zeros((DRAWS, 0, VOCAB), np.float32), **filters,
    )  # fmt: skip
    second = np.where(out.num_accepted > 0, out.token_ids[:, 1], again.token_ids[:, 0])
    joint = np.bincount(first * VOCAB + second, minlength=VOCAB**2)
    assert_distribution(joint, p[VOCAB][:, None] * p[:VOCAB])
    both = out.num_accepted == 2
    assert_distribution(np.bincount(out.token_ids[both, 2], minlength=VOCAB), _mixture(two[both], p))


def _mixture(behind: np.ndarray, p: np.ndarray) -> np.ndarray:
    return np.bincount(behind, minlength=VOCAB) @ p[:VOCAB] / len(behind)


def test_a_perfect_draft_is_always_accepted() -> None:
    """Catches p/q that is below 1 for equal distributions."""
    rng = np.random.default_rng(21)
    logits = rng.standard_normal((5000, 2, 40)).astype(np.float32)
    drafts = drafted(logits[:, 0], np.arange(5000), 3)[:, None]
    how = {"position": np.arange(5000), "method": "rejection", "draft_logits": logits[:, :1]}
    out = reference.verify(logits, drafts, 1, 7, **how)
    assert (out.num_accepted == 1).all()


def test_a_greedy_target_accepts_its_token_alone() -> None:
    """Catches a point mass that is not one."""
    rng = np.random.default_rng(22)
    logits = rng.standard_normal((2000, 2, 5)).astype(np.float32)
    drafts, probs = rng.integers(0, 5, (2000, 1)), np.full((2000, 1, 5), 0.2, np.float32)
    out = reference.verify(
        logits, drafts, 1, 7, position=np.arange(2000), temperature=0, method="rejection", draft_probs=probs
    )
    best = logits.argmax(axis=2)
    assert np.array_equal(out.num_accepted == 1, drafts[:, 0] == best[:, 0])
    assert np.array_equal(out.token_ids[:, 0], best[:, 0])
    assert np.array_equal(out.token_ids[out.num_accepted == 1, 1], best[out.num_accepted == 1, 1])


def test_probabilities_need_not_sum_to_one(laws: tuple[np.ndarray, np.ndarray]) -> None:
    """Catches p/q with a q that rounding, or a drafter in bf16, has made larger or smaller."""
    target, drafter = laws
    seeds = np.arange(DRAWS)
    drafts = drafted(np.repeat(drafter[VOCAB:], DRAWS, axis=0), detsample.fold_in(seeds, 1), 0)[:, None]
    logits = np.broadcast_to(target[VOCAB], (DRAWS, 2, VOCAB))
    half = np.broadcast_to((softmax(drafter[VOCAB]) / 2).astype(np.float32), (DRAWS, 1, VOCAB))
    out = reference.verify(logits, drafts, 1, seeds, position=0, method="rejection", draft_probs=half)
    assert_distribution(np.bincount(out.token_ids[:, 0], minlength=VOCAB), softmax(target[VOCAB]))


# ---- what goes wrong with shared noise


def test_shared_noise_and_p_over_q() -> None:
    """Catches coins or a residual that know the draft's noise. The numbers are those of docs/speculative.md: a residual
    drawn with the draft's noise, and coins that are the draft's uniforms, both put out another distribution; with the
    domains that the contract gives them they are right even for a drafter that drew with the request's own noise.
    """
    p, q = np.array([0.1, 0.45, 0.45]), np.array([0.6, 0.399, 0.001])
    count = 200_000
    seeds, every = np.arange(count), np.arange(count)
    noise = reference.gumbel_noise(seeds, 10, np.arange(3))
    drafts = drafted(np.repeat(np.log(q).astype(np.float32)[None], count, axis=0), seeds, 10)
    out = reference.verify(
        np.broadcast_to(np.log(p).astype(np.float32), (count, 2, 3)), drafts[:, None], 1, seeds, position=10,
        method="rejection", draft_probs=np.broadcast_to(q.astype(np.float32), (count, 1, 3)),
    )  # fmt: skip
    assert_distribution(np.bincount(out.token_ids[:, 0], minlength=3), p)
    assert_rate(int(out.num_accepted.sum()), count, 0.5)

    left = np.log(np.maximum(p - q, 1e-300))
    wrong = np.where(out.num_accepted == 1, drafts, (left + noise).argmax(axis=1))
    shares = np.bincount(wrong, minlength=3) / count
    assert np.abs(shares - [0.10, 0.41, 0.49]).max() < 0.005

    uniform = -np.expm1(-np.exp(-noise))[every, drafts]
    fresh = reference.gumbel_noise(seeds + count, 10, np.arange(3))
    wrong = np.where(uniform * q[drafts] < p[drafts], drafts, (left + fresh).argmax(axis=1))
    shares = np.bincount(wrong, minlength=3) / count
    assert np.abs(shares - [0.155, 0.445, 0.40]).max() < 0.005


# ---- coupling


@pytest.mark.parametrize("spread", [0.1, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("vocab", [2, 5, 100])
def test_shared_noise_agrees_as_often_as_the_theorem_says(vocab: int, spread: float) -> None:
    """Catches noise that is not the same for drafter and target: agreement is sum_i 1 / sum_j max(p_j/p_i, q_j/q_i),
    which is at least (1 - TV) / (1 + TV) (Daliri, Musco and Suresh, arXiv:2408.07978) and at most 1 - TV.
    """
    rng = np.random.default_rng(vocab)
    p = rng.standard_normal(vocab).astype(np.float32) * 2
    q = (p + rng.standard_normal(vocab) * spread).astype(np.float32)
    count = 20_000
    seeds = rng.integers(-(2**63), 2**63, count)
    position = np.arange(count)
    ours = speculative.draft(np.repeat(q[None], count, axis=0), seeds, position=position).token_ids
    theirs = reference.sample(np.repeat(p[None], count, axis=0), seeds, position=position).token_ids
    agreed = int((ours == theirs).sum())
    p, q = softmax(p), softmax(q)
    distance = np.abs(p - q).sum() / 2
    exact = (1 / np.maximum(p / p[:, None], q / q[:, None]).sum(axis=1)).sum()
    assert (1 - distance) / (1 + distance) <= exact + 1e-12
    assert exact <= 1 - distance + 1e-12
    assert_rate(agreed, count, exact)


def test_drafts_are_accepted_as_often_as_they_agree(laws: tuple[np.ndarray, np.ndarray]) -> None:
    """Catches a draft of several positions whose noise is not that of the positions at which they are verified."""
    rng = np.random.default_rng(23)
    logits = rng.standard_normal((500, 4, 20)).astype(np.float32)
    how = {"position": rng.integers(0, 2**40, 500), "temperature": 0.8, "top_k": 7}
    drafts = speculative.draft(logits[:, :3], 5, **how).token_ids
    out = speculative.verify(logits, drafts, 3, 5, **how)
    assert (out.num_accepted == 3).all()
    assert np.array_equal(out.token_ids[:, :3], drafts)
    near = logits + rng.standard_normal(logits.shape).astype(np.float32) * np.float32(0.1)
    shared = speculative.verify(logits, speculative.draft(near[:, :3], 5, **how).token_ids, 3, 5, **how)
    other = speculative.verify(logits, speculative.draft(near[:, :3], 6, **how).token_ids, 3, 5, **how)
    assert shared.num_accepted.mean() > 2.2 > 1 > other.num_accepted.mean()


# ---- the integers


def test_products_and_logarithms_of_two_words() -> None:
    """Catches a carry: against Python's integers, and against real logarithms to 2^-28."""
    rng = np.random.default_rng(24)
    edges = [0, 1, 2**31, 2**32 - 1, 2**32, 2**63, 2**64 - 1]
    a = np.append(rng.integers(0, 2**64, 500, dtype=np.uint64) >> rng.integers(0, 64, 500).astype(np.uint64), edges)
    a, b = (x.ravel() for x in np.meshgrid(a.astype(np.uint64), np.uint64([*edges, 12345678901234567890])))
    high, low = product(a, b)
    whole = [int(h) << 64 | int(x) for h, x in zip(high, low, strict=True)]
    assert whole == [int(x) * int(y) for x, y in zip(a, b, strict=True)]
    one, other = (high, low), product(b, np.roll(a, 1))
    ints = [int(h) << 64 | int(x) for h, x in zip(*other, strict=True)]
    difference = minus(one, other)
    found = [int(h) << 64 | int(x) for h, x in zip(*difference, strict=True)]
    assert found == [(x - y) % 2**128 for x, y in zip(whole, ints, strict=True)]
    small = [i for i, n in enumerate(whole) if 0 < n < 2**127]
    real = np.array([float(np.log2(float(whole[i]))) for i in small]) * np.log(2)
    assert np.abs(ln_wide((high[small], low[small])) * 2.0**-32 - real).max() < 2.0**-28


def test_acceptance_is_the_exact_comparison() -> None:
    """Catches a coin that is cut short: the probability of acceptance is right to 2^-64 at both ends."""
    accepted = speculative_rejection._accepted
    one, big = np.int64([1]), np.int64([1 << 61])
    for coin, w, v, expected in (
        (2**64 - 1, 1, 1, True), (0, 0, 1, False), (0, 1, 1, True), (2**63 - 1, 1, 2, True), (2**63, 1, 2, False),
    ):  # fmt: skip
        assert accepted(np.uint64([coin]), one * w, big, one * v, big).tolist() == [expected]


def test_noise_of_the_residual_is_gumbel_noise_of_other_domains() -> None:
    """Catches domains that are mixed up with each other, with the draw's or with the coin's."""
    seeds, position = np.arange(4).astype(np.uint64), np.arange(4)
    residual = speculative_rejection.residual_uniform(seeds, position, 8)
    own = reference.gumbel_noise(seeds, position, np.arange(8))
    assert not np.isin(gumbel(residual), fixed_point(own.astype(np.float32))).any()
    coins = speculative_rejection.coin(seeds, position)
    assert not np.isin(residual >> np.uint64(32), coins >> np.uint64(32)).any()
    assert len(np.unique(residual)) == residual.size
