"""Logits of probabilities on a GPU: one launch."""

from __future__ import annotations

from typing import Any

from detsample.frameworks import Framework
from detsample.frameworks.pointer import integer
from detsample.kernels.contract.probability import BLOCK
from detsample.kernels.contract.probability import log_probabilities as kernel
from detsample.launching.launch import launcher


def log_probabilities(framework: Framework, probs: Any) -> Any:
    """See `detsample.integrations.probability`."""
    shape, strides, device = framework.shape(probs), framework.strides(probs), framework.device(probs)
    result = framework.empty(shape, "float32", device)
    if 0 in shape:
        return result
    if shape[1] > 1 and strides[1] != 1:
        raise ValueError(f"probs on a GPU must have neighbouring tokens side by side, got strides {list(strides)}")
    with framework.launching(device):
        launcher(device)(kernel, (shape[0], -(-shape[1] // int(BLOCK.value))),
            shape[1], framework.argument(probs), integer(strides[0]), framework.argument(result),
            num_warps=4, enable_fp_fusion=False,
        )  # fmt: skip
    return result
