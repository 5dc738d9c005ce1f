"""The types of what users pass: tensors of any framework, numbers, and words of which only some are right."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Literal, Protocol, TypeAlias, TypeVar

import numpy as np


class Tensor(Protocol):
    """Attributes that tensors of Paddle and torch and NumPy's arrays have, but numbers, lists and text do not."""

    @property
    def shape(self) -> Any:
        """How many there are along each axis."""

    def __setitem__(self, key: Any, value: Any, /) -> Any:
        """Change some."""


T = TypeVar("T", bound=Tensor)
"""The kind of tensor of a call: its results are of the kind of its logits."""

Integer: TypeAlias = int | np.integer[Any]
Real: TypeAlias = float | Fraction | np.floating[Any] | np.integer[Any]
Rows: TypeAlias = Sequence[float] | Sequence[Sequence[float]]
MaskKind: TypeAlias = Literal["bool", "bits", "csr"]
FilterOrder: TypeAlias = Literal["top_k_first", "min_p_first", "joint"]
