"""`margin` by the NumPy reference."""

from __future__ import annotations

from typing import Any

import detsample.reference as reference
from detsample.sampler.on_cpu import as_arrays
from detsample.sampler.parameters import Logits, Parameters


def margin(logits: Logits, parameters: Parameters, token_ids: Any, status: Any) -> Any:
    """See `on_gpu.margin`; the reference draws the tokens itself."""
    framework = logits.framework
    found = reference.margin(framework.as_array(logits.tensor), **as_arrays(framework, parameters))
    return framework.from_array(found.margin, logits.device)
