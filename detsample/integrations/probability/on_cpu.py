"""Logits of probabilities by the NumPy reference."""

from __future__ import annotations

from typing import Any

import detsample.reference.probability as reference
from detsample.frameworks import Framework


def log_probabilities(framework: Framework, probs: Any) -> Any:
    """See `detsample.integrations.probability`."""
    return framework.from_array(
        reference.log_probabilities(framework.as_array(probs)), framework.device(probs)
    )
