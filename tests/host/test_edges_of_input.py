"""Arrays with a mask, numbers of other libraries, plans and classes: what is no plain array or number."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import detsample
from detsample import frameworks, reference, rollout

X = np.zeros((2, 5), np.float32)
SEEDS = np.arange(2)


@pytest.mark.parametrize("sample", [detsample.sample, reference.sample, rollout.draw, detsample.margin])
@pytest.mark.parametrize("name", ["logits", "topp_seed", "position", "temperature", "top_k", "top_p", "min_p"])
def test_a_masked_array_is_refused(sample: Any, name: str) -> None:
    """Would catch a mask that is ignored: 751 of 1,000 draws were of masked tokens."""
    given: dict[str, Any] = {"logits": X, "topp_seed": np.arange(2), name: np.ones(2, int if "p" in name[3:] else None)}
    for whole in ("topp_seed", "position", "top_k"):
        if name == whole:
            given[name] = np.arange(2)
    given[name] = np.ma.masked_array(X if name == "logits" else given[name], mask=False)
    with pytest.raises(TypeError, match=rf"{name}.*(MaskedArray|masked)"):
        sample(**given)


def test_a_masked_array_of_tokens_or_seeds_is_refused() -> None:
    """Would catch the same where it is not logits."""
    masked = np.ma.masked_array(np.arange(3), mask=[0, 1, 0])
    for call in (
        lambda: detsample.gumbel_noise(7, 0, masked),
        lambda: detsample.fold_in(masked, 1),
        lambda: reference.gumbel_noise(7, 0, masked),
        lambda: rollout.observe(X, masked[:2], np.zeros((2, 1), np.int32)),
        lambda: rollout.Record.of(rollout.draw(X, SEEDS), masked[:2]),
    ):
        with pytest.raises(TypeError, match=r"(?i)masked"):
            call()


def test_a_bfloat16_scalar_is_a_number() -> None:
    """Would catch that a scalar of a type is refused whose arrays are taken."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x = np.random.default_rng(1).standard_normal((2, 50), dtype=np.float32)
    scalar, vector = (
        detsample.sample(x, SEEDS, top_p=value, min_p=0.0).num_kept
        for value in (ml_dtypes.bfloat16(0.8), np.array([0.8, 0.8], ml_dtypes.bfloat16))
    )
    assert scalar.tolist() == vector.tolist()
    with pytest.raises(TypeError, match="top_k"):
        detsample.sample(x, SEEDS, top_k=ml_dtypes.bfloat16(3))


@pytest.mark.parametrize("copied", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_plan_says_that_it_cannot_be_pickled(copied: Any) -> None:
    """Would catch "Can't pickle local object": the reader is to be told what to do instead."""
    with pytest.raises(TypeError, match="call plan"):
        copied(detsample.plan(X, SEEDS))


def test_a_class_of_the_callers_is_freed() -> None:
    """Would catch a table of classes that keeps alive each that was ever seen."""

    def made() -> weakref.ref[type]:
        class Mine(np.ndarray):
            pass

        detsample.sample(X.view(Mine), SEEDS)
        return weakref.ref(Mine)

    there = made()
    gc.collect()
    assert there() is None
    assert frameworks.of(X).name == "numpy"


NUMBERS = (Fraction(1, 3), Fraction(2**25 - 1, 2**26) + Fraction(1, 2**80), -(10**400), np.longdouble("0.1"))


@pytest.mark.parametrize("value", NUMBERS)
def test_a_record_has_the_number_that_was_drawn_with(value: Any) -> None:
    """Would catch a parameter rounded twice in a record, or one beyond float64: an honest record fails its replay."""
    x = np.random.default_rng(2).standard_normal((2, 50), dtype=np.float32)
    record = rollout.Record.of(rollout.draw(x, SEEDS, top_p=value, temperature=Fraction(7, 9)), 0)
    assert rollout.replay(record, x).same
    from detsample.sampler import parameters

    assert record.top_p[0] == np.float32(parameters.to_fp32(value))
    from detsample import golden

    made = golden.record(x, SEEDS, top_p=value, temperature=Fraction(7, 9))
    assert made.rows[0].top_p == record.top_p[0] or made.rows[0].top_p == float(record.top_p[0])
    assert golden.check(made, x).exit_status == 0
