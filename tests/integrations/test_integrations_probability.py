"""Logits of probabilities: the reference against real logarithms, the kernel against the reference."""

from __future__ import annotations

import doctest

import detsample.reference.probability
import kernel_path
import numpy as np
import pytest

import detsample.integrations.missing
import detsample.integrations.probability
from detsample import frameworks
from detsample.integrations.probability import log_probabilities

TINY = 2.0**-149
EDGES = [0.0, -0.0, 1.0, 0.5, 2.0**-126, TINY, 2.0**-127, 3.4028235e38, np.inf, -np.inf, np.nan, -1.0, -TINY]


def some(count: int, seed: int) -> np.ndarray:
    """Probabilities of every size, and any bits at all."""
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 1 << 32, count, dtype=np.uint32).view(np.float32)
    small = np.exp(-rng.exponential(20, count)).astype(np.float32)
    near_one = (np.float32(1) - rng.integers(0, 1 << 12, count).astype(np.float32) * np.float32(2.0**-24)).astype(
        np.float32
    )
    return np.concatenate([np.float32(EDGES), bits, small, near_one]).astype(np.float32)


def test_error_against_real_logarithms() -> None:
    """Defect caught: a wrong exponent for denormals or at an octave's end, or a second rounding."""
    p = some(200_000, 0)
    p = p[(p > 0) & (p < np.inf)]
    real = np.log(p.astype(np.float64))
    error = np.abs(log_probabilities(p[None])[0] - real)
    assert (error <= np.abs(real) * 2.0**-24 + 6 * 2.0**-32).all()


@pytest.mark.parametrize("around", [1.0, 0.70710678, 0.5, 1e-3, 2.0**-126])
def test_never_falls_as_p_rises(around: float) -> None:
    """Defect caught: two probabilities whose logits are in the other order."""
    middle = int(np.float32(around).view(np.int32))
    p = np.arange(middle - 50_000, middle + 50_000, dtype=np.int32).view(np.float32)
    assert (np.diff(log_probabilities(p[None])[0]) >= 0).all()


def test_what_is_no_probability() -> None:
    """Defect caught: a row with a NaN or a negative number that is drawn from."""
    got = log_probabilities(np.float32([EDGES]))[0]
    assert got[[0, 1]].tolist() == [-np.inf, -np.inf]
    assert got[2].view(np.int32) == 0
    assert got[8] == np.inf
    assert np.isnan(got[9:]).all()


@pytest.mark.triton_contract
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_kernel_has_the_bits_of_the_reference(dtype: str) -> None:
    """Defect caught: a kernel that rounds, or treats an edge, otherwise."""
    pytest.importorskip("triton", reason="Triton is not installed: no kernel runs")
    from detsample.integrations.probability import on_gpu

    kernel_path.prepare_interpreter()
    p = some(3_000 if kernel_path.GPU is None else 3_000_000, 1)
    with np.errstate(over="ignore"):
        p = np.resize(p, (3, len(p) // 3)).astype(dtype)
    given = kernel_path.on_device(p[:, 5:])  # a stride that is not the width
    got = kernel_path.to_array(on_gpu.log_probabilities(frameworks.of(given), given))
    due = detsample.reference.probability.log_probabilities(p[:, 5:])
    same = got.view(np.int32) == due.view(np.int32)
    assert (same | (np.isnan(got) & np.isnan(due))).all()


def test_bad_arguments_are_named() -> None:
    """Defect caught: an error from somewhere inside."""
    with pytest.raises(ValueError, match=r"probs must have shape \[B, V\]"):
        log_probabilities(np.zeros(3, np.float32))
    with pytest.raises(TypeError, match="probs must be float32"):
        log_probabilities(np.zeros((1, 3), np.int64))


def test_examples() -> None:
    """Defect caught: a docstring's example that prints something else."""
    for module in (
        detsample.integrations.probability,
        detsample.integrations.missing,
        detsample.reference.probability,
    ):
        result = doctest.testmod(module)
        assert result.attempted > 0
        assert result.failed == 0
