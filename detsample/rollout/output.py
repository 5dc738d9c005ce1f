"""What `draw` and `observe` return: tensors of the logits' framework, on the logits' device."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, eq=False)
class Observation:
    """What `detsample.rollout.observe` returns, of B rows (spec section 12). Logarithms are natural.

    Attributes
    ----------
    logprobs : [B] float32
        Log probability of the row's token among the kept ones, at the row's temperature; ``-inf`` for a token
        outside.
    raw_logprobs : [B] float32
        Log probability of the token in the softmax of the logits themselves: temperature 1, no filter.
    rank : [B] int32
        How many tokens come before it, by logit and then by id: 0 for the most probable one; ``-1`` for a token
        that has no place among them.
    entropy : [B] float32
        Entropy of the kept distribution at the row's temperature, in nats.
    top_token_ids : [B, n] int32
        The first n tokens in that order, so that column j has rank j; ``-1`` behind the last.
    top_logprobs : [B, n] float32
        Their raw log probabilities; ``-inf`` behind the last.

    Floats of invalid rows, and of rows that keep nothing, are NaN.
    """

    logprobs: Any
    raw_logprobs: Any
    rank: Any
    entropy: Any
    top_token_ids: Any
    top_logprobs: Any
    # Working memory that the kernels may still be using, where its framework would hand it out again at once.
    _kept_alive: Any = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, eq=False)
class Draw:
    """What `detsample.rollout.draw` returns: a draw, everything that a trainer needs of it, and its parameters.

    Attributes
    ----------
    token_ids, num_kept, status, logprobs, log_z
        As in `detsample.SampleOutput`; `log_z` is always there.
    kept : [B, ceil(V / 32)] int32
        The kept sets as bits, the lowest first.
    raw_logprobs, rank, entropy, top_token_ids, top_logprobs
        As in `Observation`.
    vocab : int
        V.
    parameters : dict
        ``topp_seed``, ``position``, ``temperature``, ``top_k``, ``top_p``, ``min_p``, ``filter_order``, ``allowed`` and
        ``processing``, as they were given; of tensors a copy.
    """

    token_ids: Any
    num_kept: Any
    status: Any
    logprobs: Any
    log_z: Any
    kept: Any
    raw_logprobs: Any
    rank: Any
    entropy: Any
    top_token_ids: Any
    top_logprobs: Any
    vocab: int
    parameters: dict[str, Any]
    _kept_alive: Any = field(default=None, repr=False, compare=False)
