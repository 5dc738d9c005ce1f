"""Whether torch writes calls down instead of doing them: what is then read from a tensor would become a constant."""

from __future__ import annotations

import sys


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
