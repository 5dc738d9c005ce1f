"""The two operations of the contract, a block of rows at a time; sections are those of ``docs/contract/spec.md``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .allowed import forbid, read_allowed
from .chunks import row_blocks
from .draw import draw
from .float_mode import unaffected
from .kept import GREEDY, Kept, kept_set, ways
from .logprob import log_z, logprob
from .mask import Mask, MaskBuilder
from .parameters import Parameters, check_logits, parameters
from .status import QUIET_NAN, bad_rows_message, logit_status, parameter_status

__all__ = ["MaskOutput", "SampleOutput", "mask", "sample"]


@dataclass(frozen=True)
class SampleOutput:
    """What ``sample`` returns, of B rows."""

    token_ids: np.ndarray
    """int64 [B]: the drawn tokens; -1 where ``status`` is not 0."""
    num_kept: np.ndarray
    """int32 [B]: the number of tokens the filters kept; 0 where ``status`` is not 0."""
    status: np.ndarray
    """int32 [B]: bits of ``Status``, 0 for a valid row."""
    logprobs: np.ndarray | None
    """float32 [B], natural logarithm: of the token among the kept ones; NaN where ``status`` is not 0."""
    log_z: np.ndarray | None
    """float32 [B], natural logarithm: of the kept part of the full softmax; NaN where ``status`` is not 0."""
    mask: Mask
    """The kept tokens, in the format asked for."""


@dataclass(frozen=True)
class MaskOutput:
    """What ``mask`` returns, of B rows; the fields are those of ``SampleOutput``."""

    mask: Mask
    num_kept: np.ndarray
    status: np.ndarray
    log_z: np.ndarray | None


@unaffected
def sample(
    logits: np.ndarray,
    topp_seed: Any,
    *,
    position: Any = 0,
    temperature: Any = 1.0,
    top_k: Any = 0,
    top_p: Any = 1.0,
    min_p: Any = 0.0,
    filter_order: str = "top_k_first",
    allowed: np.ndarray | None = None,
    return_logprobs: bool = True,
    return_log_z: bool = False,
    return_mask: str | None = None,
    check: bool = False,
) -> SampleOutput:
    """Draw one token of each row (sections 2 to 10).

    Every parameter but ``filter_order`` is a number or an array of shape [], [B] or [B, 1].

    Parameters
    ----------
    logits : array [B, V] of float32, float16 or bfloat16
        Any strides; never written to. ``1 <= V <= 2^21``.
    topp_seed : integer, 64 bits, signed or unsigned
        Which stream of noise.
    position : integer, at least 0
        Absolute index of the token being drawn in its sequence.
    temperature : float, default 1.0
        Finite and at least 0; 0 is greedy.
    top_k : integer, default 0
        On when ``1 <= top_k < V``.
    top_p : float, default 1.0
        Off when at least 1; the first token only when at most 0.
    min_p : float, default 0.0
        Relative to the largest probability. Off when at most 0.
    filter_order : "top_k_first", "min_p_first" or "joint"
        Which tokens' weight top-p takes its share of: of those that top-k keeps, of those that top-k and min-p keep, or
        of all tokens. One for all rows.
    allowed : array of bits, as section 10 has sets of tokens, or None
        A token that is not in its row's set is as if its logit were -inf. None: every token is allowed.
    return_logprobs, return_log_z : bool
        Whether to compute ``logprobs`` and ``log_z``.
    return_mask : None, "bool", "bits" or "csr"
        Format of the mask (section 10).
    check : bool, default False
        Raise if any row is not valid.

    Returns
    -------
    SampleOutput

    Raises
    ------
    TypeError
        An argument of the wrong type or dtype.
    ValueError
        A wrong shape, a scalar out of range, or, with ``check``, a row that is not valid. Without ``check``
        such a row is reported in ``status`` only, and does not affect the other rows.

    Examples
    --------
    >>> logits = np.float32([[1, 2, 3, 4], [4, 3, 2, -np.inf]])
    >>> out = sample(logits, 7, position=np.array([0, 12]), temperature=np.float32([0, 1]), top_p=0.6)
    >>> out.token_ids.tolist(), out.num_kept.tolist(), out.logprobs.tolist()
    ([3, 0], [1, 1], [0.0, 0.0])
    """
    rows, vocab = check_logits(logits)
    p = parameters(
        rows, topp_seed=topp_seed, position=position,
        temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, filter_order=filter_order,
    )  # fmt: skip
    masks = MaskBuilder("return_mask", return_mask, rows, vocab)
    r = _run(logits, read_allowed(allowed, rows, vocab), p, masks, _Wanted(True, return_logprobs, return_log_z, check))
    return SampleOutput(r.token_ids, r.num_kept, r.status, r.logprobs, r.log_z, masks.result())


@unaffected
def mask(
    logits: np.ndarray,
    *,
    temperature: Any = 1.0,
    top_k: Any = 0,
    top_p: Any = 1.0,
    min_p: Any = 0.0,
    filter_order: str = "top_k_first",
    allowed: np.ndarray | None = None,
    kind: str | None = "bool",
    return_log_z: bool = False,
    check: bool = False,
) -> MaskOutput:
    """The kept set of each row, without a draw (sections 2 to 6, 9 and 10).

    Parameters
    ----------
    logits : array [B, V] of float32, float16 or bfloat16
        Any strides; never written to. ``1 <= V <= 2^21``.
    temperature, top_k, top_p, min_p, filter_order, allowed
        As for ``sample``.
    kind : None, "bool", "bits" or "csr"
        Format of the mask (section 10).
    return_log_z : bool
        Whether to compute ``log_z``.
    check : bool, default False
        Raise if any row is not valid.

    Returns
    -------
    MaskOutput

    Raises
    ------
    TypeError
        An argument of the wrong type or dtype.
    ValueError
        A wrong shape, another ``kind``, a scalar out of range, or, with ``check``, a row that is not valid.

    Examples
    --------
    >>> mask(np.float32([[1, 2, 3, 4]]), top_k=2).mask.tolist()
    [[False, False, True, True]]
    """
    rows, vocab = check_logits(logits)
    p = parameters(
        rows, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, filter_order=filter_order
    )  # fmt: skip
    masks = MaskBuilder("kind", kind, rows, vocab)
    r = _run(logits, read_allowed(allowed, rows, vocab), p, masks, _Wanted(False, False, return_log_z, check))
    return MaskOutput(masks.result(), r.num_kept, r.status, r.log_z)


@dataclass(frozen=True)
class _Wanted:
    draw: bool
    logprobs: bool
    log_z: bool
    check: bool


@dataclass(frozen=True)
class _Outcome:
    """The results of R valid rows that are treated in the same way. The last three are there if they are wanted."""

    kept: Kept
    token_ids: np.ndarray | None = None
    logprobs: np.ndarray | None = None
    log_z: np.ndarray | None = None


class _Results:
    """The outputs of B rows, which begin as those of rows that are not valid (section 3)."""

    def __init__(self, rows: int, want: _Wanted) -> None:
        self.token_ids = np.full(rows, -1, np.int64)
        self.num_kept = np.zeros(rows, np.int32)
        self.status = np.zeros(rows, np.int32)
        self.logprobs = np.full(rows, QUIET_NAN) if want.logprobs else None
        self.log_z = np.full(rows, QUIET_NAN) if want.log_z else None

    def put(self, rows: np.ndarray, outcome: _Outcome) -> None:
        """Take the outcome of some rows."""
        self.num_kept[rows] = outcome.kept.num_kept
        for mine, theirs in (
            (self.token_ids, outcome.token_ids),
            (self.logprobs, outcome.logprobs),
            (self.log_z, outcome.log_z),
        ):
            if mine is not None and theirs is not None:
                mine[rows] = theirs


def _run(
    logits: np.ndarray, octets: np.ndarray | None, p: Parameters, masks: MaskBuilder, want: _Wanted
) -> _Results:
    rows, vocab = logits.shape
    results = _Results(rows, want)
    results.status |= parameter_status(p)
    for block in row_blocks(rows, vocab):
        with np.errstate(invalid="ignore"):  # A signalling NaN would cause a warning.
            # A copy, in C order, with +0 for -0 (section 4, step 1).
            x = forbid(logits[block], None if octets is None else octets[block])
        _block(block, x, p, masks, want, results)
    message = bad_rows_message(results.status) if want.check else None
    if message:
        raise ValueError(message)
    return results


def _block(
    block: slice, x: np.ndarray, p: Parameters, masks: MaskBuilder, want: _Wanted, results: _Results
) -> None:
    """Results of the rows ``block`` of a call."""
    p = p.rows(block)
    results.status[block] |= logit_status(x)
    valid = results.status[block] == 0
    way = ways(p, x.shape[1])
    dense = None if masks.kind is None else np.zeros(x.shape, bool)
    for one in np.unique(way[valid]).tolist():
        rows = np.flatnonzero(valid & (way == one))
        outcome = _outcome(one, x if len(rows) == len(x) else x[rows], p.rows(rows), want)
        results.put(block.start + rows, outcome)
        if dense is not None:
            dense[rows[outcome.kept.row], outcome.kept.token] = True
    if dense is not None:
        masks.add(block.start, dense)


def _outcome(way: int, x: np.ndarray, p: Parameters, want: _Wanted) -> _Outcome:
    if way == GREEDY:
        return _greedy(x)
    kept = kept_set(way, x, p, want_mass=want.logprobs or want.log_z, want_total=want.log_z)
    token = log_p = rest = None
    if want.log_z and kept.mass is not None and kept.total is not None:
        rest = log_z(kept.mass, kept.total)
    if want.draw:
        token, a = draw(kept, p, x.shape[1])
        if want.logprobs and kept.mass is not None:
            log_p = logprob(a, kept.mass)
    return _Outcome(kept, token, log_p, rest)


def _greedy(x: np.ndarray) -> _Outcome:
    """Section 4, step 3."""
    rows, first, zero = np.arange(len(x)), x.argmax(axis=1), np.zeros(len(x), np.float32)
    kept = Kept(np.ones(len(x), np.int64), rows, first, zero, None, None)
    return _Outcome(kept, first, zero, zero)
