"""Drafts accepted with probability p/q, and the draw from what is left: section 17 of the contract.

Leviathan, Kalman and Matias, "Fast inference from transformers via speculative decoding", ICML 2023; Chen et al.,
"Accelerating large language model decoding with speculative sampling", 2023. Here it is done in integers, so that
whether a token is accepted depends on the inputs only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .chunks import row_blocks
from .fixed_point import fixed_point
from .gumbel import gumbel
from .logprob import logprob
from .order import as_x
from .parameters import to_fp32
from .philox import philox4x32
from .products import at_least, ln_wide, minus, product
from .sampling import mask
from .seeds import halves
from .speculative_rows import Batch, RequestStatus, check_floats
from .status import QUIET_NAN
from .temperature import gaps
from .weight import weight

__all__ = [
    "DraftRows",
    "Rejected",
    "coin",
    "draft_rows",
    "draft_weights",
    "reject",
    "residual_uniform",
    "target_weights",
]

_COIN, _HIGH, _LOW = np.uint64(3), np.uint64(4), np.uint64(5)
_HALF = np.uint64(32)


@dataclass(frozen=True)
class Rejected:
    """The fields of ``VerifyOutput``."""

    token_ids: np.ndarray
    num_accepted: np.ndarray
    status: np.ndarray
    logprobs: np.ndarray


@dataclass(frozen=True)
class _Slots:
    """What the test of a drafted token needs of each slot, [B, width] each; ``logprobs`` is of the drafted token."""

    passed: np.ndarray
    status: np.ndarray
    logprobs: np.ndarray


@dataclass(frozen=True)
class DraftRows:
    """What the drafter drew from, of all requests."""

    values: np.ndarray
    """[D, V]: probabilities or logits."""
    is_logits: bool
    first: np.ndarray
    """int64 [B]: the row of a request's first drafted token."""
    missing: np.ndarray
    """bool [B]: whether some of a request's rows are not there; False where its ``num_draft`` is out of range."""

    def weights(self, request: np.ndarray, slot: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """``draft_weights`` of some slots."""
        return draft_weights(self.values[self.first[request] + slot], self.is_logits)


def draft_rows(batch: Batch, num_draft: np.ndarray, draft_probs: Any, draft_logits: Any, flat: bool) -> DraftRows:
    """Find the draft's rows (section 14), ``flat`` ones behind each other without gaps for the targets' last."""
    if (draft_probs is None) == (draft_logits is None):
        raise ValueError("draft_probs, draft_logits: expected one of them with method='rejection'")
    name, given = ("draft_probs", draft_probs) if draft_logits is None else ("draft_logits", draft_logits)
    requests, vocab = len(batch.count), batch.logits.shape[1]
    check_floats(name, given)
    expected: tuple[int, ...] = (requests, batch.width - 1, vocab)
    if flat:
        expected = (given.shape[0] if given.ndim else 0, vocab)
    if given.shape != expected:
        said = f"[D, {vocab}]" if flat else list(expected)
        raise ValueError(f"{name}: expected shape {said}, got {list(given.shape)}")
    every, values = np.arange(requests), given.reshape(-1, vocab)
    first = batch.first - every if flat else every * (batch.width - 1)
    there = (first >= 0) & (first <= len(values) - num_draft)
    missing = ~there & (batch.status & RequestStatus.LENGTH == 0)
    return DraftRows(values, draft_logits is not None, first, missing)


def reject(batch: Batch, drafts: np.ndarray, draft: DraftRows) -> Rejected:
    """Section 17 for a batch."""
    kept = _kept(batch)
    slots = _test(batch, drafts, kept, draft)
    requests = np.arange(len(drafts))
    accepted = np.cumprod(slots.passed[:, :-1], axis=1).sum(axis=1)
    status = batch.status | slots.status[requests, accepted]
    slot = np.arange(batch.width)
    before = (slot < accepted[:, None])[:, :-1]
    token_ids = np.full(slots.passed.shape, -1, np.int64)
    logprobs = np.full(slots.passed.shape, QUIET_NAN)
    token_ids[:, :-1] = np.where(before, drafts, -1)
    logprobs[:, :-1] = np.where(before, slots.logprobs[:, :-1], QUIET_NAN)
    end = np.flatnonzero(status == 0)
    at = (end, accepted[end])
    token_ids[at], logprobs[at] = _last(batch, drafts, *at, kept, draft)
    return Rejected(token_ids, accepted.astype(np.int32), status, logprobs)


@dataclass(frozen=True)
class _Kept:
    """The kept sets of rows, [R, V] and [R] of a batch; rows of nobody keep nothing."""

    mask: np.ndarray
    status: np.ndarray
    temperature: np.ndarray


def _kept(batch: Batch) -> _Kept:
    request, slot = np.nonzero(batch.slots)
    rows, given = batch.first[request] + slot, batch.given.rows(request)
    found = mask(
        batch.logits[rows], temperature=given.temperature, top_k=given.top_k, top_p=given.top_p, min_p=given.min_p,
        filter_order=given.filter_order,
    )  # fmt: skip
    kept = _Kept(
        np.zeros(batch.logits.shape, bool), np.zeros(len(batch.logits), np.int32),
        np.ones(len(batch.logits), np.float32),
    )  # fmt: skip
    with np.errstate(over="ignore"):
        position = given.position + slot
    kept.mask[rows] = found.mask
    kept.status[rows] = found.status | np.where(position < 0, RequestStatus.PARAMETER, 0).astype(np.int32)
    plain = (given.temperature == 0) | (found.status != 0)  # One token is kept, or none, so any temperature will do.
    kept.temperature[rows] = np.where(plain, np.float32(1), given.temperature)
    return kept


def target_weights(logits: np.ndarray, kept: np.ndarray, temperature: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(weights of kept tokens and 0 elsewhere, gaps) of valid rows; temperature above 0."""
    x = as_x(logits)
    a = gaps(x, x.max(axis=1), temperature)
    return np.where(kept, weight(a), 0), a


def draft_weights(rows: np.ndarray, is_logits: bool) -> tuple[np.ndarray, np.ndarray]:
    """(weights, whether they are a distribution's) of rows of probabilities or logits.

    Examples
    --------
    >>> draft_weights(np.float32([[0.5, 0.25], [np.nan, 1]]), False)[1].tolist()
    [True, False]
    """
    x = as_x(rows)
    if is_logits:
        m = x.max(axis=1)
        good = np.isfinite(m)
        safe = np.where(good[:, None], x, np.float32(0))
        v = weight(gaps(safe, np.where(good, m, np.float32(0))))
    else:
        inside = (x >= 0) & (x < 2)
        v = (np.where(inside, x, np.float32(0)) * np.float32(1 << 40)).astype(np.int64)
        good = inside.all(axis=1) & (v.sum(axis=1) > 0)
    return v, good


def _test(batch: Batch, drafts: np.ndarray, kept: _Kept, draft: DraftRows) -> _Slots:
    """Test every drafted token against its coin, also those that will not be needed."""
    shape = batch.slots.shape
    slots = _Slots(np.zeros(shape, bool), np.zeros(shape, np.int32), np.full(shape, QUIET_NAN))
    request, slot = np.nonzero(batch.slots)
    slots.status[request, slot] = kept.status[batch.first[request] + slot]
    request, slot = np.nonzero(np.arange(batch.width) < batch.count[:, None] - 1)
    for part in row_blocks(len(request), batch.logits.shape[1]):
        b, j = request[part], slot[part]
        row, every = batch.first[b] + j, np.arange(len(b))
        fine = kept.status[row] == 0
        token = drafts[b, j]
        x = np.where(fine[:, None], to_fp32(batch.logits[row]), np.float32(0))
        w, a = target_weights(x, kept.mask[row], kept.temperature[row])
        v, good = draft.weights(b, j)
        mass, draft_mass = w.sum(axis=1), v.sum(axis=1)
        heads = _accepted(
            coin(batch.given.topp_seed[b], batch.given.position[b] + j),
            w[every, token], mass, v[every, token], draft_mass,
        )  # fmt: skip
        slots.passed[b, j] = fine & good & heads
        slots.status[b, j] |= np.where(good, 0, RequestStatus.DRAFT_WEIGHTS).astype(np.int32)
        said = slots.passed[b, j]
        slots.logprobs[b[said], j[said]] = logprob(a[every, token][said], mass[said])
    return slots


def _accepted(
    c: np.ndarray, w: np.ndarray, mass: np.ndarray, v: np.ndarray, draft_mass: np.ndarray
) -> np.ndarray:
    """Whether ``c * v * mass < 2^64 * w * draft_mass``, bool."""
    left = [int(a) * int(b) * int(d) for a, b, d in zip(c, v, mass, strict=True)]
    right = [int(a) * int(b) << 64 for a, b in zip(w, draft_mass, strict=True)]
    return np.array([a < b for a, b in zip(left, right, strict=True)], bool)


def coin(topp_seed: np.ndarray, position: np.ndarray) -> np.ndarray:
    """The 64 random bits that decide about a drafted token: domain 3; uint64 [N] of uint64 and int64 [N]."""
    zero = np.zeros(1, np.uint64)
    low, high = halves(position.view(np.uint64))
    words = philox4x32((zero, low, high, zero + _COIN), halves(topp_seed))
    return words[0] << _HALF | words[1]


def residual_uniform(topp_seed: np.ndarray, position: np.ndarray, vocab: int) -> np.ndarray:
    """The 64 random bits of the tokens of rows, from domains 4 and 5; uint64 [N, vocab]."""
    quad = np.arange(-(-vocab // 4)).astype(np.uint64)
    low, high = (half[:, None] for half in halves(position.view(np.uint64)))
    key = tuple(half[:, None] for half in halves(topp_seed))
    tops, bottoms = (philox4x32((quad, low, high, domain), (key[0], key[1])) for domain in (_HIGH, _LOW))
    lanes = [top << _HALF | bottom for top, bottom in zip(tops, bottoms, strict=True)]
    return np.stack(lanes, axis=2).reshape(len(topp_seed), -1)[:, :vocab]


def _last(
    batch: Batch, drafts: np.ndarray, request: np.ndarray, slot: np.ndarray, kept: _Kept, draft: DraftRows
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """The token behind the accepted ones of some requests, and its log probability."""
    token, log_p = np.zeros(len(request), np.int64), np.zeros(len(request), np.float32)
    for part in row_blocks(len(request), batch.logits.shape[1]):
        b, j = request[part], slot[part]
        row, every = batch.first[b] + j, np.arange(len(b))
        w, a = target_weights(batch.logits[row], kept.mask[row], kept.temperature[row])
        mass = w.sum(axis=1)
        level, wanted = -fixed_point(a), kept.mask[row]
        left = np.flatnonzero(j < batch.count[b] - 1)
        if left.size:
            v, _ = draft.weights(b[left], j[left])
            # If the draft could not draw the token, the target's probabilities stay whole, and there may be no
            # residual.
            possible = v[np.arange(len(left)), drafts[b[left], j[left]]] > 0
            left, v = left[possible], v[possible]
            level[left], wanted[left] = _residual(w[left], mass[left], v)
        noise = gumbel(residual_uniform(batch.given.topp_seed[b], batch.given.position[b] + j, w.shape[1]))
        token[part] = np.where(wanted, level + noise, np.iinfo(np.int64).min).argmax(axis=1)
        log_p[part] = logprob(a[every, token[part]], mass)
    return token, log_p


def _residual(w: np.ndarray, mass: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(logarithm, whether above 0) of ``w * draft_mass - v * mass``, the probability that the draft left over."""
    w, v = w.astype(np.uint64), v.astype(np.uint64)
    target = product(w, v.sum(axis=1)[:, None])
    drafted = product(v, mass.astype(np.uint64)[:, None])
    some = ~at_least(drafted, target)
    high, low = minus(target, drafted)
    return ln_wide((np.where(some, high, np.uint64(0)), np.where(some, low, np.uint64(1)))), some

