"""`kept_logprobs`: a trainer's log probabilities over the kept sets of a rollout, differentiably.

A token was drawn from the softmax over its kept set. A trainer that normalises over the whole vocabulary compares
two different distributions: its importance ratio is then the kept share, and not 1, before the first step. If it
normalises over the recorded set, the ratio starts at 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from detsample import frameworks
from detsample.frameworks import operations
from detsample.frameworks.operations import Operations
from detsample.frameworks.recording import unrecorded
from detsample.rollout.kept_sets import KeptSets
from detsample.sampler.output import Csr
from detsample.sampler.parameters import INTEGER_TYPES, is_scalar

LOGIT_TYPES = ("float32", "float64", "bfloat16", "float16")
LARGEST_GAP = float(1 << 30)
"""Where its gaps to the largest logit saturate (section 9)."""


@dataclass(frozen=True, eq=False)
class KeptLogprobs:
    """What `kept_logprobs` returns, of N tokens.

    Attributes
    ----------
    logprobs : [N] fp32 (fp64 of fp64 logits)
        Log probability of each token among its kept ones, differentiable in the logits; ``-inf``, with a gradient
        of exactly 0, for a token outside.
    outside : [N] bool
        Which tokens are outside: not in the kept set, no token at all (``-1`` of an invalid row), or at ``-inf`` in
        the trainer's logits.
    """

    logprobs: Any
    outside: Any


@unrecorded
def kept_logprobs(logits: Any, kept: KeptSets | Csr | Any, token_ids: Any, *, temperature: Any = 1.0) -> KeptLogprobs:
    """Log probabilities of a trainer's logits under the rollout's kept sets.

    Parameters
    ----------
    logits : [N, V] floating
        A tensor of torch or Paddle, of any device, that may require a gradient; or a NumPy array.
    kept : KeptSets, Csr, [N, V] bool, or [N, ceil(V / 32)] int32
        As a `Record` has them, a mask of `detsample.sample`, or the bits of a `Draw`. Sets on a device are fetched.
    token_ids : [N] integer
        The drawn tokens; an array, or a tensor, which is fetched.
    temperature : float, or [N] floating
        That of the draw. Greedy tokens (0) are weighed at 1: they are alone in their sets. So are rows whose
        temperature is not finite or below 0: they are invalid, and have no token.

    Returns
    -------
    KeptLogprobs
        Tensors of the logits' framework on the logits' device.

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what was expected and what came.

    Notes
    -----
    Only the kept logits are gathered, rows of like size together, so the work is that of the kept sets and not of
    the vocabulary; no sum depends on the order in which a device adds. Rows that keep more than half the vocabulary
    are treated whole.

    Gaps saturate where those of the draw do (docs/contract/spec.md, section 9), so that tiny temperatures make no
    infinities; a saturated number has the gradient 0.

    Examples
    --------
    >>> import numpy as np
    >>> logits = np.float32([[1, 3, 2, 0], [0, 0, 0, 0]])
    >>> kept = np.array([[False, True, True, False], [True, True, False, False]])
    >>> found = kept_logprobs(logits, kept, np.array([2, 3]))
    >>> found.logprobs.round(4).tolist(), found.outside.tolist()
    ([-1.3133000135421753, -inf], [False, True])
    """
    framework = frameworks.of(logits, "logits")
    rows, vocab = _shape(framework.shape(logits), framework.dtype_name(logits))
    tokens = _tokens(token_ids, rows)
    sets = _sets(kept, rows, vocab)
    scale = _scale(temperature, rows)
    ops = operations.of(framework.name)
    inside, column = _places(sets, tokens)
    x = ops.widened(logits)
    if not rows:
        nothing = ops.sum_of_rows(x)
        return KeptLogprobs(nothing, nothing == -np.inf)
    order, found = [], []
    with np.errstate(over="ignore", invalid="ignore"):  # Arrays would warn of infinities that are meant.
        for chosen, own, valid in _groups(ops, x, sets):
            order.append(chosen)
            rate = ops.beside(scale[chosen][:, None], x)
            found.append(_logprobs(ops, own, rate, valid, column[chosen], inside[chosen]))
    back = np.argsort(np.concatenate(order))
    logprobs = ops.take(ops.join(found), ops.beside(back, x))
    return KeptLogprobs(logprobs, logprobs == -np.inf)  # gaps are finite: no token inside has -inf


def _logprobs(ops: Operations, x: Any, scale: Any, valid: Any, column: np.ndarray, inside: np.ndarray) -> Any:
    """Log probability of each row's own column among the valid ones; -inf, without a gradient, where it is outside.

    Everything is a function of gaps to the row's largest kept logit, as in the draw. The gradients of a row's own logit
    and of its sum are added before they are scaled: at a tiny temperature each of them alone would overflow.
    """
    place = ops.beside(np.arange(len(column)) * x.shape[1] + column, x)
    member = ops.both(ops.beside(inside, x), ops.take(x.reshape([-1]), place) != -np.inf)
    # A row without a token gets the weight 0, so that a NaN among its logits stays out of the gradient.
    x = ops.where(ops.both(valid, member.reshape([-1, 1])), x, -np.inf)
    largest = ops.largest_of_rows(x)
    largest = ops.where(largest != -np.inf, largest, 0.0)
    rise = (x - largest.reshape([-1, 1])) * scale  # a gap, negated
    mass = ops.sum_of_rows(ops.exp(rise))
    own = ops.take(rise.reshape([-1]), place)
    found = own - ops.log(ops.where(mass != 0, mass, 1.0))  # a NaN is not 0, and stays
    # Beside 2^30 the logarithm is less than a rounding, and as a constant the whole has no gradient.
    found = ops.where((found < -LARGEST_GAP) == False, found, -LARGEST_GAP)  # noqa: E712 (Paddle has no ~; a NaN stays)
    return ops.where(member, found, -np.inf)


def _groups(ops: Operations, x: Any, sets: KeptSets) -> Iterator[tuple[np.ndarray, Any, Any]]:
    """(row numbers, logits [n, K], which of them are kept) of rows of like size; each row in one group."""
    listed = sets.listed
    width = 1 << np.ceil(np.log2(np.maximum(listed, 1))).astype(np.int64)
    widths = np.unique(width[~sets.dropped])
    sparse = [np.flatnonzero(~sets.dropped & (width == w)) for w in widths]
    padded = [_padded(sets, rows, w) for rows, w in zip(sparse, widths, strict=True)]
    # One gather for all: its gradient is one tensor of the logits' size, not one for each group.
    flat = np.concatenate([np.zeros(0, np.int64), *(at.reshape(-1) for at, _ in padded)])
    every: Any = ops.take(x.reshape([-1]), ops.beside(flat, x)) if padded else None
    start = 0
    for rows, (at, valid) in zip(sparse, padded, strict=True):
        own = every[start : start + at.size].reshape(list(at.shape))
        start += at.size
        yield rows, own, ops.beside(valid, x)
    whole = np.flatnonzero(sets.dropped)
    if whole.size:
        yield whole, ops.take(x, ops.beside(whole, x)), ops.beside(sets.rows(whole).mask(), x)


def _padded(sets: KeptSets, rows: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The places of the listed logits of rows in [N * V], int64 [n, K], and which of them are not just padding."""
    chosen = sets.rows(rows)
    valid = np.arange(width) < chosen.listed[:, None]
    at = np.zeros((len(rows), width), np.int64)
    at[valid] = chosen.token_ids
    return at + rows[:, None] * sets.vocab, valid


