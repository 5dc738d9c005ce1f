"""The few operations on tensors that are needed outside kernels, under the same names for each framework."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from types import SimpleNamespace
from typing import Any, Protocol, cast

import numpy as np


class Operations(Protocol):
    """What a framework provides, as functions: ``self`` is not passed.

    `copied`, `placed`, `beside`, `largest_of_rows` and `both` make constants; all others are differentiable, in torch
    and Paddle.
    """

    def widened(self, x: Any) -> Any:
        """Return 16-bit floats as fp32, others as they are."""

    def copied(self, x: Any) -> Any:
        """Return a copy on the device of ``x``, without waiting for it."""

    def placed(self, array: np.ndarray, x: Any) -> Any:
        """Return an array as a tensor of its own type on the device of ``x``; it may share the array's memory."""

    def beside(self, array: np.ndarray, x: Any) -> Any:
        """Return an array as a tensor on the device of ``x``; reals are brought to the type of ``x``."""

    def take(self, x: Any, rows: Any) -> Any:
        """Return the rows (elements, of a vector) with these numbers, int64."""

    def join(self, parts: Sequence[Any]) -> Any:
        """Return vectors one behind the other."""

    def where(self, condition: Any, x: Any, otherwise: float) -> Any:
        """Return ``x``, and a number where the condition is false; no gradient goes there."""

    def exp(self, x: Any) -> Any:
        """Return e^x."""

    def log(self, x: Any) -> Any:
        """Return ln x."""

    def sum_of_rows(self, x: Any) -> Any:
        """Return the sum of each row."""

    def largest_of_rows(self, x: Any) -> Any:
        """Return the largest of each row, as a constant."""

    def both(self, one: Any, other: Any) -> Any:
        """Return the conjunction of two conditions."""


@cache
def of(framework: str) -> Operations:
    """The operations of ``"torch"``, ``"paddle"`` or ``"numpy"``."""
    return cast(Operations, {"numpy": _numpy, "paddle": _paddle, "torch": _torch}[framework]())


def _numpy() -> SimpleNamespace:
    """Arrays have no gradient."""
    return SimpleNamespace(
        widened=lambda x: x.astype(np.float32) if x.dtype.itemsize == 2 else x,
        copied=np.copy,
        placed=lambda array, x: array,
        beside=lambda array, x: array.astype(x.dtype) if array.dtype.kind == "f" else array,
        take=lambda x, rows: x[rows],
        join=np.concatenate,
        where=lambda condition, x, otherwise: np.where(condition, x, x.dtype.type(otherwise)),
        exp=np.exp,
        log=np.log,
        sum_of_rows=lambda x: x.sum(axis=1),
        largest_of_rows=lambda x: x.max(axis=1),
        both=np.logical_and,
    )


def _torch() -> SimpleNamespace:
    import torch

    return SimpleNamespace(
        widened=lambda x: x.float() if x.dtype in (torch.float16, torch.bfloat16) else x,
        copied=lambda x: x.detach().clone(),
        placed=lambda array, x: torch.from_numpy(array).to(x.device),
        beside=lambda array, x: torch.from_numpy(array).to(x.device, x.dtype if array.dtype.kind == "f" else None),
        take=lambda x, rows: x.index_select(0, rows),
        join=torch.cat,
        where=lambda condition, x, otherwise: torch.where(condition, x, torch.full_like(x, otherwise)),
        exp=torch.exp,
        log=torch.log,
        sum_of_rows=lambda x: x.sum(dim=1),
        largest_of_rows=lambda x: x.detach().amax(dim=1),
        both=torch.logical_and,
    )


def _paddle() -> SimpleNamespace:
    import paddle

    def where(condition: Any, x: Any, otherwise: float) -> Any:
        return paddle.where(condition, x, paddle.full_like(x, otherwise))

    def beside(array: np.ndarray, x: Any) -> Any:
        return paddle.to_tensor(array, dtype=x.dtype if array.dtype.kind == "f" else None, place=x.place)

    return SimpleNamespace(
        widened=lambda x: x.astype("float32") if x.dtype in (paddle.float16, paddle.bfloat16) else x,
        copied=lambda x: x.detach().clone(),
        placed=lambda array, x: paddle.to_tensor(array, place=x.place),
        beside=beside,
        take=lambda x, rows: paddle.gather(x, rows, axis=0),
        join=paddle.concat,
        where=where,
        # On the CPU Paddle's never falls below 2.9e-39, even for -inf. Multiplied by 1 / temperature, that could become
        # a gradient.
        exp=lambda x: where((x < -104.0) == False, paddle.exp(x), 0.0),  # noqa: E712 (a NaN stays)
        log=paddle.log,
        sum_of_rows=lambda x: paddle.sum(x, axis=1),
        largest_of_rows=lambda x: paddle.max(x.detach(), axis=1),
        both=paddle.logical_and,
    )
