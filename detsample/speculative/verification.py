"""`verify` and `verify_tree`: which drafted tokens the target would have drawn itself."""

from __future__ import annotations

from typing import Any

from detsample.frameworks.recording import unrecorded
from detsample.sampler.parameters import read_flag
from detsample.sampler.run import serving
from detsample.speculative.arguments import read_chains, read_drafter, read_trees
from detsample.speculative.output import TreeOutput, VerifyOutput
from detsample.speculative.status import raise_for_status

METHODS = ("match", "rejection")


@unrecorded
def verify(
    target_logits: Any,
    draft_tokens: Any,
    num_draft: Any,
    topp_seed: Any,
    *,
    position: Any,
    row_offsets: Any = None,
    temperature: Any = 1.0,
    top_k: Any = 0,
    top_p: Any = 1.0,
    min_p: Any = 0.0,
    filter_order: str = "top_k_first",
    allowed: Any = None,
    method: str = "match",
    draft_probs: Any = None,
    draft_logits: Any = None,
    return_logprobs: bool = True,
    shared_noise: bool = False,
    check: bool = False,
) -> VerifyOutput:
    """Accept drafted tokens as far as the target agrees, and draw the token behind them.

    With the default method, the tokens are those that `detsample.sample` draws one position after the other, whatever
    was drafted: a draft decides how many come at once and never which. GPU tensors are served on their device and on
    their framework's current stream, without waiting; CPU tensors and arrays by the NumPy reference.

    Parameters
    ----------
    target_logits : [B, K + 1, V], or [R, V] with `row_offsets`; fp32, bf16 or fp16
        The target's logits after 0, 1, 2... of a request's drafted tokens. Rows behind a request's last are ignored
        and may hold anything.
    draft_tokens : [B, K] int64 or int32
        Drafted tokens; those behind a request's last are ignored.
    num_draft : int, or [B] int64 or int32
        How many tokens were drafted for each request, 0 to K.
    topp_seed, temperature, top_k, top_p, min_p : numbers, or [B] or [B, 1]
        As for `detsample.sample`, one for each request.
    filter_order : "top_k_first", "min_p_first" or "joint"
        As for `detsample.sample`.
    position : int, or [B] or [B, 1] int64 or int32
        Absolute index, from 0, of the first drafted token in its sequence.
    row_offsets : [B + 1] int64 or int32, or None
        Request b has the rows from ``row_offsets[b]`` up to ``row_offsets[b + 1]``, ``num_draft[b] + 1`` of them. Rows
        outside all requests (the padding of a captured graph) are ignored.
    allowed : [B, K + 1, ...], or [R, ...] with `row_offsets`; int32, uint32 or uint8, or None
        As for `detsample.sample`, one set for each row of the logits: what may follow the drafted tokens before it.
    method : "match" or "rejection"
        ``"rejection"`` accepts with probability p/q and draws from the residual: right in distribution for drafts
        that were drawn with any other noise, but not the tokens of plain decoding.
    draft_probs, draft_logits : [B, K, V], or [D, V] with `row_offsets`; fp32, bf16 or fp16
        With ``"rejection"``, one of them: the distributions that the drafted tokens were drawn from. Probabilities, at
        least 0 and below 2, are divided by their sum; logits are taken after the drafter's own temperature and
        filters (``-inf`` for what these excluded). Ragged, request b's begin at row ``row_offsets[b] - b``.
    return_logprobs : bool
        Whether to return the log probabilities of the tokens in the target's kept set.
    shared_noise : bool
        Whether requests are meant to draw with the same noise. Otherwise a single `topp_seed` together with a single
        `position` is refused for several requests.
    check : bool
        Wait for the device and raise if a request is invalid.

    Returns
    -------
    VerifyOutput
        Tensors of the logits' framework on the logits' device.

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what was expected and what came, for all that the host can see; with `check`, for
        requests that only the device finds invalid.

    Examples
    --------
    >>> import numpy as np
    >>> logits = np.array([[[0.0, 9.0], [9.0, 0.0], [0.0, 9.0]]], np.float32)
    >>> out = verify(logits, np.array([[1, 1]]), 2, 5, position=3, temperature=0)
    >>> out.token_ids, out.num_accepted
    (array([[ 1,  0, -1]]), array([1], dtype=int32))
    """
    if not (isinstance(method, str) and method in METHODS):
        raise ValueError(f"method must be 'match' or 'rejection', got {method!r}")
    if method == "match" and not (draft_probs is None and draft_logits is None):
        raise ValueError("draft_probs and draft_logits must be None with method='match', which does not look at them")
    logprobs, wait = read_flag("return_logprobs", return_logprobs), read_flag("check", check)
    sampling = (topp_seed, position, temperature, top_k, top_p, min_p, filter_order)
    batch, drafts = read_chains(target_logits, draft_tokens, num_draft, row_offsets, sampling, shared_noise, allowed)
    drafter = read_drafter(batch, method, draft_probs, draft_logits)
    out: VerifyOutput = serving("detsample.speculative", batch.logits.device).verify(batch, drafts, drafter, logprobs)
    if wait:
        raise_for_status(out.status)
    return out


