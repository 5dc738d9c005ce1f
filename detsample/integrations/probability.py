"""Turns probabilities into logits, for engines that pass on a softmax: ``L(p)`` of docs/fastdeploy.md."""

from __future__ import annotations

from typing import Any

from detsample import frameworks
from detsample.frameworks import Framework


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
    if framework.on_gpu(probs):
        return on_device(framework, probs)
    from detsample.reference.probability import log_probabilities as on_host

    return framework.from_array(on_host(framework.as_array(probs)), framework.device(probs))


def on_device(framework: Framework, probs: Any) -> Any:
    """`log_probabilities` by the kernel."""
    from detsample.frameworks.pointer import integer
    from detsample.kernels.contract import probability
    from detsample.launching.launch import launcher

    shape, strides, device = framework.shape(probs), framework.strides(probs), framework.device(probs)
    result = framework.empty(shape, "float32", device)
    if 0 in shape:
        return result
    if shape[1] > 1 and strides[1] != 1:
        raise ValueError(f"probs on a GPU must have neighbouring tokens side by side, got strides {list(strides)}")
    with framework.launching(device):
        launch = launcher(device)
        launch(probability.log_probabilities, (shape[0], -(-shape[1] // int(probability.BLOCK.value))),
            shape[1], framework.argument(probs), integer(strides[0]), framework.argument(result),
            num_warps=4, enable_fp_fusion=False,
        )  # fmt: skip
    return result
