"""Logarithm and noise (section 7), against mpmath."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from reference_parts import part, reference


def awkward_integers() -> list[int]:
    """64-bit integers where shifts, roundings and branches change, and random ones of every length."""
    rng = np.random.default_rng(11)
    some = (
        rng.integers(0, 2**64, 1000, dtype=np.uint64) >> rng.integers(0, 64, 1000).astype(np.uint64)
    ).tolist()
    bits = [1 << i for i in range(64)]
    around = [b + d for b in bits for d in (-1, 1)]
    sqrt2 = [(3037000499 + d) << 32 for d in (0, 1)] + [(3037000500 << 32) - 1]
    return sorted({n for n in (*some, *bits, *around, *sqrt2, 2**64 - 1, 2**63 - 1, 2**63) if 0 <= n < 2**64})


def test_floor_log2() -> None:
    """Catches the conversion to float64 rounding 2^k - 1 up to 2^k."""
    n = [n for n in awkward_integers() if n]
    got = part("logarithm").floor_log2(np.array(n, np.uint64))
    assert got.tolist() == [k.bit_length() - 1 for k in n]


def test_logarithm_against_mpmath() -> None:
    """Catches a wrong coefficient, shift or branch of SPLIT: off by more than 6 units of 2^-32."""
    mp = pytest.importorskip("mpmath")
    n = [n for n in awkward_integers() if n]
    e, r = part("logarithm").split(np.array(n, np.uint64))
    got = part("logarithm").logq(e, r).tolist()
    with mp.workprec(120):
        assert max(abs(g - mp.log(k) * 2**32) for g, k in zip(got, n, strict=True)) < 6
    assert part("logarithm").ln_mass(np.int64([1 << 40])).tolist() == [0]


def test_split_at_its_branch() -> None:
    """Catches the mantissa's limit sqrt(2) being included, or another: the exponents on both sides of it."""
    logarithm, t = part("logarithm"), np.array([3037000499, 3037000500], np.uint64)
    for shift in (0, 1, 32):
        e, r = logarithm.split(t << np.uint64(shift))
        assert e.tolist() == [31 + shift, 32 + shift]
        assert r[0] > 0 > r[1]


def test_noise_against_mpmath() -> None:
    """Catches noise further than 2^-29 from the real Gumbel at the ends, at single bits, and in between."""
    mp = pytest.importorskip("mpmath")
    s = awkward_integers()
    s = sorted({0, 2**63 - 1, 2**63, 2**64 - 1, *s, *(2**64 - 1 - k for k in s)})
    got = part("gumbel").gumbel(np.array(s, np.uint64)).tolist()
    with mp.workprec(160):
        for g, k in zip(got, s, strict=True):
            real = -mp.log(-mp.log1p(-mp.mpf(2 * k + 1) / 2**65))
            assert abs(g - real * 2**32) <= 8, k


def test_noise_is_the_integer_scaled() -> None:
    """Catches ``gumbel_noise`` rounding: the float64 must be G * 2^-32 exactly."""
    gumbel = part("gumbel")
    ids = np.arange(1000)
    noise = reference.gumbel_noise(9, 3, ids)
    g = gumbel.gumbel(gumbel.uniform(np.full(1000, 9, np.uint64), np.full(1000, 3), ids))
    assert noise.dtype == np.float64
    assert [Fraction(v) * 2**32 for v in noise.tolist()] == g.tolist()


def test_noise_shapes() -> None:
    """Catches rows and columns mixed up when seeds, positions and ids are arrays."""
    noise, seeds, places = reference.gumbel_noise, np.array([4, -5, 6]), np.array([[0], [1], [2**33]])
    single = [
        [float(noise(int(s), int(p), t)) for t in range(5)] for s, p in zip(seeds, places[:, 0], strict=True)
    ]
    assert np.ndim(noise(4, 0, 2)) == 0
    assert noise(seeds, places, np.arange(5)).tolist() == single
    assert noise(seeds, places[:, 0], np.tile(np.arange(5), (3, 1))).tolist() == single
    assert noise(seeds, places, 2).tolist() == [row[2] for row in single]
    assert noise(4, 0, np.arange(5)).tolist() == single[0]
    assert noise(4, places, np.arange(5))[0].tolist() == single[0]
    assert noise(4, 0, np.zeros((2, 3, 4), np.int32)).shape == (2, 3, 4)
    assert noise(4, 0, np.zeros((0,), np.int32)).shape == (0,)
    assert noise(-5, 1, 3) == noise(2**64 - 5, 1, 3)


@pytest.mark.parametrize(
    ("arguments", "error", "name"),
    [
        ((1.5, 0, 0), TypeError, "topp_seed"),
        ((1, -1, 0), ValueError, "position"),
        ((1, 0, -1), ValueError, "token_ids"),
        ((1, 0, 2**21), ValueError, "token_ids"),
        ((1, 0, np.array([0.5])), TypeError, "token_ids"),
        ((np.arange(2), np.arange(3), 0), ValueError, "expected shapes"),
        ((np.arange(2), 0, np.zeros((3, 4), int)), ValueError, "expected shapes"),
    ],
)
def test_noise_refuses(arguments: tuple[Any, ...], error: type[Exception], name: str) -> None:
    """Catches noise of something that is not a token of the contract."""
    with pytest.raises(error, match=name):
        reference.gumbel_noise(*arguments)