@unrecorded
def verify_tree(
    target_logits: Any,
    draft_tokens: Any,
    parents: Any,
    topp_seed: Any,
    *,
    position: Any,
    num_nodes: Any = None,
    row_offsets: Any = None,
    temperature: Any = 1.0,
    top_k: Any = 0,
    top_p: Any = 1.0,
    min_p: Any = 0.0,
    filter_order: str = "top_k_first",
    allowed: Any = None,
    return_logprobs: bool = True,
    shared_noise: bool = False,
    check: bool = False,
) -> TreeOutput:
    """Accept the longest path of a drafted tree that the target agrees with, and draw the token behind it.

    Node 0 is the root: the last token that is decided already, which the drafted tokens follow. The tokens are those
    of `detsample.sample`, one position after the other, whatever the tree. A chain is the tree in which node i
    follows node i - 1.

    Parameters
    ----------
    target_logits : [B, N, V], or [R, V] with `row_offsets`; fp32, bf16 or fp16
        For each node, the target's logits for the token behind it.
    draft_tokens : [B, N] int64 or int32
        The token of each node; the root's is ignored.
    parents : [B, N] int64 or int32
        The node that each node follows, ``-1`` for node 0; in any order.
    position : int, or [B] or [B, 1] int64 or int32
        Absolute index, from 0, of the tokens that follow the root.
    num_nodes : int, or [B] int64 or int32, or None
        How many nodes each request has, with the root, 1 to N; None: N.
    row_offsets, topp_seed, temperature, top_k, top_p, min_p, filter_order, allowed, return_logprobs
        As for `verify`; a request has a row for each node.
    shared_noise, check
        As for `verify`.

    Returns
    -------
    TreeOutput
        Tensors of the logits' framework on the logits' device.

    Raises
    ------
    TypeError, ValueError
        As `verify`.

    Examples
    --------
    >>> import numpy as np
    >>> logits = np.array([[[0.0, 9.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 9.0]]], np.float32)
    >>> out = verify_tree(logits, np.array([[0, 0, 1]]), np.array([[-1, 0, 0]]), 5, position=3, temperature=0)
    >>> out.token_ids, out.nodes
    (array([[ 1,  2, -1]]), array([[ 0,  2, -1]], dtype=int32))
    """
    logprobs, wait = read_flag("return_logprobs", return_logprobs), read_flag("check", check)
    sampling = (topp_seed, position, temperature, top_k, top_p, min_p, filter_order)
    read = read_trees(target_logits, draft_tokens, parents, num_nodes, row_offsets, sampling, shared_noise, allowed)
    out: TreeOutput = serving("detsample.speculative", read[0].logits.device).verify_tree(*read, logprobs)
    if wait:
        raise_for_status(out.status)
    return out
