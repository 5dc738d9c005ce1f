"""`detsample.plan`: the bits of `sample`, with its checks made once. Its launches are compared in test_launch.py."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from kernel_path import OUTPUTS, assert_same

import detsample
from detsample import frameworks

F32 = np.float32
SEEDS = np.arange(3)


def tensors(framework: str) -> Any:
    """What makes a CPU tensor of an array, sharing no memory with it."""
    if framework == "numpy":
        return np.array
    module = pytest.importorskip(framework, reason=f"{framework} is not installed")
    return lambda array: (module.tensor if framework == "torch" else module.to_tensor)(array)


def rows(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((3, 40), dtype=F32)


def arrays(out: Any) -> Any:
    """An output with arrays in the place of tensors."""
    fields = ((name, getattr(out, name)) for name in OUTPUTS)
    return SimpleNamespace(**{n: None if x is None else frameworks.of(x).fetch(x) for n, x in fields})


@pytest.mark.parametrize("framework", ["numpy", "torch", "paddle"])
def test_plans_draw_what_sample_draws(framework: str) -> None:
    """Catches a parameter that a plan loses, and values kept from the logits or the vectors that it was made with."""
    make = tensors(framework)
    vectors = {"position": make(np.array([0, 1, 2])), "top_p": make(F32([0.9, 1, 0.4]))}
    wanted = {"top_k": 9, "min_p": 0.01, "temperature": 0.7, "return_log_z": True, "return_mask": "bits"}
    draw = detsample.plan(make(rows(1)), 11, **vectors, **wanted)
    for seed in (1, 2):
        logits = make(rows(seed))
        assert_same(arrays(draw(logits)), arrays(detsample.sample(logits, 11, **vectors, **wanted)))
        vectors["position"][1] = 7
        vectors["top_p"][2] = 0.8
    assert draw(logits).token_ids is not draw(logits).token_ids


def test_results_not_asked_for() -> None:
    """Catches switches that are not passed on."""
    out = detsample.plan(rows(1), SEEDS, return_logprobs=False)(rows(1))
    assert (out.logprobs, out.log_z, out.mask) == (None, None, None)


@pytest.mark.parametrize(
    ("logits", "error", "message"),
    [
        (rows(1)[:2], ValueError, r"float32 \[3, 40\] with strides .* on cpu 0 as planned, got float32 \[2, 40\]"),
        (rows(1).astype(np.float16), ValueError, "logits must be float32 .* got float16"),
        (np.asfortranarray(rows(1)), ValueError, r"as planned, got float32 \[3, 40\] with strides \[1, 3\]"),
        (rows(1).tolist(), TypeError, "logits must be a ndarray as planned, got list"),
    ],
)
def test_logits_of_another_layout(logits: Any, error: type[Exception], message: str) -> None:
    """Catches logits that are read as if they lay like those planned for."""
    with pytest.raises(error, match=message):
        detsample.plan(rows(1), SEEDS)(logits)


def test_what_sample_refuses() -> None:
    """Catches checks that a plan leaves out."""
    wrong_shape = {"position": np.zeros(4, np.int64)}
    for bad in ({"top_p": np.nan}, {"temperature": -1.0}, {"return_mask": "dense"}, wrong_shape):
        with pytest.raises(ValueError, match=next(iter(bad))):
            detsample.plan(rows(1), SEEDS, **bad)
    bad_row = rows(1)
    bad_row[1, 3] = np.nan
    with pytest.raises(ValueError, match="row 1"):
        detsample.plan(rows(1), SEEDS)(bad_row, check=True)
