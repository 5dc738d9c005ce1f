"""A short name for the bits of a row of logits."""

from __future__ import annotations

from hashlib import sha256

import numpy as np

DIGITS = 32
"""Of hexadecimal: 128 bits of SHA-256."""


def canonical(logits: np.ndarray) -> np.ndarray:
    """Logits as the sampler sees them: fp32, ``+0`` for ``-0``, one NaN; little-endian, in C order.

    bf16 and fp16 become the same numbers in fp32, so that a row has one fingerprint in whatever type it is held.
    """
    with np.errstate(invalid="ignore"):
        x = np.add(logits.astype(np.float32, copy=False), np.float32(0), order="C")
    x[np.isnan(x)] = np.uint32(0x7FC00000).view(np.float32)
    return x.astype("<f4", copy=False)


def fingerprints(logits: np.ndarray) -> list[str]:
    """The fingerprint of each row.

    Parameters
    ----------
    logits : [B, V] float32 or float16

    Returns
    -------
    list of str
        B strings of 32 hexadecimal digits, equal exactly if the sampler sees equal logits (but for a collision of
        SHA-256).

    Examples
    --------
    >>> one, other = fingerprints(np.array([[0.0, 1.0], [-0.0, 1.0]], np.float32))
    >>> one == other
    True
    """
    return [sha256(row.tobytes()).hexdigest()[:DIGITS] for row in canonical(logits)]
