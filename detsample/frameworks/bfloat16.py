"""bfloat16 numbers in NumPy, which has no such type: their bits are held as uint16, their values as float32."""

from __future__ import annotations

import numpy as np


def to_float32(bits: np.ndarray) -> np.ndarray:
    """Widen bfloat16 values, given as uint16, exactly: they are the upper halves of float32 values."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
