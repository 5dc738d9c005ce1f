"""Weights (section 5): their error, that they never rise, and their ends."""

from __future__ import annotations

import numpy as np
import pytest
from reference_parts import FLT_MAX, SMALLEST, part


def floats_of_bits(start: int, stop: int) -> np.ndarray:
    return np.arange(start, stop, dtype=np.uint32).view(np.float32)


def check_weights(a: np.ndarray, before: int = 2**40) -> int:
    """Check the weights of ascending a, the first of them against the one before; return the last."""
    w = part("weight").weight(a)
    assert w[0] <= before
    assert (w[1:] <= w[:-1]).all()
    real = np.exp(-a.astype(np.float64)) * 2.0**40
    assert (np.abs(w - real) <= real * 2.0**-22 + 0.5).all()
    return int(w[-1])


def test_power_of_every_fraction() -> None:
    """Catches a fraction whose value is out of range, above the one before, or off by more than 2^-22."""
    b = np.arange(1 << 23, dtype=np.uint32)
    p = part("weight").power(b)
    assert (p.max(), p.min()) == (1 << 24, p[-1])
    assert p[-1] >= 1 << 23  # so that the next n, which begins with 2^24 halved, is not above
    assert (np.diff(p) <= 0).all()
    real = np.exp2(24 - b / 2.0**23)
    assert (np.abs(p - real) <= real * 2.0**-22).all()


@pytest.mark.parametrize("exponent", [-10, -1, 0, 1, 3, 4])
def test_weights_of_a_binade(exponent: int) -> None:
    """Catches weights that ascend with a, or stray from 2^40 exp(-a): all 2^23 fractions of one size of a."""
    start = exponent + 127 << 23
    check_weights(floats_of_bits(start - 1, start + (1 << 23) + 1))


@pytest.mark.full("every fp32 number there is")
def test_weights_of_every_float() -> None:
    """Catches weights that ascend or stray for any fp32 a that has a weight, subnormal ones included."""
    last = 2**40
    for start in range(0, 0x42000000, 1 << 22):
        last = check_weights(floats_of_bits(start, start + (1 << 22)), last)
    assert last == 0


def test_weights_at_the_ends() -> None:
    """Catches W(0) that is not 2^40, and overflow where a is beyond the last weight, infinite or tiny."""
    a = np.float32([0, SMALLEST, 1e-10, 28, 29, 31.999998, 32, 33, 1e4, FLT_MAX, np.inf])
    assert part("weight").weight(a).tolist() == [2**40] * 3 + [1] + [0] * 7


def test_weights_against_mpmath() -> None:
    """Catches the float64 exp of the other tests being the one that is wrong."""
    mp = pytest.importorskip("mpmath")
    a = np.random.default_rng(2).uniform(0, 30, 300).astype(np.float32)
    with mp.workprec(100):
        for value, w in zip(a.tolist(), part("weight").weight(a).tolist(), strict=True):
            real = mp.exp(-mp.mpf(value)) * 2**40
            assert abs(w - real) <= real * mp.mpf(2) ** -22 + 0.5
