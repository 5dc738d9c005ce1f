"""`observe` by the NumPy reference."""

from __future__ import annotations

from typing import Any

import detsample.reference as reference
from detsample.rollout.output import Observation
from detsample.sampler.on_cpu import as_array
from detsample.sampler.parameters import Logits, Parameter

NAMES = ("logprobs", "raw_logprobs", "rank", "entropy", "top_token_ids", "top_logprobs")


def observe(logits: Logits, token_ids: Any, kept: Any, temperature: Parameter, top_n: int) -> Observation:
    """See `on_gpu.observe`."""
    framework = logits.framework
    seen = reference.observe(
        framework.as_array(logits.tensor), framework.as_array(token_ids), framework.as_array(kept),
        temperature=as_array(framework, temperature), top_n=top_n,
    )  # fmt: skip
    return Observation(*(framework.from_array(getattr(seen, name), logits.device) for name in NAMES))
