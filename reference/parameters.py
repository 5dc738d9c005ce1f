"""The inputs of a call, checked and brought to one form: section 2 of ``docs/spec.md``.

What can be seen at once raises here. What differs from row to row (a NaN in a vector of temperatures) does
not: it becomes a status bit of its row, see ``status.py``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["MAX_VOCAB", "Parameters", "as_integers", "as_seeds", "check_logits", "parameters", "to_fp32"]

MAX_VOCAB = 1 << 21
_MAX_ROWS = (1 << 31) - 1
_INT64 = np.iinfo(np.int64)


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
    topp_seed: np.ndarray
    """uint64, the bits of the int64."""
    position: np.ndarray
    """int64."""

    def rows(self, index: Any) -> Parameters:
        """The parameters of some of the rows (a slice or an array of row numbers)."""
        return Parameters(
            self.temperature[index], self.top_k[index], self.top_p[index],
            self.min_p[index], self.topp_seed[index], self.position[index],
        )  # fmt: skip


def parameters(
    rows: int, *, temperature: Any, top_k: Any, top_p: Any, min_p: Any, topp_seed: Any = 0, position: Any = 0
) -> Parameters:
    """Check the parameters of a call and give each the shape [rows].

    Raises
    ------
    TypeError
        A parameter is neither a number nor an array of numbers of its kind.
    ValueError
        A vector has not one entry a row, or a scalar is out of range.
    """
    scalars = [_is_scalar(v) for v in (temperature, top_p, min_p, position)]
    p = Parameters(
        _vector("temperature", _as_floats("temperature", temperature), rows),
        _vector("top_k", as_integers("top_k", top_k), rows),
        _vector("top_p", _as_floats("top_p", top_p), rows),
        _vector("min_p", _as_floats("min_p", min_p), rows),
        _vector("topp_seed", as_seeds("topp_seed", topp_seed), rows),
        _vector("position", as_integers("position", position), rows),
    )
    values = (_as_floats("temperature", temperature), _as_floats("top_p", top_p), _as_floats("min_p", min_p))
    if scalars[0] and not (np.isfinite(values[0].flat[0]) and values[0].flat[0] >= 0):
        raise ValueError(f"temperature: expected a finite float32 >= 0, got {temperature!r}")
    if scalars[1] and np.isnan(values[1].flat[0]):
        raise ValueError(f"top_p: expected a number, got {top_p!r}")
    if scalars[2] and np.isnan(values[2].flat[0]):
        raise ValueError(f"min_p: expected a number, got {min_p!r}")
    if scalars[3] and int(position) < 0:
        raise ValueError(f"position: expected an integer >= 0, got {position!r}")
    return p


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
    """An int64 array of the integers given; 0-d for a scalar."""
    array = _integer_array(name, value)
    if array.dtype.kind == "u" and array.dtype.itemsize == 8 and (array > np.uint64(_INT64.max)).any():
        raise ValueError(f"{name}: expected integers below 2^63, got {int(array.max())}")
    return array.astype(np.int64)


def as_seeds(name: str, value: Any) -> np.ndarray:
    """A uint64 array of the 64-bit integers given, signed or unsigned, modulo 2^64; 0-d for a scalar."""
    return _integer_array(name, value).astype(np.uint64)


def _integer_array(name: str, value: Any) -> np.ndarray:
    if isinstance(value, int) and not isinstance(value, bool):
        if not _INT64.min <= value < 1 << 64:
            raise ValueError(f"{name}: expected an integer of 64 bits, got {value}")
        return np.array(value, np.int64 if value < 1 << 63 else np.uint64)
    if not isinstance(value, (np.integer, np.ndarray)):
        raise TypeError(f"{name}: expected an integer or a NumPy array of integers, got {_described(value)}")
    _refuse_masked(name, value)
    array = np.asarray(value)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name}: expected integers, got {array.dtype}")
    return array


def _as_floats(name: str, value: Any) -> np.ndarray:
    if isinstance(value, int) and not isinstance(value, bool):
        return _rounded(value)
    if isinstance(value, float) and not isinstance(value, np.floating):
        return to_fp32(np.array(float(value)))
    if not isinstance(value, (np.generic, np.ndarray)):
        raise TypeError(f"{name}: expected a number or a NumPy array of numbers, got {_described(value)}")
    _refuse_masked(name, value)
    array = np.asarray(value)
    if array.dtype.kind not in "iuf" and not _is_bfloat16(array.dtype):
        raise TypeError(f"{name}: expected numbers, got {array.dtype}")
    return to_fp32(array)


def _refuse_masked(name: str, value: Any) -> None:
    """A masked array's numbers without its mask are not what its owner means: masked tokens would be drawn."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name}: expected a plain NumPy array, got a masked one: fill it first, logits with -inf")


def _rounded(value: int) -> np.ndarray:
    """An integer of any size as float32, rounded once: by way of its first bits, and whether any bit follows them."""
    size = abs(value)
    behind = max(size.bit_length() - 50, 0)
    first = size >> behind
    first |= first << behind != size
    try:
        cut = math.ldexp(first, behind)
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


def _is_scalar(value: Any) -> bool:
    return not isinstance(value, np.ndarray) or value.ndim == 0


def _is_bfloat16(dtype: Any) -> bool:
    # By name: ml_dtypes, which defines the type for NumPy, is not a dependency.
    return getattr(dtype, "name", None) == "bfloat16"


def _described(value: Any) -> str:
    return f"{value!r}" if isinstance(value, (bool, float, str)) or value is None else type(value).__name__
