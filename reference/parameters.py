"""The inputs of a call, checked and brought to one form: section 2 of ``docs/contract/spec.md``.

What can be seen at once raises here. What differs from row to row (a NaN in a vector of temperatures) does
not: it becomes a status bit of its row, see ``status.py``.
"""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

__all__ = [
    "FILTER_ORDERS",
    "MAX_VOCAB",
    "Parameters",
    "as_integers",
    "as_seeds",
    "check_logits",
    "parameters",
    "to_fp32",
]

FILTER_ORDERS = ("top_k_first", "min_p_first", "joint")
"""Of whose weights top-p takes its share: top-k's survivors', those of top-k and min-p, all tokens' (section 6)."""

MAX_VOCAB = 1 << 21
_MAX_ROWS = (1 << 31) - 1
_INT64 = np.iinfo(np.int64)
_REALS = ("float32", "float64", "float16", "bfloat16")
# NumPy's time spans are integers by their class, and bools by Python's: neither is meant as a number.
_NO_NUMBERS = (bool, np.bool_, np.timedelta64)


@dataclass(frozen=True)
class Parameters:
    """The parameters of R rows, each an array [R] (section 2)."""

    temperature: np.ndarray
    """float32."""
    top_k: np.ndarray
    """int64."""
    top_p: np.ndarray
    """float32."""
    min_p: np.ndarray
    """float32."""
    filter_order: str
    """One of ``FILTER_ORDERS``, for all rows."""
    topp_seed: np.ndarray
    """uint64, the bits of the int64."""
    position: np.ndarray
    """int64."""

    def rows(self, index: Any) -> Parameters:
        """The parameters of some of the rows (a slice or an array of row numbers)."""
        return Parameters(
            self.temperature[index], self.top_k[index], self.top_p[index],
            self.min_p[index], self.filter_order, self.topp_seed[index], self.position[index],
        )  # fmt: skip


def parameters(
    rows: int, *, temperature: Any, top_k: Any = 0, top_p: Any = 1.0, min_p: Any = 0.0,
    filter_order: Any = FILTER_ORDERS[0], topp_seed: Any = 0, position: Any = 0,
) -> Parameters:  # fmt: skip
    """Check the parameters of a call and give each the shape [rows].

    Raises
    ------
    TypeError
        A parameter is neither a number nor an array of numbers of its kind.
    ValueError
        A vector has not one entry a row, or a number is out of range.
    """
    if not (isinstance(filter_order, str) and filter_order in FILTER_ORDERS):
        raise ValueError(f"filter_order: expected 'top_k_first', 'min_p_first' or 'joint', got {filter_order!r}")
    t, p, m = (_as_floats(*given) for given in (("temperature", temperature), ("top_p", top_p), ("min_p", min_p)))
    place = as_integers("position", position)
    # What an array holds is its rows' affair, as it is where nobody on the host can look into it.
    if not (isinstance(temperature, np.ndarray) or (np.isfinite(t) and t >= 0)):
        raise ValueError(f"temperature: expected a finite float32 >= 0, got {temperature!r}")
    for name, value, rounded in (("top_p", top_p, p), ("min_p", min_p, m)):
        if not (isinstance(value, np.ndarray) or rounded <= 1):
            raise ValueError(f"{name}: expected a share of 1, not above it, got {value!r}")
    if not isinstance(position, np.ndarray) and place < 0:
        raise ValueError(f"position: expected an integer >= 0, got {position!r}")
    return Parameters(
        _vector("temperature", t, rows),
        _vector("top_k", as_integers("top_k", top_k), rows),
        _vector("top_p", p, rows),
        _vector("min_p", m, rows),
        filter_order,
        _vector("topp_seed", as_seeds("topp_seed", topp_seed), rows),
        _vector("position", place, rows),
    )


def check_logits(logits: Any) -> tuple[int, int]:
    """Check the logits of a call and return their shape (B, V).

    Raises
    ------
    TypeError
        Not a NumPy array, or not of float32, float16 or bfloat16.
    ValueError
        Not two-dimensional, V not within 1 .. 2^21, or B not below 2^31.
    """
    if not isinstance(logits, np.ndarray):
        raise TypeError(f"logits: expected a NumPy array, got {type(logits).__name__}")
    _refuse_masked("logits", logits)
    if not (_is_bfloat16(logits.dtype) or (logits.dtype.kind == "f" and logits.dtype.itemsize in (2, 4))):
        raise TypeError(f"logits: expected float32, float16 or bfloat16, got {logits.dtype}")
    if logits.ndim != 2:
        raise ValueError(f"logits: expected shape [B, V], got {logits.ndim} dimensions, shape {logits.shape}")
    rows, vocab = logits.shape
    if not 1 <= vocab <= MAX_VOCAB:
        raise ValueError(f"logits: expected 1 <= V <= {MAX_VOCAB}, got V = {vocab}")
    if rows > _MAX_ROWS:
        raise ValueError(f"logits: expected B < 2^31, got B = {rows}")
    return rows, vocab


