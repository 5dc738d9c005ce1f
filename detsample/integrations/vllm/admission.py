"""Refuses requests, when vLLM admits them, that detsample could not draw or could not report correctly."""

from __future__ import annotations

from typing import Any

from detsample.rollout.validity import MOST_TOP

LARGEST_SEED = (1 << 63) - 1


def check(params: Any, logprobs_mode: str, every: bool) -> None:
    """Refuse a request that detsample would have to draw and cannot serve exactly, with a ValueError, which vLLM turns
    into the request's error. `every` says that requests without a seed are drawn as well.
    """
    seed = params.seed
    if seed is not None and not -(1 << 63) <= seed <= LARGEST_SEED:  # vLLM's second runner has int64
        raise ValueError(f"seed must be between -2^63 and 2^63 - 1, got {seed}")
    if seed is not None and seed + params.n - 1 > LARGEST_SEED:
        raise ValueError(
            "seed + n - 1 must be at most 2^63 - 1, because vLLM gives sample i the seed seed + i; got seed "
            f"{seed} and n {params.n}"
        )
    if (seed is None and not every) or logprobs_mode != "processed_logprobs":
        return
    if params.logprobs is not None and not 0 <= params.logprobs <= MOST_TOP:
        raise ValueError(
            f"logprobs must be between 0 and {MOST_TOP} for a request that detsample draws, because the engine returns "
            f"processed log probabilities; got {params.logprobs}"
        )
    if params.logprob_token_ids:
        raise ValueError(
            "logprob_token_ids cannot be had for a request that detsample draws while the engine returns processed log "
            "probabilities: send it without a seed, or start the engine with raw ones"
        )
