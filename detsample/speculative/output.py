"""What the calls return: tensors of the logits' framework, on the logits' device."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, eq=False)
class VerifyOutput:
    """What `detsample.speculative.verify` returns.

    Attributes
    ----------
    token_ids : [B, K + 1] int64
        The accepted drafted tokens, then the one that the target drew behind them, then ``-1``.
    num_accepted : [B] int32
        How many drafted tokens were accepted.
    status : [B] int32
        0, or the sum of the `RequestStatus` bits. ``LENGTH`` and what is above it but ``DRAFT_WEIGHTS`` refuse a
        request as a whole: it has no token. The others say why decoding stopped behind the accepted tokens, where
        the drawn token is ``-1``.
    logprobs : [B, K + 1] float32, or None
        Log probability of each token in the target's kept set; NaN where there is no token.
    """

    token_ids: Any
    num_accepted: Any
    status: Any
    logprobs: Any | None
    # Working memory that the kernels may still be using, if its framework would otherwise reuse it at once.
    _kept_alive: Any = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, eq=False)
class TreeOutput:
    """What `detsample.speculative.verify_tree` returns.

    Attributes
    ----------
    token_ids : [B, N] int64
        The tokens of the accepted nodes, from the top, then the one that the target drew, then ``-1``.
    num_accepted : [B] int32
        How many drafted tokens were accepted.
    nodes : [B, N] int32
        The node whose logits each token is of: 0, then the accepted nodes, then ``-1``.
    status : [B] int32
        As for `VerifyOutput`.
    logprobs : [B, N] float32, or None
        Log probability of each token in the target's kept set; NaN where there is no token.
    """

    token_ids: Any
    num_accepted: Any
    nodes: Any
    status: Any
    logprobs: Any | None
    _kept_alive: Any = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, eq=False)
class DraftOutput:
    """What `detsample.speculative.draft` returns, [B] for logits [B, V] and [B, K] for logits [B, K, V].

    Attributes
    ----------
    token_ids : int64
        The drafted tokens; ``-1`` in invalid rows.
    status : int32
        As for `detsample.sample`.
    logprobs : float32, or None
        Log probability of each token in the drafter's kept set.
    """

    token_ids: Any
    status: Any
    logprobs: Any | None
    _kept_alive: Any = field(default=None, repr=False, compare=False)
