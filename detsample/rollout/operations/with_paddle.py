"""The operations in Paddle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import paddle


def widened(x: Any) -> Any:
    """See `Operations`."""
    return x.astype("float32") if x.dtype in (paddle.float16, paddle.bfloat16) else x


def copied(x: Any) -> Any:
    """See `Operations`."""
    return x.detach().clone()


def placed(array: np.ndarray, x: Any) -> Any:
    """See `Operations`."""
    return paddle.to_tensor(array, place=x.place)


def beside(array: np.ndarray, x: Any) -> Any:
    """See `Operations`."""
    dtype = x.dtype if array.dtype.kind == "f" else None
    return paddle.to_tensor(array, dtype=dtype, place=x.place)


def take(x: Any, rows: Any) -> Any:
    """See `Operations`."""
    return paddle.gather(x, rows, axis=0)


def join(parts: Sequence[Any]) -> Any:
    """See `Operations`."""
    return paddle.concat(list(parts))


def where(condition: Any, x: Any, otherwise: float) -> Any:
    """See `Operations`."""
    return paddle.where(condition, x, paddle.full_like(x, otherwise))


def exp(x: Any) -> Any:
    """See `Operations`."""
    # On the CPU it never falls below 2.9e-39, even for -inf. Multiplied by 1 / temperature, that could become a
    # gradient.
    return where((x < -104.0) == False, paddle.exp(x), 0.0)  # noqa: E712 (a NaN stays)


def log(x: Any) -> Any:
    """See `Operations`."""
    return paddle.log(x)


def sum_of_rows(x: Any) -> Any:
    """See `Operations`."""
    return paddle.sum(x, axis=1)


def largest_of_rows(x: Any) -> Any:
    """See `Operations`."""
    return paddle.max(x.detach(), axis=1)


def both(one: Any, other: Any) -> Any:
    """See `Operations`."""
    return paddle.logical_and(one, other)
