"""What a trainer asks of a draw besides the token: section 12 of ``docs/contract/observations.md``.

Everything is a function of a row's logits, its temperature, a set of tokens (as a rule the kept one) and a
token. The kept set is given and not looked for, so that the logits of another model can be used with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .chunks import row_blocks
from .fixed_point import fixed_point, from_units
from .float_mode import unaffected
from .logarithm import ln_mass
from .logprob import logprob
from .mask import as_octets, set_of_octets
from .order import all_in_order, as_x, few, first_in_order, key_ids, key_values
from .parameters import as_integers, check_logits, parameters
from .status import QUIET_NAN, logit_status
from .temperature import gaps
from .weight import LARGEST_GAP, weight

__all__ = ["MOST_TOP", "Observation", "observe"]

MOST_TOP = 128
"""The largest ``top_n``."""

_GAP_UNITS = np.float32(1 << 23)


@dataclass(frozen=True)
class Observation:
    """What ``observe`` returns, of B rows. Logarithms are natural; a row without a value has what section 12 says."""

    logprobs: np.ndarray
    """float32 [B]: of the token among the kept ones, at the row's temperature; -inf for a token outside."""
    raw_logprobs: np.ndarray
    """float32 [B]: of the token in the softmax of the logits themselves."""
    rank: np.ndarray
    """int32 [B]: how many tokens come before the token in the order; -1 for a token that has no place in it."""
    entropy: np.ndarray
    """float32 [B], nats: of the kept distribution at the row's temperature."""
    top_token_ids: np.ndarray
    """int32 [B, n]: the first n tokens in order; -1 behind the last."""
    top_logprobs: np.ndarray
    """float32 [B, n]: their ``raw_logprobs``; -inf behind the last."""


@unaffected
def observe(
    logits: np.ndarray, token_ids: Any, kept: np.ndarray, *, temperature: Any = 1.0, top_n: int = 0
) -> Observation:
    """Log probabilities, rank, entropy and first tokens of rows (section 12).

    Parameters
    ----------
    logits : array [B, V] of float32, float16 or bfloat16
    token_ids : integer array [B]
        A token a row: any integers.
    kept : int32 or uint32 array [B, ceil(V / 32)], or uint8 array [B, ceil(V / 8)] or [B, 4 * ceil(V / 32)]
        A set of tokens a row, in the ``bits`` format of section 10, or the bytes of that on a little-endian machine.
    temperature : float or array [B]
        The temperature of the row. Greedy rows (0) count as 1; for their one kept token it makes no difference.
    top_n : int, default 0
        How many of the first tokens to name, at most 128.

    Returns
    -------
    Observation

    Raises
    ------
    TypeError, ValueError
        An argument of the wrong type, shape or range.

    Examples
    --------
    >>> seen = observe(np.float32([[1, 3, 2, -np.inf]]), np.array([2]), np.int32([[0b0110]]), top_n=2)
    >>> seen.rank.tolist(), seen.top_token_ids.tolist()
    ([1], [[1, 2]])
    >>> [round(float(v[0]), 6) for v in (seen.logprobs, seen.raw_logprobs, seen.entropy)]
    [-1.313262, -1.407606, 0.582203]
    """
    rows, vocab = check_logits(logits)
    tokens = as_integers("token_ids", token_ids).reshape(-1)
    if tokens.shape != (rows,):
        raise ValueError(f"token_ids: expected shape [{rows}], got {list(np.shape(token_ids))}")
    kept = as_octets("kept", kept, rows, vocab)
    if not 0 <= top_n <= MOST_TOP:
        raise ValueError(f"top_n: expected 0 .. {MOST_TOP}, got {top_n}")
    t = parameters(rows, temperature=temperature).temperature
    seen = _nothing(rows, top_n)
    for block in row_blocks(rows, vocab):
        _block(block, logits[block], tokens[block], kept[block], t[block], top_n, seen)
    return seen


def _nothing(rows: int, top_n: int) -> Observation:
    """The outputs of rows that cannot be observed."""
    numbers = [np.full(rows, QUIET_NAN) for _ in range(3)]
    return Observation(
        numbers[0], numbers[1], np.full(rows, -1, np.int32), numbers[2],
        np.full((rows, top_n), -1, np.int32), np.full((rows, top_n), QUIET_NAN),
    )  # fmt: skip


