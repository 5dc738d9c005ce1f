"""Order, temperature and filters (sections 4 and 6), against exact arithmetic and at their edges."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from reference_parts import FLT_MAX, SMALLEST, as_bits, part, reference, same


@pytest.mark.parametrize(("vocab", "count"), [(40, 2), (5000, 1), (5000, 300), (70_001, 50)])
@pytest.mark.parametrize("kind", ["random", "ties", "equal", "mostly excluded", "subnormal"])
def test_first_tokens(vocab: int, count: int, kind: str) -> None:
    """Catches the search for the first tokens losing one, or ties in another order than by id."""
    order, rng = part("order"), np.random.default_rng(vocab + count)
    x = rng.standard_normal((3, vocab)).astype(np.float32)
    if kind == "ties":
        x = np.round(x * 2)
    elif kind == "equal":
        x[:] = -3
    elif kind == "mostly excluded":
        x[:, count // 2 + 1 :] = -np.inf
        x[2, :-1] = -np.inf
        x[2, -1] = -FLT_MAX
    elif kind == "subnormal":
        x = (rng.integers(-3, 4, x.shape) * SMALLEST).astype(np.float32)
    x += np.float32(0)
    keys, sorted_keys = order.first_in_order(x, count), order.all_in_order(x)
    for row in range(3):
        want = np.lexsort((np.arange(vocab), -x[row].astype(np.float64)))
        assert order.key_ids(sorted_keys[row]).tolist() == want.tolist()
        assert as_bits(order.key_values(sorted_keys[row])) == as_bits(x[row, want])
        first = want[: min(count, int((x[row] > -np.inf).sum()))]
        assert order.key_ids(keys[row, : len(first)]).tolist() == first.tolist()


def test_gaps() -> None:
    """Catches a quotient in place of the product with the rounded inverse, a gap of scaled logits, and NaN."""
    t = np.float32([1, 0.3, SMALLEST, 1e-38, FLT_MAX])
    x = np.float32([0, 1, -1, 7.1, FLT_MAX, -FLT_MAX, SMALLEST, -np.inf])
    for largest in np.float32([7.1, FLT_MAX]):
        below = x[x <= largest]
        got = part("temperature").gaps(np.tile(below, (5, 1)), np.full(5, largest), t)
        with np.errstate(over="ignore"):
            difference = (np.float64(largest) - below.astype(np.float64)).astype(np.float32)
            for row, temperature in enumerate(t):
                inverse = np.float32(min(1 / float(temperature), float(FLT_MAX)))
                # float64 is harmless: the product of two fp32 is exact in it.
                want = (difference.astype(np.float64) * float(inverse)).astype(np.float32)
                assert as_bits(got[row]) == as_bits(want)


def test_top_p_mass_is_exact() -> None:
    """Catches a product of top_p and S that is rounded anywhere: up to 85 bits, and shifts up to 149."""
    rng = np.random.default_rng(3)
    p = np.abs(rng.integers(1, 0x3F800000, 20_000, dtype=np.uint32).view(np.float32))
    p[:4000] = rng.random(4000, dtype=np.float32) * np.float32(0.999) + SMALLEST
    p[:8] = [SMALLEST, 1e-38, 1.1754944e-38, 0.5, 0.25, 2**-32, 2**-33, 1 - 2**-24]
    mass = rng.integers(1, 2**61, len(p)) >> rng.integers(0, 61, len(p))
    mass = np.maximum(mass, 1)
    mass[::7] = 2**61
    mass[1::7] = 2**40
    want = [math.ceil(Fraction(float(a)) * int(b)) for a, b in zip(p, mass, strict=True)]
    assert part("filters").top_p_mass(p, mass).tolist() == want


def test_min_p_weight_is_exact() -> None:
    """Catches min_p * 2^40 rounded, not rounded up, or without its cap."""
    p = np.random.default_rng(4).integers(1, 0x3FA00000, 5000, dtype=np.uint32).view(np.float32)
    p = np.append(p, np.float32([SMALLEST, 1, 1 + 2**-23, 5, FLT_MAX, np.inf]))
    want = [min(math.ceil(Fraction(float(v)) * 2**40), 2**40) if v < 1 else 2**40 for v in p]
    assert part("filters").min_p_weight(p).tolist() == want
    assert part("filters").min_p_weight(np.float32([0, -0.0, -1, -np.inf])).tolist() == [0] * 4


@pytest.mark.parametrize("vocab", [7, 64, 3000])
def test_top_k_keeps_exactly_k(vocab: int) -> None:
    """Catches ties at the boundary kept or dropped together, and k = 0, V or beyond that is not off."""
    x = np.zeros((6, vocab), np.float32)
    x[:, -1] = 1
    out = reference.mask(x, top_k=np.array([-1, 0, 1, 2, vocab, 2**62]))
    assert out.num_kept.tolist() == [vocab, vocab, 1, 2, vocab, vocab]
    assert np.flatnonzero(out.mask[3]).tolist() == [0, vocab - 1]


def test_top_p_edges() -> None:
    """Catches top_p >= 1 dropping tokens of weight 0, top_p <= 0 keeping ties, and a boundary off by one."""
    x = np.float32([[0, 0, -200, 0, -np.inf, 0]])
    given = {p: np.array(float(p)) for p in (1, 2.5, 0, -1, 1e-45, 0.25)}
    kept = {p: np.flatnonzero(reference.mask(x, top_p=top_p).mask[0]).tolist() for p, top_p in given.items()}
    assert kept == {1: [0, 1, 2, 3, 5], 2.5: [0, 1, 2, 3, 5], 0: [0], -1: [0], 1e-45: [0], 0.25: [0]}
    assert reference.mask(x, top_p=np.nextafter(np.float32(0.25), np.float32(1))).num_kept == [2]
    assert reference.mask(x, top_p=np.float32(1 - 2**-24)).num_kept == [4]


def test_min_p_edges() -> None:
    """Catches min_p > 1 dropping the largest or losing its ties, and min_p <= 0 that is not off."""
    x = np.float32([[0, -1, 0, -200]])
    got = [int(reference.mask(x, min_p=np.array(float(p))).num_kept[0]) for p in (2, 1, np.inf, 0.3, 1e-45, 0, -1)]
    assert got == [2, 2, 2, 3, 3, 4, 4]


def test_filters_meet_in_the_shortest_prefix() -> None:
    """Catches top-p renormalised over the wrong tokens, or a filter that undoes another."""
    x = np.log(np.float32([[0.4, 0.3, 0.2, 0.1]]))
    # Of the two survivors of top-k the first has 4/7 of the mass.
    assert reference.mask(x, top_k=2, top_p=0.55).num_kept == [1]
    assert reference.mask(x, top_k=2, top_p=0.6).num_kept == [2]
    assert reference.mask(x, top_p=0.55).num_kept == [2]
    assert reference.mask(x, top_p=0.95, min_p=0.4).num_kept == [3]
    assert reference.mask(x, top_k=2, top_p=0.99, min_p=0.1).num_kept == [2]


ENGINES = {
    "ours and vLLM": (
        [0.4, 0.3, 0.1, *[0.02] * 10],
        {"min_p": 0.2, "top_p": 0.87},
        {"top_k_first": 3, "min_p_first": 2},
    ),
    "ours and SGLang": ([0.4, 0.3, 0.2, 0.1], {"top_k": 2, "top_p": 0.5}, {"top_k_first": 1, "joint": 2}),
    "all three": (
        [0.4, 0.3, 0.2, 0.1],
        {"top_k": 3, "top_p": 0.7, "min_p": 0.6},
        {"top_k_first": 2, "min_p_first": 2, "joint": 2},
    ),
}


@pytest.mark.parametrize("example", ENGINES)
def test_orders_of_filters_as_engines_have_them(example: str) -> None:
    """Catches an order of filters that is not that of the engine which docs/filter-orders.md says it is."""
    probabilities, filters, kept = ENGINES[example]
    x = np.log(np.float32([probabilities]))
    for order, count in kept.items():
        assert reference.mask(x, **filters, filter_order=order).num_kept == [count], order


def test_subnormal_logits_count() -> None:
    """Catches a flush to zero: the smallest subnormal is above 0 and, at a tiny temperature, certain."""
    x = np.zeros((2, 5), np.float32)
    x[:, 3] = SMALLEST
    out = reference.sample(x, 1, temperature=np.float32([0, SMALLEST]), top_k=1)
    assert out.token_ids.tolist() == [3, 3]
    gaps = part("temperature").gaps
    assert gaps(np.zeros((1, 1), np.float32), x[0, 3:4], np.float32([FLT_MAX]))[0, 0] == 0
    assert as_bits(gaps(np.zeros((1, 1), np.float32), np.float32([1]), np.float32([FLT_MAX]))[0]) == [0x00200000]


def test_negative_zero_is_zero() -> None:
    """Catches -0 sorted below +0, in the order or in the logits as given."""
    x = np.float32([[-0.0, 0.0, -0.0]])
    for parameters in ({"temperature": 0}, {"top_k": 1}, {"top_p": 0.1}):
        assert reference.sample(x, 5, **parameters).token_ids.tolist() == [0]
    assert same(reference.sample(x, 5), reference.sample(np.abs(x), 5))
    assert same(reference.sample(x, 5, temperature=-0.0), reference.sample(x, 5, temperature=0))
