"""`detsample.sample` and `reference.sample` take and refuse the same, as the table in docs/usage.md says."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from levels import amount

import detsample
from detsample import reference

LOGITS = np.random.default_rng(0).standard_normal((2, 5), dtype=np.float32)
NAMES = ("temperature", "top_p", "min_p", "top_k", "position", "topp_seed")
TYPES = ("float16", "float32", "float64", "longdouble", "int8", "uint8", "int16", "int32", "uint32", "int64", "uint64")
SHAPES = ((), (1,), (2,), (2, 1), (1, 2), (3,), (0,))
NUMBERS: list[Any] = [0, 1, 2, -1, 2**31, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 10**400]
NUMBERS += [0.5, -0.5, math.nan, math.inf, -math.inf, 1e300, 1e-60, Fraction(1, 3), Fraction(-1, 3), Fraction(10**400)]
NUMBERS += [np.float16(0.5), np.float32(2), np.float64(0.1), np.longdouble(0.1), np.int8(3), np.uint64(2**64 - 1)]
NUMBERS += [True, np.bool_(True), np.timedelta64(1), Decimal(1), 1j, np.complex64(1), "1", None, [1, 1], (1, 1), b"1"]


def outcome(call: Any, name: str, value: Any) -> Any:
    """What becomes of a call: the error's class, or all results as bits."""
    given_ = {"topp_seed": 7, "position": 3, name: value}
    more = {"shared_noise": True} if call is detsample.sample else {}
    try:
        out = call(LOGITS, **given_, **more, return_log_z=True)
    except (TypeError, ValueError) as error:
        if not str(error).startswith(name):
            raise AssertionError(f"{name} is not what the error names first") from error
        return type(error)
    results = (out.token_ids, out.num_kept, out.status, out.logprobs, out.log_z)
    return [np.asarray(array).tobytes() for array in results]


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray:
    dtype, shape = np.dtype(draw(st.sampled_from(TYPES))), draw(st.sampled_from(SHAPES))
    values = [0, 1, 2, 3, 2**31, 2**40] if dtype.kind != "u" else [0, 1, 2, 3, 2**31, 2**63, 2**64 - 1]
    values += [] if dtype.kind == "u" else [-1, -(2**40)]
    values += [0.5, -0.5, math.nan, math.inf, 1e-60] if dtype.kind == "f" else []
    picked = draw(st.lists(st.sampled_from(values), min_size=math.prod(shape), max_size=math.prod(shape)))
    with np.errstate(all="ignore"):
        wide = np.array(picked, np.uint64 if dtype.kind == "u" else np.float64 if dtype.kind == "f" else np.int64)
        return wide.reshape(shape).astype(dtype)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", NUMBERS, ids=lambda value: f"{type(value).__name__}-{str(value)[:12]}")
def test_numbers(name: str, value: Any) -> None:
    """Catches a number that one of the two takes and the other refuses, or refuses for another reason."""
    assert outcome(detsample.sample, name, value) == outcome(reference.sample, name, value)


@settings(max_examples=amount(2000, 300), deadline=None, derandomize=True, database=None)
@given(st.sampled_from(NAMES), arrays())
def test_arrays(name: str, value: np.ndarray) -> None:
    """Catches an array that one of the two takes, reads or refuses otherwise: by type, shape or content."""
    assert outcome(detsample.sample, name, value) == outcome(reference.sample, name, value)


def test_unsigned_seeds_are_taken_by_value() -> None:
    """Catches unsigned seeds refused, cut to 32 bits or read with a sign of 32 bits."""
    for seeds in (np.array([2**32 - 1, 7], np.uint32), np.array([2**64 - 1, 2**63], np.uint64)):
        by_value = [reference.sample(LOGITS[b : b + 1], int(seeds[b])).token_ids[0] for b in range(2)]
        for call in (detsample.sample, reference.sample):
            assert call(LOGITS, seeds).token_ids.tolist() == by_value


def test_kept_sets_in_words_and_octets() -> None:
    """Catches a set in unsigned words or octets that is refused, or read in another order."""
    x = np.random.default_rng(1).standard_normal((3, 45), dtype=np.float32)
    words = np.asarray(reference.mask(x, top_k=7, kind="bits").mask)
    octets = words.astype("<i4").view(np.uint8)
    tokens = x.argmax(axis=1)
    expected = reference.observe(x, tokens, words)
    for kept in (words.view(np.uint32), octets, np.ascontiguousarray(octets[:, :6])):
        found = reference.observe(x, tokens, kept)
        assert found.logprobs.tolist() == expected.logprobs.tolist()
        assert found.entropy.tolist() == expected.entropy.tolist()
    for kept in (octets[:, :5], octets.view(np.int8), words.astype(np.int64)):
        with pytest.raises(ValueError, match=r"^kept: expected int32 or uint32"):
            reference.observe(x, tokens, kept)
