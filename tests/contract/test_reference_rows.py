"""Whole rows: the draw, the masks and the logarithms that a row is given, against properties and plain arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from reference_parts import FLT_MAX, SMALLEST, as_bits, part, reference, rows_of_all_sorts


def test_greedy() -> None:
    """Catches greedy drawing with noise, minding filters, or taking a later one of equal tokens."""
    logits, p = rows_of_all_sorts(300, 40, 2)
    p["temperature"] = np.zeros(300, np.float32)
    out = reference.sample(logits, **p, return_log_z=True, return_mask="bool")
    good = out.status == 0
    assert good.any()
    np.testing.assert_array_equal(out.token_ids[good], (logits[good] + np.float32(0)).argmax(axis=1))
    assert set(out.num_kept[good].tolist()) == {1}
    assert set(as_bits(out.logprobs[good]) + as_bits(out.log_z[good])) == {0}
    assert (out.mask.sum(axis=1) == good).all()
    assert out.mask[good, out.token_ids[good]].all()


@pytest.mark.parametrize("vocab", [1, 31, 32, 33, 200])
def test_masks_agree(vocab: int) -> None:
    """Catches formats that disagree, bits out of order or past V, and counts that are not the mask's."""
    logits, p = rows_of_all_sorts(150, max(vocab, 16), vocab)
    logits = logits[:, :vocab]
    outs = {
        k: reference.sample(logits, **p, return_mask=k, return_log_z=True) for k in ("bool", "bits", "csr")
    }
    dense, words, csr = (outs[k].mask for k in outs)
    assert (dense.shape, dense.dtype) == ((150, vocab), np.bool_)
    assert (words.shape, words.dtype) == ((150, -(-vocab // 32)), np.int32)
    assert (csr.row_offsets.dtype, csr.token_ids.dtype) == (np.int64, np.int32)
    for row in range(150):
        ids = np.flatnonzero(dense[row]).tolist()
        number = sum((int(word) % 2**32) << 32 * i for i, word in enumerate(words[row]))
        assert [i for i in range(32 * words.shape[1]) if number >> i & 1] == ids
        assert csr.token_ids[csr.row_offsets[row] : csr.row_offsets[row + 1]].tolist() == ids
    assert csr.row_offsets[-1] == len(csr.token_ids)
    np.testing.assert_array_equal(dense.sum(axis=1), outs["bool"].num_kept)
    good = outs["bool"].status == 0
    assert dense[good, outs["bool"].token_ids[good]].all()
    filters = {k: v for k, v in p.items() if k not in ("topp_seed", "position")}
    alone = reference.mask(logits, **filters, return_log_z=True)
    assert alone.mask.tobytes() == dense.tobytes()
    assert alone.num_kept.tobytes() == outs["bool"].num_kept.tobytes()
    assert alone.log_z.tobytes() == outs["bool"].log_z.tobytes()
    assert reference.mask(logits, **filters, kind=None).mask is None


@pytest.mark.parametrize(("rows", "vocab"), [(300, 48), (12, 5000), (4, 40_000)])
def test_a_row_alone_is_the_row_in_a_batch(rows: int, vocab: int) -> None:
    """Catches anything of the batch in a result: neighbours, order, blocks, or excluded columns behind."""
    logits, p = rows_of_all_sorts(rows, vocab, 3)
    want = reference.sample(logits, **p, return_log_z=True)

    def check(rows_of: np.ndarray, x: np.ndarray) -> None:
        out = reference.sample(x, **{k: v[rows_of] for k, v in p.items()}, return_log_z=True)
        for name in ("token_ids", "num_kept", "status", "logprobs", "log_z"):
            assert getattr(out, name).tobytes() == getattr(want, name)[rows_of].tobytes(), name

    mixed = np.random.default_rng(1).permutation(rows)
    check(mixed, logits[mixed])
    for row in range(min(rows, 40)):
        check(np.array([row]), logits[row : row + 1])
    p["top_k"] = np.where(p["top_k"] >= vocab, 0, p["top_k"])  # off, whatever V
    check(np.arange(rows), np.pad(logits, ((0, 0), (0, 37)), constant_values=-np.inf))


def test_the_ways_through_a_row_agree() -> None:
    """Catches a kept set that depends on how its tokens were found: searched, sorted, or one by one."""
    kept, rng = part("kept"), np.random.default_rng(12)
    x = np.round(rng.standard_normal((20, 600)) * 3, 1).astype(np.float32) + np.float32(0)

    def tokens(way: int, **filters: Any) -> list[list[int]]:
        defaults: dict[str, Any] = {"temperature": 0.8, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
        p = part("parameters").parameters(20, **{**defaults, **filters})
        out = kept.kept_set(way, x, p, True, True)
        sets = [sorted(out.token[out.row == row].tolist()) for row in range(20)]
        return [*sets, out.mass.tolist(), out.total.tolist(), out.num_kept.tolist()]

    for filters in ({"top_k": 20}, {"top_k": 37, "top_p": 0.9}, {"top_k": 5, "min_p": 0.5}):
        assert tokens(kept.FEW, **filters) == tokens(kept.ORDERED, **filters)
    for filters in ({}, {"min_p": 0.01}):
        assert tokens(kept.UNORDERED, **filters) == tokens(kept.ORDERED, **filters)


def test_the_token_has_the_largest_score() -> None:
    """Catches noise of another token, seed or position, scores added in floats, and ties to a higher id."""
    logits, p = rows_of_all_sorts(200, 60, 4)
    p["temperature"] = np.ones(200, np.float32)  # gaps are differences
    out = reference.sample(logits, **p, return_mask="bool")
    noise = reference.gumbel_noise(p["topp_seed"], p["position"], np.arange(60))
    for row in np.flatnonzero(out.status == 0):
        gap = logits[row].max() - logits[row]
        score = {
            int(i): -math.trunc(Fraction(float(gap[i])) * 2**32)
            + int(Fraction(float(noise[row, i])) * 2**32)
            for i in np.flatnonzero(out.mask[row])
        }
        assert out.token_ids[row] == max(score, key=lambda i: (score[i], -i))


def test_saturated_scores() -> None:
    """Catches a most probable token that loses to one beyond 2^30, where its score saturates, and overflow there."""
    x = np.float32([[2e9, 3e38, 2.0**30, -3e38]])
    out = reference.sample(np.repeat(x, 200, axis=0), np.arange(200))
    assert out.token_ids.tolist() == [1] * 200
    assert out.logprobs.tolist() == [0] * 200


def test_a_tiny_temperature_is_greedy() -> None:
    """Catches noise that decides near temperature 0, which clients send for greedy."""
    x = np.float32([[30, 20]] * 64)
    for temperature in (1e-8, 1e-10, 1e-30, 1e-45):
        out = reference.sample(x, np.arange(64), position=5, temperature=temperature)
        assert out.token_ids.tolist() == [0] * 64
        assert as_bits(out.logprobs) == [0] * 64


def test_a_clear_lead_is_greedy_at_every_temperature() -> None:
    """Catches a temperature, from the smallest subnormal up, where a token 100 of it and 1e-30 ahead loses: in
    every binade, and even against the worst noise.
    """
    rng = np.random.default_rng(8)
    bits = np.concatenate([2 ** np.arange(23), np.arange(1, 255) << 23]).astype(np.uint32)
    t = np.concatenate([bits, bits + 1, bits * 2 - 1]).view(np.float32)
    t = t[np.isfinite(t) & (t > 0) & (t < 1e36)]
    lead = np.maximum(np.float32(100) * t, np.float32(1e-30))
    base = np.where(rng.random(len(t)) < 0.5, 0, -lead * np.float32(3)).astype(np.float32)
    x = np.repeat(base[:, None], 64, axis=1)
    first = rng.integers(0, 64, len(t))
    top = base.astype(np.float64) + lead
    up = top.astype(np.float32)
    up = np.where(up - base.astype(np.float64) < lead, np.nextafter(up, np.float32(np.inf)), up)
    x[np.arange(len(t)), first] = up
    for seed in range(20):
        assert reference.sample(x, seed, temperature=t).token_ids.tolist() == first.tolist()
    assert (part("gumbel").gumbel(np.uint64([0]))[0] - part("gumbel").gumbel(np.uint64([2**64 - 1]))[0]) < 49 << 32


def test_fixed_point() -> None:
    """Catches rounding to the nearest or upwards in place of towards zero, and a missing saturation."""
    a = np.append(
        np.random.default_rng(0).integers(0, 0x7F800000, 5000, dtype=np.uint32).view(np.float32), SMALLEST
    )
    a = np.append(a, np.float32([2**30, FLT_MAX, np.inf]))
    want = [math.trunc(Fraction(min(v, 2.0**30)) * 2**32) for v in a.astype(np.float64).tolist()]
    assert part("fixed_point").fixed_point(a).tolist() == want


def test_log_probabilities() -> None:
    """Catches log probabilities further from the real ones than the weights' error and the fp32 roundings."""
    logits, p = rows_of_all_sorts(400, 80, 7)
    p["temperature"] = np.ones(400, np.float32)
    out = reference.sample(logits, **p, return_log_z=True, return_mask="bool")
    for row in np.flatnonzero(out.status == 0):
        x = logits[row].astype(np.float64)
        w = np.exp(x - x.max())
        kept, token = w[out.mask[row]].sum(), int(out.token_ids[row])
        # The gap to the largest is rounded to fp32, and so is the result.
        real = x[token] - x.max() - np.log(kept)
        assert abs(out.logprobs[row] - real) <= 2**-21 + abs(x[token] - x.max()) * 2**-24 + abs(real) * 2**-24
        real = np.log(kept / w.sum())
        assert abs(out.log_z[row] - real) <= 2**-21 + abs(real) * 2**-24
        assert out.log_z[row] <= 0
    whole = reference.sample(logits, 5, return_log_z=True)
    assert set(as_bits(whole.log_z[whole.status == 0])) == {0}


def test_excluded_tokens_weigh_nothing() -> None:
    """Catches tokens of -inf that are kept or share the mass where the gaps of others are infinite as well."""
    x = np.float32([[-3e38, -np.inf, 3e38, -3e38, -np.inf]])
    for filters in ({}, {"min_p": 1e-45}, {"top_k": 4}):
        out = reference.sample(x, 1, temperature=0.5, **filters, return_log_z=True, return_mask="csr")
        assert out.mask.token_ids.tolist() == ([2] if "min_p" in filters else [0, 2, 3])
        assert as_bits(out.logprobs) == as_bits(out.log_z) == [0]


def test_distribution() -> None:
    """Catches a bias that a wrong noise, key or lane would make: 200,000 draws against the softmax."""
    x = np.linspace(0, 3, 9).astype(np.float32)
    n = 200_000
    out = reference.sample(np.broadcast_to(x, (n, 9)), 123, position=np.arange(n), return_logprobs=False)
    expected = np.exp(x.astype(np.float64))
    expected *= n / expected.sum()
    chi2 = ((np.bincount(out.token_ids, minlength=9) - expected) ** 2 / expected).sum()
    assert chi2 < 35  # 8 degrees of freedom: p = 3e-5, and the seed is fixed