def _places(sets: KeptSets, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which tokens are in their rows' sets, bool [N], and their columns in the rows of `_groups`, int64 [N]."""
    if not len(sets):
        return np.zeros(0, bool), np.zeros(0, np.int64)
    row = np.arange(len(sets))
    keys = np.repeat(row, sets.listed) * sets.vocab + sets.token_ids  # ascending, as ids are in each row
    is_token = (tokens >= 0) & (tokens < sets.vocab)
    token = np.where(is_token, tokens, 0)
    at = np.searchsorted(keys, row * sets.vocab + token)
    found = np.append(keys, -1)[at] == row * sets.vocab + token
    inside = is_token & (found ^ sets.dropped)
    return inside, np.where(inside, np.where(sets.dropped, token, at - sets.row_offsets[:-1]), 0)


def _shape(shape: tuple[int, ...], dtype: str) -> tuple[int, int]:
    if dtype not in LOGIT_TYPES:
        raise TypeError(f"logits must be of type {', '.join(LOGIT_TYPES)}, got {dtype}")
    if len(shape) != 2 or shape[1] < 1:
        raise ValueError(f"logits must have shape [N, V], got {list(shape)}")
    return shape[0], shape[1]


def _tokens(token_ids: Any, rows: int) -> np.ndarray:
    tokens: np.ndarray = frameworks.of(token_ids, "token_ids").fetch(token_ids)
    if tokens.dtype.name not in INTEGER_TYPES:
        raise TypeError(f"token_ids must be of type {' or '.join(INTEGER_TYPES)}, got {tokens.dtype.name}")
    if tokens.shape != (rows,):
        raise ValueError(f"token_ids must have shape [{rows}], got {list(tokens.shape)}")
    return tokens.astype(np.int64)


def _sets(kept: Any, rows: int, vocab: int) -> KeptSets:
    if isinstance(kept, KeptSets):
        sets = kept
    elif hasattr(kept, "row_offsets"):
        sets = KeptSets.of_csr(kept, vocab)
    else:
        sets = _of_mask(frameworks.of(kept, "kept").fetch(kept), rows, vocab)
    if (len(sets), sets.vocab) != (rows, vocab):
        got = f"{len(sets)} and {sets.vocab}"
        raise ValueError(f"kept must be of {rows} rows and {vocab} tokens like the logits, got {got}")
    return sets


def _of_mask(mask: np.ndarray, rows: int, vocab: int) -> KeptSets:
    """The sets of a mask of bools or of bits."""
    words = -(-vocab // 32)
    if mask.dtype == np.int32 and mask.shape == (rows, words):
        return KeptSets.of_bits(mask, vocab)
    if mask.dtype != bool or mask.shape != (rows, vocab):
        expected = f"KeptSets, Csr, bool [{rows}, {vocab}] or int32 [{rows}, {words}]"
        raise ValueError(f"kept must be {expected}, got {mask.dtype} {list(mask.shape)}")
    return KeptSets.of_mask(mask)


def _scale(temperature: Any, rows: int) -> np.ndarray:
    """1 / temperature as the contract rounds it, fp32 [N]; 1 for greedy rows, and for invalid ones."""
    if is_scalar(temperature):
        given = np.asarray(temperature)
    else:
        given = frameworks.of(temperature, "temperature").fetch(temperature)
    if given.shape not in ((), (rows,), (rows, 1)):
        raise ValueError(f"temperature must be a number or have shape [{rows}], got {list(given.shape)}")
    with np.errstate(all="ignore"):
        t = np.broadcast_to(given.reshape(-1).astype(np.float32), (rows,))
        valid = np.isfinite(t) & (t >= 0)
        inverse = np.minimum(np.float32(1) / t, np.finfo(np.float32).max)
    if is_scalar(temperature) and not valid.all():
        raise ValueError(f"temperature must be finite and at least 0, got {temperature}")
    return np.where(valid & (t > 0), inverse, np.float32(1))
