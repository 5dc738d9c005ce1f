"""What both model runners share: a request's parameters as detsample takes them, and a row with one token left."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

import detsample


def draw(
    logits: torch.Tensor,
    topp_seed: torch.Tensor,
    position: torch.Tensor,
    temperature: torch.Tensor,
    top_k: torch.Tensor,
    top_p: torch.Tensor,
    min_p: torch.Tensor,
) -> torch.Tensor:
    """Leave one token in each row, the drawn one: its logit becomes 0, all others ``-inf``.

    vLLM's own temperature, min-p, top-k, top-p and draw then have no choice. Rows that detsample calls invalid keep
    their logits.

    Parameters
    ----------
    logits : [R, V] float32
        Before temperature and filters; written to.
    topp_seed, position, top_k : [R] int64
    temperature, top_p, min_p : [R] float32

    Returns
    -------
    [R, V] float32
        `logits`.
    """
    out = detsample.sample(
        logits,
        topp_seed,
        position=position,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        return_logprobs=False,
    )
    drawn = (out.token_ids >= 0)[:, None]
    token = out.token_ids.clamp(min=0)[:, None]
    kept = torch.where(drawn, 0.0, logits.gather(1, token))
    logits.masked_fill_(drawn, -torch.inf)
    return logits.scatter_(1, token, kept)


def to_device(column: np.ndarray, device: Any) -> torch.Tensor:
    """A column of parameters beside the logits, without waiting for the device."""
    tensor = torch.from_numpy(column)
    if torch.device(device).type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)
