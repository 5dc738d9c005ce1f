"""Outputs compared as bits, whatever their fields are called."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from kernel_path import bits


def assert_same_bits(names: Sequence[str], found: Any, expected: Any, context: object = "") -> None:
    """The named fields are equal as bits, of equal types and shapes, or missing or None in both.

    The message names the first field that differs and the first rows in which it does.
    """
    for name in names:
        one, other = getattr(found, name, None), getattr(expected, name, None)
        if one is None or other is None:
            assert one is other, f"{name}: {one} against {other}"
            continue
        assert (one.dtype, one.shape) == (other.dtype, other.shape), f"{name}: {one.dtype}{one.shape}"
        rows = np.unique(np.nonzero(bits(one) != bits(other))[0])[:5]
        assert not rows.size, f"{name} of rows {rows}: {one[rows]} against {other[rows]}; {context}"
