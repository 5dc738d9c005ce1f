"""Inputs (section 2): what is refused, and every form of what is taken."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from reference_parts import as_bits, reference, rows_of_all_sorts, same

ZEROS = np.zeros((3, 4), np.float32)


@pytest.mark.parametrize(
    ("logits", "error", "match"),
    [
        (ZEROS.astype(np.float64), TypeError, "logits: expected float32, float16 or bfloat16, got float64"),
        (ZEROS.astype(np.int32), TypeError, "logits: .*int32"),
        (ZEROS.tolist(), TypeError, "logits: expected a NumPy array, got list"),
        (ZEROS[0], ValueError, r"logits: expected shape \[B, V\], got 1 dim"),
        (ZEROS[None], ValueError, r"logits: .*3 dim"),
        (ZEROS[:, :0], ValueError, "logits: .*V = 0"),
        (np.broadcast_to(np.float32(0), (1, 2**21 + 1)), ValueError, "logits: .*V = 2097153"),
    ],
)
def test_bad_logits(logits: Any, error: type[Exception], match: str) -> None:
    """Catches logits of another kind or shape that are taken, or refused without saying why."""
    with pytest.raises(error, match=match):
        reference.sample(logits, 0)
    with pytest.raises(error, match=match):
        reference.mask(logits)


BAD_PARAMETERS = [
    ("temperature", -1.0, ValueError),
    ("temperature", math.inf, ValueError),
    ("temperature", math.nan, ValueError),
    ("temperature", 1e39, ValueError),
    pytest.param("temperature", 10**400, ValueError, id="temperature-huge"),
    ("temperature", np.ones(3, int), TypeError),
    ("temperature", np.ones(3, np.longdouble), TypeError),
    ("temperature", Decimal(1), TypeError),
    ("temperature", np.timedelta64(1), TypeError),
    ("temperature", Fraction(-1, 3), ValueError),
    ("temperature", np.ones(2), ValueError),
    ("temperature", np.ones((1, 3)), ValueError),
    ("temperature", np.ones((3, 2)), ValueError),
    ("temperature", True, TypeError),
    ("temperature", "1", TypeError),
    ("temperature", None, TypeError),
    ("temperature", 1j, TypeError),
    ("temperature", [1.0, 1.0, 1.0], TypeError),
    ("temperature", np.ones(3, bool), TypeError),
    ("temperature", np.ones(3, complex), TypeError),
    ("top_p", math.nan, ValueError),
    ("top_p", np.bool_(True), TypeError),
    ("top_p", np.ones(4, np.float32), ValueError),
    ("min_p", math.nan, ValueError),
    ("min_p", np.array(["1"] * 3), TypeError),
    ("top_k", 1.0, TypeError),
    ("top_k", True, TypeError),
    ("top_k", np.ones(3), TypeError),
    ("top_k", np.ones(2, int), ValueError),
    ("top_k", 2**64, ValueError),
    ("topp_seed", 1.0, TypeError),
    ("topp_seed", False, TypeError),
    ("topp_seed", 2**64, ValueError),
    ("topp_seed", -(2**63) - 1, ValueError),
    ("topp_seed", np.ones(5, int), ValueError),
    ("position", -1, ValueError),
    ("position", np.int32(-1), ValueError),
    ("position", 2**63, ValueError),
    ("position", 0.0, TypeError),
    ("position", np.ones(3, np.uint64), TypeError),
    ("position", np.ones(3, np.uint8), TypeError),
]


@pytest.mark.parametrize(("name", "value", "error"), BAD_PARAMETERS)
def test_bad_parameter(name: str, value: Any, error: type[Exception]) -> None:
    """Catches what can be seen at once and is not refused, or refused without the name of the argument."""
    with pytest.raises(error, match=f"^{name}: expected"):
        reference.sample(ZEROS, **{"topp_seed": 0, name: value})
    with pytest.raises(error, match=f"^{name}: expected"):
        reference.sample(ZEROS[:0], **{"topp_seed": 0, name: value})


@pytest.mark.parametrize("kind", ["dense", "", True, 3, np.array([1, 2])])
def test_bad_mask_kind(kind: Any) -> None:
    """Catches an unknown mask format that is taken for another."""
    with pytest.raises(ValueError, match="return_mask: expected None, 'bool', 'bits' or 'csr'"):
        reference.sample(ZEROS, 0, return_mask=kind)
    with pytest.raises(ValueError, match="kind: expected"):
        reference.mask(ZEROS, kind=kind)


def test_scalars_beyond_do_not_raise() -> None:
    """Catches a refusal of what the contract defines: filters beyond their range are off or at their end."""
    for p in ({"top_p": -3}, {"min_p": -1}, {"top_k": -1}, {"top_k": 99}):
        assert reference.sample(ZEROS, 0, **p).status.tolist() == [0, 0, 0]
    beyond = np.float32([1.5, np.inf, 2])  # numbers above 1 are mistakes, in arrays they are what section 6 says
    assert reference.sample(ZEROS, 0, top_p=beyond, min_p=beyond).num_kept.tolist() == [4, 4, 4]


def test_scalars_vectors_and_columns_agree() -> None:
    """Catches a parameter that means something else as a NumPy scalar, 0-d array, vector or column."""
    x = np.random.default_rng(0).standard_normal((3, 40)).astype(np.float32)
    want = reference.sample(x, 7, position=3, temperature=0.5, top_k=9, top_p=0.75, min_p=0.125)
    forms = (np.array, lambda v: np.full(3, v), lambda v: np.full((3, 1), v), lambda v: np.array([v])[0])
    for f in forms:
        p = {"position": f(3), "temperature": f(0.5), "top_k": f(9), "top_p": f(0.75), "min_p": f(0.125)}
        assert same(want, reference.sample(x, f(7), **p))
    small = {
        "position": np.full(3, 3, np.int32),
        "temperature": np.full(3, 0.5, np.float16),
        "top_k": np.int8(9),
        "min_p": Fraction(1, 8),
    }
    assert same(want, reference.sample(x, np.uint64(7), **small, top_p=0.75))
    assert same(reference.sample(x, 7, temperature=1), reference.sample(x, 7, temperature=np.full(3, 1.0)))


def test_arrays_without_an_axis_are_arrays() -> None:
    """Catches an exception where a tensor on a GPU, which nobody on the host reads, can only give a status."""
    x = np.zeros((2, 3), np.float32)
    for bad in ({"temperature": np.array(-1.0)}, {"position": np.array(-1)}, {"top_p": np.array(np.nan)}):
        assert reference.sample(x, 1, **bad).status.tolist() == [8, 8]


def test_an_order_of_filters_that_there_is_none() -> None:
    """Catches a misspelt order that silently means the usual one."""
    x = np.zeros((1, 3), np.float32)
    for bad in ("top_k", "", None, 1, np.array("joint")):
        with pytest.raises(ValueError, match=r"^filter_order: expected 'top_k_first', 'min_p_first' or 'joint', got"):
            reference.mask(x, filter_order=bad)


def test_wide_parameters_are_rounded_first() -> None:
    """Catches filters computed in float64: 0.1 must be the fp32 nearest to it."""
    logits, p = rows_of_all_sorts(300, 30, 5)
    wide = {
        **p,
        "temperature": p["temperature"] * 1.0000000001,
        "top_p": p["top_p"].astype(np.float64) + 1e-12,
    }
    wide["top_p"][p["top_p"] <= 1e-6] = p["top_p"][p["top_p"] <= 1e-6]
    for name in ("temperature", "top_p"):
        p[name] = wide[name].astype(np.float32)
    assert same(reference.sample(logits, **wide), reference.sample(logits, **p))


def test_signed_and_unsigned_seeds() -> None:
    """Catches seeds above 2^63 that are refused, truncated to 32 bits, or another stream when negative."""
    x = np.zeros((4, 1000), np.float32)
    unsigned = np.array([2**64 - 1, 2**63, 5, 2**32 + 5], np.uint64)
    out = reference.sample(x, unsigned)
    assert same(out, reference.sample(x, unsigned.view(np.int64)))
    one = [int(reference.sample(x[:1], int(s)).token_ids[0]) for s in unsigned]
    assert out.token_ids.tolist() == one
    assert len(set(one)) == 4
    assert same(reference.sample(x, -1), reference.sample(x, 2**64 - 1))


def test_layouts_of_the_logits() -> None:
    """Catches strides that change a result, and writing to the caller's logits."""
    logits, p = rows_of_all_sorts(30, 70, 6)
    want = reference.sample(logits, **p, return_log_z=True, return_mask="bits")
    wide = np.zeros((60, 140), np.float32)
    wide[::2, ::2] = logits
    for layout in (np.asfortranarray(logits), wide[::2, ::2], logits[::-1, ::-1].copy()[::-1, ::-1]):
        layout.flags.writeable = False
        assert same(want, reference.sample(layout, **p, return_log_z=True, return_mask="bits"))
    one = np.broadcast_to(logits[1], (5, 70))
    assert len(set(reference.mask(one, top_k=9, kind="bits").mask[:, 0].tolist())) == 1


