"""Sampling from shards of the vocabulary: what ``sample``, ``mask`` and ``verify`` return, from a few numbers of each
shard.

A shard computes in *rounds*: it yields a message, int64 [R, F], and is sent the messages of all shards, [shards, R, F].
What follows from these is computed by every shard alike. ``docs/sharded.md`` says what each round is for. ``sample``,
``mask`` and ``verify`` take lists with one array for each shard, in the order of the token ids, and let all shards take
their rounds together; ``draw_shard`` and ``verify_shard`` are one shard.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from .allowed import forbid, read_allowed
from .filters import min_p_weight, top_k_length, top_k_on, top_p_mass
from .fixed_point import fixed_point
from .float_mode import unaffected
from .gumbel import gumbel, uniform
from .logprob import log_z, logprob
from .mask import MaskBuilder
from .order import as_x, key_ids, order_keys
from .parameters import MAX_VOCAB, Parameters, check_logits, parameters
from .sampling import MaskOutput, SampleOutput
from .sharded_heads import Heads, first_keys, merge
from .sharded_search import Prefix, search
from .speculative import VerifyOutput, chains, match, slot_rows
from .status import QUIET_NAN, Status, logit_status, parameter_status
from .temperature import gaps
from .weight import weight

__all__ = ["Shard", "Steps", "draw_shard", "in_step", "mask", "sample", "verify", "verify_shard"]

T = TypeVar("T")
Steps = Generator[np.ndarray, np.ndarray, T]
MOST_HEADS = 128
"""How many first tokens a shard tells of at most."""
FEW_HEADS = 64
"""How many it tells of where top-p alone may end among them."""
_EVERYTHING = 1 << 62
_NO_SCORE = np.iinfo(np.int64).min


@dataclass(frozen=True)
class Shard:
    """Which part of the vocabulary a shard has."""

    rank: int
    """Which of the shards it is, from 0."""
    start: int
    """The token id of its first column."""
    vocab: int
    """V, of all shards together."""


def sample(shards: Sequence[np.ndarray], topp_seed: Any, **how: Any) -> list[SampleOutput]:
    """Draw one token of each row; ``how`` are the other arguments of ``sample``, without ``check`` and ``allowed``.

    Every shard gets the whole result; its mask is of its own columns. ``draw_shard`` takes its ``allowed`` tokens.

    Examples
    --------
    >>> shards = [np.float32([[1, 2, 3]]), np.float32([[4]])]
    >>> [out.token_ids.tolist() for out in sample(shards, 7, temperature=0)]
    [[3], [3]]
    """
    return in_step([draw_shard(own, x, topp_seed, **how) for own, x in _cut(shards)])


def mask(shards: Sequence[np.ndarray], *, kind: str = "bool", **how: Any) -> list[MaskOutput]:
    """The kept set of each row, without a draw; ``how`` are the other arguments of ``mask``, without ``check``."""
    found = in_step([draw_shard(own, x, None, return_mask=kind, **how) for own, x in _cut(shards)])
    return [MaskOutput(out.mask, out.num_kept, out.status, out.log_z) for out in found]


def verify(shards: Sequence[np.ndarray], *given: Any, **how: Any) -> list[VerifyOutput]:
    """Accept drafted tokens of chains; ``given`` and ``how`` are the other arguments of ``verify`` by matching."""
    return in_step([verify_shard(own, x, *given, **how) for own, x in _cut(shards)])


@unaffected
def in_step(shards: Sequence[Steps[T]]) -> list[T]:
    """Let the shards of a call take their rounds together, and return what each of them returns."""
    messages, results = [next(shard) for shard in shards], list[T]()
    while not results:
        gathered, messages = np.stack(messages), []
        for shard in shards:
            try:
                messages.append(shard.send(gathered))
            except StopIteration as end:
                results.append(end.value)
    return results


def _cut(shards: Sequence[np.ndarray]) -> list[tuple[Shard, np.ndarray]]:
    """Each shard with its place among all."""
    ends = np.cumsum([x.shape[-1] for x in shards]).tolist()
    if len({x.shape[:-1] for x in shards}) != 1 or not 1 <= ends[-1] <= MAX_VOCAB:
        got = [x.shape for x in shards]
        raise ValueError(f"shards: expected [B, V_r] of one B and 1 <= V <= {MAX_VOCAB}, got {got}")
    return [(Shard(i, end - x.shape[-1], ends[-1]), x) for i, (x, end) in enumerate(zip(shards, ends, strict=True))]


def _not_empty(logits: np.ndarray) -> np.ndarray:
    """Logits with at least one column: a token at -inf changes nothing."""
    if logits.shape[-1]:
        return logits
    return np.full((*logits.shape[:-1], 1), -np.inf, np.float32)


def draw_shard(
    own: Shard, logits: np.ndarray, topp_seed: Any, *, position: Any = 0, return_logprobs: bool = True,
    return_log_z: bool = False, return_mask: str | None = None, allowed: np.ndarray | None = None, **how: Any,
) -> Steps[SampleOutput]:  # fmt: skip
    """One shard of ``sample``, or of ``mask`` where ``topp_seed`` is None."""
    columns, logits = logits.shape[-1], _not_empty(logits)
    rows, _ = check_logits(logits)
    draws = topp_seed is not None
    p = parameters(rows, topp_seed=topp_seed if draws else 0, position=position, **{"temperature": 1.0, **how})
    x = forbid(logits, read_allowed(allowed, rows, columns) if columns else None)
    out = yield from _draw(own, x, p, draws, return_log_z)
    masks = MaskBuilder("return_mask", return_mask, rows, columns)
    assert isinstance(out.mask, np.ndarray)
    masks.add(0, out.mask[:, :columns])
    logprobs = out.logprobs if return_logprobs and draws else None
    return SampleOutput(out.token_ids, out.num_kept, out.status, logprobs, out.log_z, masks.result())


def verify_shard(
    own: Shard, logits: np.ndarray, draft_tokens: np.ndarray, num_draft: Any, topp_seed: Any, *,
    row_offsets: np.ndarray | None = None, return_logprobs: bool = True, allowed: np.ndarray | None = None, **how: Any,
) -> Steps[VerifyOutput]:  # fmt: skip
    """One shard of ``verify``."""
    how = {"temperature": 1.0, **how, "topp_seed": topp_seed}
    batch, drafts, drafted = chains(_not_empty(logits), draft_tokens, num_draft, row_offsets, how, own.vocab)
    batch = batch.allowing(allowed if logits.shape[-1] else None, logits.shape[:-1]).shortened(drafted + 1)
    rows, p = slot_rows(batch)
    found = yield from _draw(own, as_x(rows), p, True, False)
    out = match(batch, drafts, found)
    return VerifyOutput(out.token_ids, out.num_accepted, out.status, out.logprobs if return_logprobs else None)


def _draw(own: Shard, x: np.ndarray, p: Parameters, draws: bool, want_log_z: bool) -> Steps[SampleOutput]:
    """All results of the rows; the mask as bools."""
    rows = len(x)
    out = SampleOutput(
        np.full(rows, -1, np.int64), np.zeros(rows, np.int32), parameter_status(p), np.full(rows, QUIET_NAN),
        np.full(rows, QUIET_NAN) if want_log_z else None, np.zeros(x.shape, bool),
    )  # fmt: skip
    keys = order_keys(x, own.start + np.arange(x.shape[1]))
    count = _heads_wanted(p, own.vocab)
    heads = yield np.concatenate([logit_status(x)[:, None], first_keys(keys, count)], axis=1, dtype=np.int64)
    told = heads[:, :, 0].astype(np.int32)
    out.status[:] |= np.bitwise_or.reduce(told & ~Status.EMPTY) | np.bitwise_and.reduce(told & Status.EMPTY)
    valid = np.flatnonzero(out.status == 0)
    if valid.size:
        p = p.rows(valid)
        greedy, p = p.temperature == 0, _greedy_as_first(p)
        head = merge(heads[:, valid, 1:], p.temperature)
        row = _Rows(own, x[valid], keys[valid], p, head)
        yield from _results(row, valid, greedy, draws, want_log_z, out)
    return out


def _heads_wanted(p: Parameters, vocab: int) -> int:
    """How many first tokens each shard tells of."""
    few = top_k_on(p.top_k, vocab) & (p.top_k <= MOST_HEADS)
    by_p = ~few & (p.top_p < 1)
    return int(max(1, np.where(few, p.top_k, 0).max(initial=1), FEW_HEADS * by_p.max(initial=0)))


def _greedy_as_first(p: Parameters) -> Parameters:
    """Greedy rows as rows that keep their first token: section 4, step 3."""
    greedy = p.temperature == 0
    one, zero = np.float32(1), np.float32(0)
    return Parameters(
        np.where(greedy, one, p.temperature), np.where(greedy, 1, p.top_k), np.where(greedy, one, p.top_p),
        np.where(greedy, zero, p.min_p), p.filter_order, p.topp_seed, p.position,
    )  # fmt: skip


class _Rows:
    """R valid rows of a shard."""

    def __init__(self, own: Shard, x: np.ndarray, keys: np.ndarray, p: Parameters, head: Heads) -> None:
        self.own, self.keys, self.p, self.head = own, keys, p, head
        self.drawable = x > -np.inf
        self.a = gaps(x, head.largest, p.temperature)
        self.w = weight(self.a)

    def first(self, count: np.ndarray) -> Prefix:
        """The first tokens, as many of them as are known to be in their place."""
        at = (np.arange(len(count)), np.maximum(np.minimum(count, self.head.known), 1) - 1)
        return Prefix(at[1] + 1, self.head.sums[at], self.head.keys[at])

    def search(self, needed: np.ndarray, goal: np.ndarray, by_weight: bool) -> Steps[Prefix]:
        """Find the shortest prefix that reaches the goal, in the rows where that is needed."""
        if not needed.any():
            return self.first(goal)
        goal = np.where(needed, goal, 0)
        return (yield from search(self.own.rank, self.keys, self.w, self.drawable, goal, by_weight))


def _results(
    row: _Rows, valid: np.ndarray, greedy: np.ndarray, draws: bool, want_log_z: bool, out: SampleOutput
) -> Steps[None]:
    kept, total = yield from _kept(row, want_log_z)
    out.num_kept[valid] = kept.count
    assert isinstance(out.mask, np.ndarray)
    mine = (row.keys <= kept.last[:, None]) & row.drawable
    out.mask[valid] = mine
    if draws:
        known = kept.count <= row.head.known
        if known.all():  # every shard knows all kept tokens
            at = np.nonzero(np.arange(row.head.keys.shape[1]) < kept.count[:, None])
            best = _best(row.p, at[0], key_ids(row.head.keys[at]), row.head.a[at])[None]
        else:
            at = np.nonzero(mine)
            best = yield _best(row.p, at[0], row.own.start + at[1], row.a[at])
        token, a = _winner(best)
        out.token_ids[valid] = token
        assert out.logprobs is not None
        out.logprobs[valid] = logprob(a, kept.mass)
    if out.log_z is not None and total is not None:
        out.log_z[valid] = np.where(greedy, np.float32(0), log_z(kept.mass, total))


def _kept(row: _Rows, want_total: bool) -> Steps[tuple[Prefix, np.ndarray | None]]:
    """The kept set of each row (section 6), and the weight of all its tokens where it is needed."""
    p, head, vocab = row.p, row.head, row.own.vocab
    by_p, few = p.top_p < 1, top_k_on(p.top_k, vocab) & (p.top_k <= MOST_HEADS)
    total = None
    least = min_p_weight(p.min_p)[:, None]
    if want_total or not few.all() or (p.filter_order == "joint" and by_p.any()):
        heavy = row.drawable & (row.w >= least)
        sums = [row.w, row.drawable, heavy, np.where(heavy, row.w, 0)]
        found = yield np.stack([each.sum(axis=1) for each in sums], axis=1)
        total, tokens, count, mass = found.sum(axis=0).T
        last = np.where(heavy, row.keys, _NO_SCORE).max(axis=1)
        heaviest = Prefix(count, mass, last)
    else:
        tokens = head.known
        each = np.diff(head.sums, axis=1, prepend=0)
        known = np.arange(each.shape[1]) < head.known[:, None]
        heaviest = row.first((known & (each >= least)).sum(axis=1))
    k = top_k_length(p.top_k, vocab, tokens)
    kept = row.first(k)
    if total is not None:
        searched = yield from row.search((k > head.known) & (k < tokens), k, False)
        everything = Prefix(tokens, total, np.full(len(k), 0x7F7FFFFF << 32 | 0xFFFFFFFF))
        kept = kept.where(k <= head.known, everything.where(k == tokens, searched))
    whole = total if p.filter_order == "joint" else kept.mass
    kept = heaviest.where(heaviest.count < kept.count, kept)
    whole = kept.mass if p.filter_order == "min_p_first" else whole
    if not by_p.any():
        return kept, total
    assert whole is not None
    inside = by_p & (p.top_p > 0)
    share = top_p_mass(np.where(inside, p.top_p, np.float32(0.5)), whole)
    target = np.where(inside, share, np.where(by_p, 1, _EVERYTHING))
    place = (head.sums < target[:, None]).sum(axis=1) + 1
    cuts = target <= kept.mass
    shortest = yield from row.search(cuts & (place > head.known), target, True)
    shortest = row.first(place).where(place <= head.known, shortest)
    return shortest.where(cuts, kept), total


def _best(p: Parameters, row: np.ndarray, token: np.ndarray, a: np.ndarray) -> np.ndarray:
    """The best score of some tokens of each row, the token, and the bits of its gap, int64 [R, 3]."""
    score = gumbel(uniform(p.topp_seed[row], p.position[row], token)) - fixed_point(a)
    best = np.full((len(p.position), 3), [_NO_SCORE, MAX_VOCAB, 0])
    # The last of those that are put in one place stays there: the best score, of equal ones the lowest token.
    order = np.lexsort((-token, score, row))
    best[row[order]] = np.stack([score, token, a.view(np.int32)], axis=1)[order]
    return best


def _winner(best: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The token of each row and its gap, from the best of each shard, [shards, R, 3]."""
    rows = np.arange(best.shape[1])
    order = np.lexsort((best[:, :, 1], ~best[:, :, 0]), axis=0)[0]
    _, token, a = best[order, rows].T
    return token, a.astype(np.int32).view(np.float32)
