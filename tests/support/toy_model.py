"""A language model whose logits are a pure function of the prefix, in integers: the same everywhere, always.

With it, a difference between plain and speculative decoding can only be the sampler's.
"""

from __future__ import annotations

import numpy as np

_ODD, _MIX = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9)


def _mixed(x: np.ndarray) -> np.ndarray:
    """A bijection of 64 bits that looks random (the finaliser of splitmix64)."""
    x = (x ^ x >> np.uint64(30)) * _MIX
    x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return x ^ x >> np.uint64(31)


class ToyModel:
    """States stand for prefixes: uint64 arrays of any shape.

    Parameters
    ----------
    vocab : int
    spread : float
        Logits are within ``-spread .. spread``.
    """

    def __init__(self, vocab: int, spread: float = 4.0) -> None:
        self.vocab, self.spread = vocab, np.float32(spread)

    def start(self, prompts: np.ndarray) -> np.ndarray:
        """The states of prompts, int64 [B, L]."""
        state = np.full(len(prompts), 12345, np.uint64)
        for column in prompts.T:
            state = self.extend(state, column)
        return state

    def extend(self, state: np.ndarray, token: np.ndarray) -> np.ndarray:
        """The states of prefixes that are one token longer."""
        return _mixed(state * _ODD + token.astype(np.uint64) + np.uint64(1))

    def logits(self, state: np.ndarray) -> np.ndarray:
        """Float32 [..., V]."""
        ids = np.arange(self.vocab).astype(np.uint64)
        bits = _mixed(state[..., None] + ids * _ODD) >> np.uint64(40)
        return (bits.astype(np.float32) * np.float32(2.0**-23) - np.float32(1)) * self.spread
