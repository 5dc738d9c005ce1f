"""`apply_top_k_top_p_triton`: the kept set applied to logits, in place; as exact as `detsample.mask`."""

from __future__ import annotations

from typing import Any

import paddle

import detsample
from detsample.integrations.fastdeploy.holding import hold
from detsample.integrations.fastdeploy.tensors import first_rows


def apply_top_k_top_p_triton(
    logits: Any, k: Any, p: Any, mask_value: float = float("-inf"), return_mask: bool = False
) -> Any:
    """Mask the logits that top-k and top-p drop, in place.

    Parameters
    ----------
    logits : [B, V] float32
        Any row stride. Changed in place.
    k : [B] or [B, 1] int32 or int64, or None
        Off, in a row of its own, where ``<= 0`` or ``>= V``.
    p : [B] or [B, 1] float32, or None
        Off where ``>= 1``.
    mask_value : float
        What dropped logits become. Those at ``-inf`` stay there.
    return_mask : bool
        Whether to return the kept set, too.

    Returns
    -------
    logits, or (logits, [B, V] bool)
        Exactly k tokens are kept, ties going to the lowest ids. An invalid row (see `detsample.Status`) is left as
        it is, and its mask is empty.

    Raises
    ------
    TypeError, ValueError
        If the logits are not [B, V] float32, or a parameter does not fit them.

    Examples
    --------
    >>> logits = paddle.to_tensor([[3.0, 3.0, 3.0, 1.0]])
    >>> apply_top_k_top_p_triton(logits, paddle.to_tensor([2]), None).tolist()
    [[3.0, 3.0, -inf, -inf]]
    """
    if logits.dtype != paddle.float32 or len(logits.shape) != 2:
        raise TypeError(f"logits must be float32 of shape [B, V], got {logits.dtype} of {list(logits.shape)}")
    rows = logits.shape[0]
    top_k = 0 if k is None else first_rows("k", k, rows)
    top_p = 1.0 if p is None else first_rows("p", p, rows)
    kept = hold(detsample.mask(logits, top_k=top_k, top_p=top_p), top_k, top_p)
    if rows:
        valid = (kept.status == 0).unsqueeze(1)
        dropped = paddle.logical_and(valid, paddle.logical_not(kept.mask))
        excluded = logits == float("-inf")
        logits.masked_fill_(paddle.logical_and(dropped, paddle.logical_not(excluded)), mask_value)
    return (logits, kept.mask) if return_mask else logits
