"""The noise of a token: section 7 of ``docs/contract/spec.md``."""

from __future__ import annotations

from typing import Any

import numpy as np

from .chunks import by_pieces, pieces
from .float_mode import unaffected
from .logarithm import horner, logq, split
from .parameters import MAX_VOCAB, as_integers, as_seeds
from .philox import Words, philox4x32
from .seeds import halves

__all__ = ["gumbel", "gumbel_noise", "uniform", "uniform_rows"]

_H = (
    1073741824, 447392303, 268445247, 186859199, 146340794, 71131795,
    323062286, -711103555, 1743860480, -1975990430, 1190561710,
)  # fmt: skip
_DOMAIN_HIGH, _DOMAIN_LOW = np.zeros(1, np.uint64), np.ones(1, np.uint64)
_HALF = np.uint64(32)


def uniform(topp_seed: np.ndarray, position: np.ndarray, token: np.ndarray) -> np.ndarray:
    """The 64 random bits ``s`` of single tokens: the uniform is ``u = (2s + 1) / 2^65``.

    Parameters
    ----------
    topp_seed : uint64 array [N]
    position, token : int64 arrays [N]

    Returns
    -------
    uint64 array [N]
    """
    return by_pieces(_of_tokens, np.uint64, topp_seed, position, token)


def uniform_rows(topp_seed: np.ndarray, position: np.ndarray, vocab: int) -> np.ndarray:
    """The 64 random bits of every token of whole rows, cheaper by a factor: a counter serves four tokens.

    Parameters
    ----------
    topp_seed : uint64 array [R]
    position : int64 array [R]
    vocab : int

    Returns
    -------
    uint64 array [R, vocab]
    """
    rows, quads = len(topp_seed), -(-vocab // 4)
    seeds, positions = np.repeat(topp_seed, quads), np.repeat(position, quads)
    quad = np.tile(np.arange(quads), rows)
    bits = np.empty((rows * quads, 4), np.uint64)
    for piece in pieces(len(bits)):
        words = _words(seeds[piece], positions[piece], quad[piece])
        for lane, (high, low) in enumerate(zip(*words, strict=True)):
            bits[piece, lane] = high << _HALF | low
    return bits.reshape(rows, quads * 4)[:, :vocab]


def _of_tokens(topp_seed: np.ndarray, position: np.ndarray, token: np.ndarray) -> np.ndarray:
    lane = token & 3
    high, low = _words(topp_seed, position, token >> 2)
    return np.choose(lane, high) << _HALF | np.choose(lane, low)


def _words(topp_seed: np.ndarray, position: np.ndarray, quad: np.ndarray) -> tuple[Words, Words]:
    """The high and the low 32 bits of the uniforms of tokens 4 * quad .. 4 * quad + 3."""
    key, (low, high) = halves(topp_seed), halves(position.view(np.uint64))
    c0 = quad.view(np.uint64)
    return philox4x32((c0, low, high, _DOMAIN_HIGH), key), philox4x32((c0, low, high, _DOMAIN_LOW), key)


def gumbel(s: np.ndarray) -> np.ndarray:
    """``G(s)``: Gumbel noise in units of 2^-32, within 8 of ``-ln(-ln(1 - u)) * 2^32``.

    Parameters
    ----------
    s : uint64 array

    Returns
    -------
    int64 array

    Examples
    --------
    >>> (gumbel(np.uint64([0, 2**63, 2**64 - 1])) / 2**32).round(6).tolist()
    [45.054567, 0.366513, -3.807874]
    """
    return by_pieces(_gumbel, np.int64, s)


def _gumbel(s: np.ndarray) -> np.ndarray:
    upper = s.view(np.int64) < 0
    t = np.where(upper, ~s, s)
    e, r = split(t + t + np.uint64(1))
    ell = logq(65 - e, -r)  # -ln((2t + 1) / 2^65)
    g = np.empty_like(ell)
    # u < 1/2: -ln(1 - u) = u q(u), the polynomial is ln q, and ell is -ln u.
    below = np.flatnonzero(~upper)
    v = (s[below] >> np.uint64(33)).view(np.int64)
    g[below] = ell[below] - ((horner(_H, v) * v) >> 30)
    # u > 1/2: ell is -ln(1 - u) itself.
    above = np.flatnonzero(upper)
    e, r = split(ell[above].view(np.uint64))
    g[above] = -logq(e - 32, r)
    return g


@unaffected
def gumbel_noise(topp_seed: Any, position: Any, token_ids: Any) -> Any:
    """The noise that a draw adds to the tokens' ``z``: exactly ``G(s) * 2^-32`` (section 7).

    Parameters
    ----------
    topp_seed : int or integer array [B]
        64 bits, signed or unsigned.
    position : int or integer array [B]
        At least 0.
    token_ids : int or integer array of any shape
        With arrays of shape [B] before it: [N], or [B, N].

    Returns
    -------
    float64
        Of the shape of ``token_ids``; with arrays of shape [B] before it [B, N] ([B] for a single token).

    Raises
    ------
    TypeError
        Not integers.
    ValueError
        Out of range, or shapes that do not go together.

    Examples
    --------
    >>> gumbel_noise(42, 7, np.arange(8).reshape(2, 4)).shape
    (2, 4)
    >>> gumbel_noise(np.array([42, 43]), 7, np.arange(5)).shape
    (2, 5)
    >>> bool(gumbel_noise(42, 7, 3) == gumbel_noise(42, np.array([6, 7]), np.arange(4))[1, 3])
    True
    """
    seed = as_seeds("topp_seed", topp_seed)
    place, token = as_integers("position", position), as_integers("token_ids", token_ids)
    if (place < 0).any():
        raise ValueError(f"position: expected integers >= 0, got {int(place.min())}")
    if ((token < 0) | (token >= MAX_VOCAB)).any():
        got = f"{int(token.min())} .. {int(token.max())}"
        raise ValueError(f"token_ids: expected 0 <= id < {MAX_VOCAB}, got {got}")
    shape = _noise_shape(seed.shape, place.shape, token.shape)
    column = (-1, 1) if token.ndim else (-1,)
    seed, place = (a.reshape(column) if a.ndim else a for a in (seed, place))
    flat = [np.ascontiguousarray(np.broadcast_to(a, shape)).reshape(-1) for a in (seed, place, token)]
    noise = gumbel(uniform(flat[0], flat[1], flat[2])) * 2.0**-32
    return noise.reshape(shape)[()]


def _noise_shape(seed: tuple[int, ...], position: tuple[int, ...], token: tuple[int, ...]) -> tuple[int, ...]:
    vectors = [shape for shape in (seed, position) if shape]
    if not vectors:
        return token
    rows = vectors[0][0]
    fits = all(shape in ((rows,), (rows, 1)) for shape in vectors)
    if not fits or len(token) > 2 or (len(token) == 2 and token[0] != rows):
        raise ValueError(
            f"topp_seed, position, token_ids: expected shapes [B], [B] and [N] or [B, N], "
            f"got {list(seed)}, {list(position)} and {list(token)}"
        )
    return (rows, *token[-1:])
