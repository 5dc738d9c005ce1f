"""Whether somebody writes calls down instead of doing them: what is then read from a tensor would become a constant."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from detsample.reference.float_mode import usual_mode

P = ParamSpec("P")
R = TypeVar("R")


def recording() -> bool:
    """Whether `torch.compile`, `torch.export`, `make_fx` or another mode of torch's is looking at each call.

    Examples
    --------
    >>> recording()
    False
    """
    torch = sys.modules.get("torch")
    # A module that is still being imported has neither.
    return torch is not None and (torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0)


def untranslated(function: Callable[P, R]) -> Callable[P, R]:
    """The function, into which Paddle's `to_static` does not look: its translator of bytecode (SOT) breaks its graph
    there and does the call each time.

    Examples
    --------
    >>> untranslated(len)([1, 2])
    2
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        translator = sys.modules.get("paddle.jit.sot.psdb")
        if translator is not None:
            translator.fallback(recursive=True)  # does nothing but in a call that is being translated
        return function(*args, **kwargs)

    return call


def unrecorded(function: Callable[P, R]) -> Callable[P, R]:
    """As `usual_mode`, for a function that is never a part of a graph. `torch.compile` and Paddle's `to_static` break
    their graph there; `make_fx` and `torch.export`, which can not, get an error.

    Examples
    --------
    >>> unrecorded(len)([1, 2])
    2
    """
    usual = usual_mode(function)

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if recording():
            from detsample.frameworks.graph_break import outside

            return outside(usual, *args, **kwargs)
        return usual(*args, **kwargs)

    return untranslated(call)