def _block(
    block: slice, logits: np.ndarray, tokens: np.ndarray, octets: np.ndarray, t: np.ndarray, top_n: int,
    seen: Observation,
) -> None:  # fmt: skip
    x = as_x(logits)
    kept = set_of_octets(octets, x.shape[1]) & (x > -np.inf)
    good = np.flatnonzero((logit_status(x) == 0) & kept.any(axis=1) & (t >= 0) & (t < np.inf))
    if not good.size:
        return
    x, kept, tokens, at = x[good], kept[good], tokens[good], block.start + good
    scale = np.where(t[good] == 0, np.float32(1), t[good])
    rows, inside = np.arange(len(x)), (tokens >= 0) & (tokens < x.shape[1])
    safe = np.where(inside, tokens, 0)
    drawable = inside & (x[rows, safe] > -np.inf)
    # The softmax of the logits themselves.
    m = x.max(axis=1)
    a = gaps(x, m)
    total = weight(a).sum(axis=1)
    raw = logprob(a[rows, safe], total)
    seen.raw_logprobs[at] = np.where(drawable, raw, np.where(inside, np.float32(-np.inf), QUIET_NAN))
    seen.rank[at] = np.where(drawable, _rank(x, safe), -1)
    if top_n:
        seen.top_token_ids[at], seen.top_logprobs[at] = _first(x, m, total, top_n)
    # The softmax over the kept set, at the row's temperature.
    inner = np.where(kept, x, np.float32(-np.inf))
    a = gaps(inner, inner.max(axis=1), scale)
    w = weight(a)
    mass = w.sum(axis=1)
    member = inside & kept[rows, safe]
    own = logprob(a[rows, safe], mass)
    seen.logprobs[at] = np.where(member, own, np.where(inside, np.float32(-np.inf), QUIET_NAN))
    seen.entropy[at] = _entropy(a, w, mass)


def _rank(x: np.ndarray, token: np.ndarray) -> np.ndarray:
    """How many tokens come before each row's token."""
    own = x[np.arange(len(x)), token][:, None]
    ids = np.arange(x.shape[1])
    return ((x > own) | ((x == own) & (ids < token[:, None]))).sum(axis=1)


def _first(x: np.ndarray, m: np.ndarray, total: np.ndarray, top_n: int) -> tuple[np.ndarray, np.ndarray]:
    """The first tokens in order and their raw log probabilities."""
    vocab = x.shape[1]
    quick = bool(few(np.int64(top_n), vocab))
    keys = (first_in_order(x, top_n) if quick else all_in_order(x))[:, :top_n]
    values = np.full((len(x), top_n), np.float32(-np.inf))
    values[:, : keys.shape[1]] = key_values(keys)
    ids = np.full((len(x), top_n), -1, np.int32)
    ids[:, : keys.shape[1]] = key_ids(keys)
    there = values > -np.inf
    below = fixed_point(gaps(values, m)) + ln_mass(total)[:, None]
    logprobs = np.where(there, from_units(-below), np.float32(-np.inf))
    return np.where(there, ids, np.int32(-1)), logprobs


def _entropy(a: np.ndarray, w: np.ndarray, mass: np.ndarray) -> np.ndarray:
    """``ln S + sum(w a) / S``, float32 [R]."""
    e = (np.minimum(a, LARGEST_GAP) * _GAP_UNITS).astype(np.int64)
    u = (w * e >> 21).sum(axis=1)  # units of 2^-42 of a most probable token's weight, at most 2^61.6
    return from_units(ln_mass(mass) + _quotient(u, mass))


def _quotient(u: np.ndarray, mass: np.ndarray) -> np.ndarray:
    """``floor(u * 2^30 / mass)``, by long division: the product has more than 64 bits."""
    q, rest = np.divmod(u, mass)
    for _ in range(30):
        rest = rest * 2
        one = rest >= mass
        q, rest = q * 2 + one, rest - np.where(one, mass, 0)
    return q
