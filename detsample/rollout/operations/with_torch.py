"""The operations in torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch


def widened(x: torch.Tensor) -> torch.Tensor:
    """See `Operations`."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def copied(x: torch.Tensor) -> torch.Tensor:
    """See `Operations`."""
    return x.detach().clone()


def placed(array: np.ndarray, x: torch.Tensor) -> torch.Tensor:
    """See `Operations`."""
    return torch.from_numpy(array).to(x.device)


def beside(array: np.ndarray, x: torch.Tensor) -> torch.Tensor:
    """See `Operations`."""
    return torch.from_numpy(array).to(x.device, x.dtype if array.dtype.kind == "f" else None)


def take(x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """See `Operations`."""
    return x.index_select(0, rows)


def join(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """See `Operations`."""
    return torch.cat(list(parts))


def where(condition: torch.Tensor, x: torch.Tensor, otherwise: float) -> torch.Tensor:
    """See `Operations`."""
    return torch.where(condition, x, torch.full_like(x, otherwise))


def exp(x: torch.Tensor) -> torch.Tensor:
    """See `Operations`."""
    return x.exp()


def log(x: torch.Tensor) -> torch.Tensor:
    """See `Operations`."""
    return x.log()


def sum_of_rows(x: torch.Tensor) -> torch.Tensor:
    """See `Operations`."""
    return x.sum(dim=1)


def largest_of_rows(x: torch.Tensor) -> torch.Tensor:
    """See `Operations`."""
    return x.detach().amax(dim=1)


def both(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """See `Operations`."""
    return one & other
