"""The few operations that `kept_logprobs` and replays are made of, under the same names for each framework."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any, Protocol, cast

import numpy as np


class Operations(Protocol):
    """What a framework provides. These are modules, so ``self`` is not passed.

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


def of(framework: str) -> Operations:
    """The operations of ``"torch"``, ``"paddle"`` or ``"numpy"``."""
    return cast(Operations, import_module(f"{__name__}.with_{framework}"))
