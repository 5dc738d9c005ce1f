"""Turns probabilities into logits, for engines that pass on a softmax: ``L(p)`` of docs/fastdeploy.md."""

from __future__ import annotations

from typing import Any

from detsample import frameworks
from detsample.sampler.run import serving


def log_probabilities(probs: Any) -> Any:
    """``L(p)``, the same bits on a GPU and on the CPU.

    Parameters
    ----------
    probs : [B, V] float32, float16 or bfloat16
        A tensor of any framework; on a GPU with neighbouring tokens side by side.

    Returns
    -------
    [B, V] float32
        ``ln p`` in fixed point, rounded to fp32 once; ``-inf`` for 0, NaN for what is negative or NaN.

    Raises
    ------
    TypeError, ValueError
        For another type, shape or layout.

    Examples
    --------
    >>> import numpy as np
    >>> log_probabilities(np.array([[0.5, 0.25, 0.0]], np.float32))
    array([[-0.6931472, -1.3862944,       -inf]], dtype=float32)
    """
    framework = frameworks.of(probs, "probs")
    shape = framework.shape(probs)
    if len(shape) != 2:
        raise ValueError(f"probs must have shape [B, V], got {list(shape)}")
    if framework.dtype_name(probs) not in ("float32", "float16", "bfloat16"):
        raise TypeError(f"probs must be float32, float16 or bfloat16, got {framework.dtype_name(probs)}")
    return serving("detsample.integrations.probability", framework.device(probs)).log_probabilities(framework, probs)
