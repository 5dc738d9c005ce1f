"""Philox4x32-10, the counter-based generator under all randomness: section 7 of ``docs/contract/spec.md``."""

from __future__ import annotations

import numpy as np

__all__ = ["ROUNDS", "Words", "philox4x32"]

Words = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]

ROUNDS = 10
_MULTIPLIER_0, _MULTIPLIER_2 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL_0, _WEYL_1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)


def philox4x32(counter: Words, key: tuple[np.ndarray, np.ndarray], rounds: int = ROUNDS) -> Words:
    """Encrypt a counter of four 32-bit words under a key of two.

    Parameters
    ----------
    counter, key : uint64 arrays of values below 2^32, of shapes that broadcast
    rounds : int

    Returns
    -------
    four uint64 arrays of values below 2^32

    Examples
    --------
    >>> zero = np.zeros(1, np.uint64)
    >>> [f"{int(word[0]):08x}" for word in philox4x32((zero, zero, zero, zero), (zero, zero))]
    ['6627e8d5', 'e169c58d', 'bc57ac4c', '9b00dbd8']
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for i in range(rounds):
        if i:
            k0, k1 = (k0 + _WEYL_0) & _LOW, (k1 + _WEYL_1) & _LOW
        # 32 x 32 bits fit in 64: a product holds its high and its low word.
        p0, p2 = c0 * _MULTIPLIER_0, c2 * _MULTIPLIER_2
        c0, c1, c2, c3 = (p2 >> _HALF) ^ c1 ^ k0, p2 & _LOW, (p0 >> _HALF) ^ c3 ^ k1, p0 & _LOW
    return c0, c1, c2, c3
