"""What calls return, and the forms in which they take logits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import detsample
from detsample import rollout, speculative
from detsample.sampler.output import Csr

F32 = np.float32
LOGITS = np.random.default_rng(1).standard_normal((3, 40), dtype=F32)
SEEDS = np.arange(3)


def outputs() -> list[Any]:
    def once() -> list[Any]:
        return [
            detsample.sample(LOGITS, SEEDS, return_mask="csr"), detsample.mask(LOGITS), detsample.margin(LOGITS, SEEDS),
            Csr(SEEDS, SEEDS), rollout.draw(LOGITS, SEEDS),
            speculative.draft(LOGITS, SEEDS, position=0),
        ]  # fmt: skip

    return [*zip(once(), once(), strict=True)]


def test_outputs_can_be_compared_and_be_keys() -> None:
    """Defect caught: `==` or `hash` of an output raises about the truth of an array, deep in somebody's cache."""
    for one, other in outputs():
        assert one == one
        assert one != other, type(one)
        assert len({one, other, one}) == 2


@pytest.mark.parametrize("call", [detsample.sample, detsample.margin])
def test_forms_of_logits(call: Any) -> None:
    """Defect caught: a row, a list or fp64 that means the same as [B, V] fp32 is refused, or gives something else."""
    due = vars(call(LOGITS, SEEDS, top_p=0.9))
    forms = {"lists": LOGITS.tolist(), "tuples": tuple(map(tuple, LOGITS.tolist())), "fp64": LOGITS.astype(np.float64)}
    for name, form in forms.items():
        for key, value in vars(call(form, SEEDS, top_p=0.9)).items():
            assert_array_equal(value, due[key], err_msg=name)
    for form in (LOGITS[1], LOGITS[1].tolist(), LOGITS[1].astype(np.float64)):
        for key, value in vars(call(form, 1, top_p=0.9)).items():
            assert_array_equal(value, due[key] if due[key] is None else due[key][1:2])


def test_fp64_tensors_and_odd_values() -> None:
    """Defect caught: NaN or an infinity of fp64 taken for a number that fp32 does not have."""
    odd = np.array([[0.0, -np.inf, 1.0], [np.nan, 0.0, 0.0], [np.inf, 0.0, 0.0]])
    assert detsample.sample(odd, SEEDS).status.tolist() == detsample.sample(odd.astype(F32), SEEDS).status.tolist()
    torch = pytest.importorskip("torch")
    found = detsample.sample(torch.from_numpy(LOGITS).double(), torch.arange(3))
    assert found.token_ids.tolist() == detsample.sample(LOGITS, SEEDS).token_ids.tolist()


@pytest.mark.parametrize(
    ("logits", "error", "told"),
    [
        ([[0.0, 1.0], [0.1]], ValueError, r"rows of one length, got lengths \[1, 2\]"),
        ([[0.0, "1"]], TypeError, "logits must be a real number, got '1'"),
        ([0.0, [1.0]], TypeError, "logits must be a real number"),
        ([], ValueError, "between 1 and 2\\^21 columns"),
        (np.array([[0.0, 0.1]]), ValueError, r"fp32 numbers where they are float64, got 0.1 at \[0, 1\]: cast them"),
        (np.array([[0.0, 1e300]]), ValueError, "must be fp32 numbers"),
        (np.zeros((1, 2, 2)), ValueError, r"shape \[B, V\]"),
        (np.zeros((1, 2), np.int64), TypeError, "float32, bfloat16 or float16, got int64"),
    ],
)
def test_what_cannot_be_logits_is_named(logits: Any, error: type[Exception], told: str) -> None:
    """Defect caught: numbers rounded, or text read as numbers, without a word."""
    with pytest.raises(error, match=told):
        detsample.sample(logits, 0)
