"""A call between two graphs of `torch.compile`, for what is no operator of torch."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import ParamSpec, TypeVar

import torch
from torch.fx.experimental.proxy_tensor import get_proxy_mode

P = ParamSpec("P")
R = TypeVar("R")
_REASON = "detsample does it between two graphs; sample, mask, gumbel_noise and fold_in are operators of one"
_WHY = {"reason": _REASON} if "reason" in signature(torch.compiler.disable).parameters else {}  # since torch 2.7


@torch.compiler.disable(**_WHY)
def outside(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call a function that is no operator, between two graphs of `torch.compile`.

    Raises
    ------
    TypeError
        If one graph is to hold everything: the call's result would be a constant in it.
    """
    if get_proxy_mode() is not None:
        able = "sample, mask, gumbel_noise and fold_in can"
        raise TypeError(f"{function.__name__} cannot be in a graph of make_fx or torch.export, {able}: call it outside")
    return function(*args, **kwargs)
