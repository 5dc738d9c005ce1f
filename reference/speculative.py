"""Verification of drafted tokens: sections 14 to 17 of ``docs/contract/verification.md``.

``verify`` serves chains of drafted tokens, ``verify_tree`` trees. By default every row is drawn as ``sample`` draws
it, and drafts are accepted while they are what was drawn. ``method="rejection"`` is in ``speculative_rejection.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .float_mode import unaffected
from .parameters import Parameters, as_integers
from .sampling import SampleOutput, sample
from .speculative_rejection import draft_rows, reject
from .speculative_rows import Batch, RequestStatus, bad_requests_message, draft_ids, rows_of
from .status import QUIET_NAN

__all__ = ["METHODS", "TreeOutput", "VerifyOutput", "chains", "match", "slot_rows", "verify", "verify_tree"]

METHODS = ("match", "rejection")
NOTHING = -1
"""Stands for "no token" in a list of drafted tokens."""


@dataclass(frozen=True)
class VerifyOutput:
    """What ``verify`` returns, of B requests with at most K drafted tokens each."""

    token_ids: np.ndarray
    """int64 [B, K + 1]: the accepted tokens, then one that the target drew; -1 behind it."""
    num_accepted: np.ndarray
    """int32 [B]: how many drafted tokens were accepted."""
    status: np.ndarray
    """int32 [B]: bits of ``RequestStatus``, 0 for a request in order."""
    logprobs: np.ndarray | None
    """float32 [B, K + 1]: of the tokens; NaN where there is none."""


@dataclass(frozen=True)
class TreeOutput:
    """What ``verify_tree`` returns, of B requests with at most N nodes each."""

    token_ids: np.ndarray
    """int64 [B, N]: the tokens on the accepted path, then one that the target drew; -1 behind it."""
    num_accepted: np.ndarray
    """int32 [B]: how many drafted tokens were accepted."""
    nodes: np.ndarray
    """int32 [B, N]: the node whose logits each token is of, from the root on; -1 behind the last."""
    status: np.ndarray
    """int32 [B]: bits of ``RequestStatus``, 0 for a request in order."""
    logprobs: np.ndarray | None
    """float32 [B, N]: of the tokens; NaN where there is none."""


@unaffected
def verify(
    target_logits: np.ndarray,
    draft_tokens: np.ndarray,
    num_draft: Any,
    topp_seed: Any,
    *,
    position: Any,
    row_offsets: np.ndarray | None = None,
    temperature: Any = 1.0,
    top_k: Any = 0,
    top_p: Any = 1.0,
    min_p: Any = 0.0,
    filter_order: str = "top_k_first",
    allowed: np.ndarray | None = None,
    method: str = "match",
    draft_probs: np.ndarray | None = None,
    draft_logits: np.ndarray | None = None,
    return_logprobs: bool = True,
    check: bool = False,
) -> VerifyOutput:
    """Accept drafted tokens, and draw the token behind them (sections 14, 15 and 17).

    Parameters
    ----------
    target_logits : array [B, K + 1, V], or [R, V] with ``row_offsets``, of float32, float16 or bfloat16
        Slot j of a request: the target's logits after j of its drafted tokens.
    draft_tokens : integer array [B, K]
        -1 stands for "nothing drafted here": the request's drafted tokens end before it, whatever ``num_draft`` says.
        What is behind a request's last is not looked at.
    num_draft : integer or integer array [B]
        How many of them a request has, at most K.
    topp_seed, temperature, top_k, top_p, min_p, filter_order
        As for ``sample``, numbers or arrays [B]: of the request.
    position : integer or integer array [B]
        Absolute index of the first drafted token.
    row_offsets : integer array [B + 1]
        Request b has rows ``row_offsets[b] .. row_offsets[b + 1] - 1``.
    allowed : array of bits [B, K + 1, ...], or [R, ...] with ``row_offsets``, or None
        As for ``sample``: one set for each row of the logits.
    method : "match" or "rejection"
    draft_probs, draft_logits : array [B, K, V], or [D, V] with ``row_offsets``, of float32, float16 or bfloat16
        What the drafter drew from: exactly one of them, and with ``method="rejection"`` only.
    return_logprobs : bool
        Whether to compute ``logprobs``.
    check : bool, default False
        Raise if any request is not in order.

    Returns
    -------
    VerifyOutput

    Raises
    ------
    TypeError
        An argument of the wrong type or dtype.
    ValueError
        A wrong shape, a parameter out of range, an unknown ``method``, draft probabilities where they are not expected
        or none where they are; or, with ``check``, a request that is not in order. Without ``check`` such a request is
        reported in ``status`` only, and does not affect the other requests.

    Examples
    --------
    >>> logits = np.float32([[[0, 9], [9, 0], [0, 9]]])
    >>> verify(logits, np.array([[1, 1]]), 2, 5, position=3, temperature=0).token_ids.tolist()
    [[1, 0, -1]]
    """
    how = {
        "topp_seed": topp_seed, "position": position, "temperature": temperature,
        "top_k": top_k, "top_p": top_p, "min_p": min_p, "filter_order": filter_order,
    }  # fmt: skip
    batch, drafts, drafted = chains(target_logits, draft_tokens, num_draft, row_offsets, how)
    batch = batch.allowing(allowed, target_logits.shape[:-1])
    if method not in METHODS:
        raise ValueError(f"method: expected one of {METHODS}, got {method!r}")
    if method == "rejection":
        told = as_integers("num_draft", num_draft)
        draft = draft_rows(batch, told, draft_probs, draft_logits, row_offsets is not None)
        batch = batch.refuse(draft.missing, RequestStatus.OFFSETS)
        found = reject(batch.shortened(drafted + 1), drafts, draft)
        logprobs = found.logprobs if return_logprobs else None
        out = VerifyOutput(found.token_ids, found.num_accepted, found.status, logprobs)
    else:
        if draft_probs is not None or draft_logits is not None:
            raise ValueError("draft_probs, draft_logits: expected with method='rejection' only")
        batch = batch.shortened(drafted + 1)
        out = match(batch, drafts, _draw(batch, None, return_logprobs))
    _raise_if(check, out.status)
    return out


@unaffected
def verify_tree(
    target_logits: np.ndarray,
    draft_tokens: np.ndarray,
    parents: np.ndarray,
    topp_seed: Any,
    *,
    position: Any,
    num_nodes: Any = None,
    row_offsets: np.ndarray | None = None,
    temperature: Any = 1.0,
    top_k: Any = 0,
    top_p: Any = 1.0,
    min_p: Any = 0.0,
    filter_order: str = "top_k_first",
    allowed: np.ndarray | None = None,
    return_logprobs: bool = True,
    check: bool = False,
) -> TreeOutput:
    """Accept the longest path of a drafted tree, and draw the token behind it (sections 14 and 16).

    Parameters
    ----------
    target_logits : array [B, N, V], or [R, V] with ``row_offsets``, of float32, float16 or bfloat16
        Slot i of a request: the target's logits at node i.
    draft_tokens : integer array [B, N]
        The root's is not looked at. -1 stands for "nothing drafted here": the node is not accepted.
    parents : integer array [B, N]
        -1 for node 0, the root: the last token that is decided already.
    position : integer or integer array [B]
        Absolute index of the tokens below the root.
    num_nodes : None, integer or integer array [B]
        How many nodes a request has, the root counted; None: N.

    topp_seed, row_offsets, temperature, top_k, top_p, min_p, filter_order, allowed, return_logprobs, check
        As for ``verify``; a request has as many rows as nodes.

    Returns
    -------
    TreeOutput

    Raises
    ------
    TypeError
        An argument of the wrong type or dtype.
    ValueError
        A wrong shape or a parameter out of range; or, with ``check``, a request that is not in order. Without
        ``check`` such a request is reported in ``status`` only, and does not affect the other requests.

    Examples
    --------
    >>> logits = np.float32([[[0, 9, 0], [0, 0, 0], [0, 0, 9]]])
    >>> out = verify_tree(logits, np.array([[0, 0, 1]]), np.array([[-1, 0, 0]]), 5, position=3, temperature=0)
    >>> out.token_ids.tolist(), out.nodes.tolist()
    ([[1, 2, -1]], [[0, 2, -1]])
    """
    drafts, above = draft_ids(draft_tokens), as_integers("parents", parents)
    if above.shape != drafts.shape:
        raise ValueError(f"parents: expected shape {list(drafts.shape)}, got {list(above.shape)}")
    how = {
        "topp_seed": topp_seed, "position": position, "temperature": temperature,
        "top_k": top_k, "top_p": top_p, "min_p": min_p, "filter_order": filter_order,
    }  # fmt: skip
    counts = as_integers("num_nodes", drafts.shape[1] if num_nodes is None else num_nodes)
    batch = rows_of(target_logits, drafts.shape[1], "num_nodes", counts, row_offsets, how)
    batch = batch.allowing(allowed, target_logits.shape[:-1])
    drafts = draft_ids(drafts, len(batch.count))
    below = np.where(drafts == NOTHING, 0, drafts)[:, 1:]
    batch = _refuse_foreign_tokens(batch, counts - 1, below, batch.logits.shape[1])
    depth = _depths(above, np.where(batch.status & RequestStatus.LENGTH, 0, counts))
    batch = batch.refuse(np.asarray((depth < 0).any(axis=1)), RequestStatus.TREE)
    out = _longest(batch, drafts, above, depth, return_logprobs)
    _raise_if(check, out.status)
    return out


def chains(
    target_logits: np.ndarray, draft_tokens: np.ndarray, num_draft: Any, row_offsets: Any, how: dict[str, Any],
    vocab: int | None = None,
) -> tuple[Batch, np.ndarray, np.ndarray]:  # fmt: skip
    """The requests of ``verify``, their drafted tokens [B, K], and how many of these count for each.

    ``vocab`` is how many tokens there are, if it is not how many columns the logits have.

    Raises
    ------
    TypeError, ValueError
        As ``verify``.
    """
    drafts = draft_ids(draft_tokens)
    told = as_integers("num_draft", num_draft)
    batch = rows_of(target_logits, drafts.shape[1] + 1, "num_draft", told + 1, row_offsets, how)
    drafts = draft_ids(drafts, len(batch.count))
    drafted = np.minimum(told, _until_stop(drafts))
    return _refuse_foreign_tokens(batch, drafted, drafts, vocab or batch.logits.shape[1]), drafts, drafted


def _raise_if(check: bool, status: np.ndarray) -> None:
    message = bad_requests_message(status) if check else None
    if message:
        raise ValueError(message)


def _until_stop(drafts: np.ndarray) -> np.ndarray:
    """How many drafted tokens precede the first -1 of each request, int64 [B]."""
    return np.cumprod(drafts != NOTHING, axis=1).sum(axis=1)


def _refuse_foreign_tokens(batch: Batch, counts: np.ndarray, drafts: np.ndarray, vocab: int) -> Batch:
    """Refuse requests with a drafted token outside the vocabulary, [B, K] of which the first ``counts`` count."""
    used: np.ndarray = np.arange(drafts.shape[1]) < np.broadcast_to(counts, len(drafts))[:, None]
    used &= (batch.status & RequestStatus.LENGTH == 0)[:, None]
    foreign: np.ndarray = used & ((drafts < 0) | (drafts >= vocab))
    return batch.refuse(np.asarray(foreign.any(axis=1)), RequestStatus.DRAFT_TOKEN)


def _draw(batch: Batch, ahead: np.ndarray | None, want_logprobs: bool) -> SampleOutput:
    """Draw the rows of ``slot_rows``."""
    logits, given = slot_rows(batch, ahead)
    return sample(
        logits, given.topp_seed, position=given.position, temperature=given.temperature, top_k=given.top_k,
        top_p=given.top_p, min_p=given.min_p, filter_order=given.filter_order, return_logprobs=want_logprobs,
    )  # fmt: skip


def slot_rows(batch: Batch, ahead: np.ndarray | None = None) -> tuple[np.ndarray, Parameters]:
    """The rows of logits of all slots that have one, and their parameters, ``ahead`` positions behind the request's
    first; None: as far as the slot is along a chain.
    """
    request, slot = np.nonzero(batch.slots)
    given = batch.given.rows(request)
    with np.errstate(over="ignore"):
        position = given.position + (slot if ahead is None else ahead[request, slot])
    return _rows(batch.logits, batch.first[request] + slot), replace(given, position=position)


def _in_slots(batch: Batch, found: SampleOutput) -> SampleOutput:
    """What was found in the rows of ``slot_rows``, [B, width] each."""

    def place(values: np.ndarray, nothing: Any) -> np.ndarray:
        placed = np.full(batch.slots.shape, nothing, values.dtype)
        placed[batch.slots] = values
        return placed

    logprobs = None if found.logprobs is None else place(found.logprobs, QUIET_NAN)
    token_ids, status = place(found.token_ids, -1), place(found.status, 0)
    return SampleOutput(token_ids, place(found.num_kept, 0), status, logprobs, None, None)


def _rows(logits: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return logits if len(rows) == len(logits) and (rows == np.arange(len(rows))).all() else logits[rows]


def match(batch: Batch, drafts: np.ndarray, found: SampleOutput) -> VerifyOutput:
    """Section 15, of what ``sample`` finds in the rows of ``slot_rows``."""
    slot, drawn = np.arange(batch.width), _in_slots(batch, found)
    agree = (drafts == drawn.token_ids[:, :-1]) & (drawn.status[:, :-1] == 0) & (slot[1:] < batch.count[:, None])
    accepted = np.cumprod(agree, axis=1).sum(axis=1)
    said = (slot <= accepted[:, None]) & batch.slots
    return VerifyOutput(
        np.where(said, drawn.token_ids, -1),
        accepted.astype(np.int32),
        batch.status | drawn.status[np.arange(len(accepted)), accepted],
        None if drawn.logprobs is None else np.where(said, drawn.logprobs, QUIET_NAN),
    )


def _depths(parents: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """How far each node is below node 0, int64 [B, N]; -1 for one that does not hang from it, 0 for padding."""
    nodes, width = np.arange(parents.shape[1]), parents.shape[1]
    counts = np.broadcast_to(counts, len(parents))[:, None]
    known = (parents >= 0) & (parents < counts)
    depth = np.where((nodes == 0) & (parents == -1), 0, -1)
    for _ in range(width):
        of_parent = np.take_along_axis(depth, np.where(known, parents, 0), axis=1)
        depth = np.where((nodes > 0) & known & (of_parent >= 0), of_parent + 1, depth)
    return np.where(nodes < counts, depth, 0)


def _longest(
    batch: Batch, drafts: np.ndarray, parents: np.ndarray, depth: np.ndarray, want_logprobs: bool
) -> TreeOutput:
    """Section 16."""
    requests, width = drafts.shape
    drawn = _in_slots(batch, _draw(batch, np.where(batch.slots, depth, 0), want_logprobs))
    out = TreeOutput(
        np.full((requests, width), -1, np.int64), np.zeros(requests, np.int32),
        np.full((requests, width), -1, np.int32), batch.status.copy(), np.full((requests, width), QUIET_NAN),
    )  # fmt: skip
    for b in np.flatnonzero(batch.count):
        path = _longest_path(int(batch.count[b]), drafts[b], parents[b], depth[b], drawn.token_ids[b], drawn.status[b])
        said = slice(0, len(path))
        out.token_ids[b, said], out.nodes[b, said] = drawn.token_ids[b, path], path
        out.num_accepted[b] = len(path) - 1
        out.status[b] |= drawn.status[b, path[-1]]
        if out.logprobs is not None:
            out.logprobs[b, said] = QUIET_NAN if drawn.logprobs is None else drawn.logprobs[b, path]
    if want_logprobs:
        return out
    return TreeOutput(out.token_ids, out.num_accepted, out.nodes, out.status, None)


def _longest_path(
    count: int, drafts: np.ndarray, parents: np.ndarray, depth: np.ndarray, tokens: np.ndarray, status: np.ndarray
) -> list[int]:
    """The nodes of one request from its root to the deepest accepted one, the lowest of equals."""
    accepted = {0}
    for node in sorted(range(1, count), key=lambda i: int(depth[i])):
        parent = int(parents[node])
        if parent in accepted and status[parent] == 0 and drafts[node] == tokens[parent]:
            accepted.add(node)
    node = min(accepted, key=lambda i: (-int(depth[i]), i))
    path = [node]
    while node:
        node = int(parents[node])
        path.append(node)
    return path[::-1]