def test_dtypes_of_the_logits() -> None:
    """Catches a conversion to fp32 that is not exact: every finite half, subnormal ones included."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    every = np.arange(1 << 16, dtype=np.uint16).reshape(16, -1)
    for dtype in (np.float16, ml_dtypes.bfloat16):
        half = every.view(dtype)
        with np.errstate(invalid="ignore"):
            full = half.astype(np.float32)
        keep = np.isfinite(full).all(axis=1)
        assert keep.sum() >= 10
        for some in (keep, np.ones(16, bool)):
            a, b = (reference.sample(x[some], 3, top_p=0.9, return_log_z=True) for x in (half, full))
            assert same(a, b)
        assert same(reference.sample(half.T, 3), reference.sample(full.T, 3))


@pytest.mark.parametrize("kind", [None, "bool", "bits", "csr"])
def test_no_rows(kind: str | None) -> None:
    """Catches an empty batch that fails, or outputs of the wrong shape or type."""
    out = reference.sample(
        np.zeros((0, 33), np.float32), np.zeros(0, int), return_log_z=True, return_mask=kind
    )
    dtypes = {"token_ids": np.int64, "num_kept": np.int32, "status": np.int32, "logprobs": np.float32}
    for name, dtype in {**dtypes, "log_z": np.float32}.items():
        assert (getattr(out, name).shape, getattr(out, name).dtype) == ((0,), dtype)
    if kind == "csr":
        assert out.mask.row_offsets.tolist() == [0]
        assert (out.mask.token_ids.shape, out.mask.token_ids.dtype) == ((0,), np.int32)
    elif kind:
        assert out.mask.shape == ((0, 33) if kind == "bool" else (0, 2))


def test_a_vocabulary_of_one() -> None:
    """Catches filters that fail when there is nothing to choose from."""
    logits, p = rows_of_all_sorts(200, 16, 9)
    out = reference.sample(logits[:, :1], **p, return_log_z=True, return_mask="bits")
    good = out.status == 0
    assert good.any()
    assert not good.all()
    assert set(out.token_ids[good].tolist()) == {0}
    assert set(out.mask[good, 0].tolist()) == {1}
    assert set(as_bits(out.logprobs[good]) + as_bits(out.log_z[good])) == {0}


def test_optional_outputs() -> None:
    """Catches an output that is there unasked, is missing when asked for, or changes another."""
    logits, p = rows_of_all_sorts(100, 40, 1)
    full = reference.sample(logits, **p, return_log_z=True, return_mask="bool")
    bare = reference.sample(logits, **p, return_logprobs=False)
    assert (bare.logprobs, bare.log_z, bare.mask) == (None, None, None)
    usual = reference.sample(logits, **p)
    log_z_only = reference.sample(logits, **p, return_logprobs=False, return_log_z=True)
    for name in ("token_ids", "num_kept", "status"):
        for out in (bare, usual, log_z_only):
            assert getattr(out, name).tobytes() == getattr(full, name).tobytes()
    assert usual.logprobs.tobytes() == full.logprobs.tobytes()
    assert log_z_only.log_z.tobytes() == full.log_z.tobytes()