def to_fp32(values: np.ndarray) -> np.ndarray:
    """Convert to float32: exactly from float16, bfloat16 and float32, otherwise to the nearest (section 2).

    Examples
    --------
    >>> to_fp32(np.float16([0.5, -65504]))
    array([ 5.0000e-01, -6.5504e+04], dtype=float32)
    """
    if _is_bfloat16(values.dtype):
        return (values.view(np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return values.astype(np.float32, copy=False)


def as_integers(name: str, value: Any) -> np.ndarray:
    """An int64 array of the integers given; 0-d for a number."""
    array = _integer_array(name, value, ("int64", "int32"))
    if array.dtype.kind == "u" and array > np.uint64(_INT64.max):
        raise ValueError(f"{name}: expected integers below 2^63, got {int(array)}")
    return array.astype(np.int64)


def as_seeds(name: str, value: Any) -> np.ndarray:
    """A uint64 array of the 64-bit integers given, signed or unsigned, modulo 2^64; 0-d for a number."""
    return _integer_array(name, value, ("int64", "int32", "uint64", "uint32")).astype(np.uint64)


def _integer_array(name: str, value: Any, types: tuple[str, ...]) -> np.ndarray:
    if isinstance(value, np.ndarray):
        _refuse_masked(name, value)
        if value.dtype.name not in types:
            raise TypeError(f"{name}: expected {' or '.join(types)}, got {value.dtype}")
        return value
    if isinstance(value, _NO_NUMBERS) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name}: expected an integer or a NumPy array of integers, got {_described(value)}")
    if not _INT64.min <= int(value) < 1 << 64:
        raise ValueError(f"{name}: expected an integer of 64 bits, got {value}")
    return np.array(int(value), np.int64 if int(value) < 1 << 63 else np.uint64)


def _as_floats(name: str, value: Any) -> np.ndarray:
    if isinstance(value, np.ndarray):
        _refuse_masked(name, value)
        if value.dtype.name not in _REALS:
            raise TypeError(f"{name}: expected {' or '.join(_REALS)}, got {value.dtype}")
        return to_fp32(value)
    if isinstance(value, _NO_NUMBERS) or not (isinstance(value, numbers.Real) or _is_bfloat16(value)):
        raise TypeError(f"{name}: expected a number or a NumPy array of numbers, got {_described(value)}")
    if isinstance(value, numbers.Rational):
        return _rounded(Fraction(int(value.numerator), int(value.denominator)))
    return to_fp32(np.asarray(value))  # of the type that it has: one rounding


def _refuse_masked(name: str, value: Any) -> None:
    """A masked array's numbers without its mask are not what its owner means: masked tokens would be drawn."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name}: expected a plain NumPy array, got a masked one: fill it first, logits with -inf")


def _rounded(value: Fraction) -> np.ndarray:
    """A fraction of any size as float32, rounded once: by way of its first bits, and whether any bit follows them."""
    shift = 50 - abs(value.numerator).bit_length() + value.denominator.bit_length()
    scaled = abs(value) * (1 << shift) if shift >= 0 else abs(value) / (1 << -shift)
    first = math.floor(scaled)
    first |= first != scaled
    try:
        cut = math.ldexp(first, -shift)
    except OverflowError:  # beyond float64 is beyond float32 as well
        cut = math.inf
    return to_fp32(np.array(cut if value >= 0 else -cut))


def _vector(name: str, array: np.ndarray, rows: int) -> np.ndarray:
    if array.ndim == 0:
        return np.broadcast_to(array, (rows,))
    if array.shape not in ((rows,), (rows, 1)):
        got = list(array.shape)
        raise ValueError(f"{name}: expected a scalar or shape [{rows}] or [{rows}, 1], got shape {got}")
    return np.ascontiguousarray(array.reshape(rows))


def _is_bfloat16(typed: Any) -> bool:
    # By name: ml_dtypes, which defines the type for NumPy, is not a dependency.
    return getattr(getattr(typed, "dtype", typed), "name", None) == "bfloat16"


def _described(value: Any) -> str:
    return f"{value!r}" if isinstance(value, (bool, float, str)) or value is None else type(value).__name__
