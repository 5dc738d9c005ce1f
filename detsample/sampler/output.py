"""What calls return: tensors of the logits' framework, on the logits' device.

Two outputs are equal if they are the same object, and so can be keys of a dict: whether tensors hold the same bits has
an answer for each element, which on a GPU would have to be waited for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

from detsample.frameworks.types import T

M = TypeVar("M")
"""A mask: a tensor, or `Csr`."""


class Wanted(NamedTuple):
    """Which results a call asks for. Results that are not asked for are None; `status` is always there."""

    token: bool
    logprobs: bool
    log_z: bool
    mask: str | None
    num_kept: bool = True


@dataclass(frozen=True, eq=False)
class Csr(Generic[T]):
    """A kept set in compressed rows.

    Attributes
    ----------
    row_offsets : [B + 1] int64
        Row ``b`` keeps ``token_ids[row_offsets[b]:row_offsets[b + 1]]``.
    token_ids : [capacity] int32
        Token ids, ascending in each row; ``-1`` from ``row_offsets[B]`` on.
    """

    row_offsets: T
    token_ids: T


@dataclass(frozen=True, eq=False)
class SampleOutput(Generic[T]):
    """What `detsample.sample` returns.

    Attributes
    ----------
    token_ids : [B] int64
        The tokens drawn; ``-1`` in invalid rows.
    num_kept : [B] int32, or None
        The number of tokens in the set that the token was drawn from; 0 in invalid rows.
    status : [B] int32
        0, or the sum of the `detsample.Status` bits that say why a row is invalid.
    logprobs : [B] float32, or None
        Log probability of the token in the distribution it was drawn from; NaN in invalid rows.
    log_z : [B] float32, or None
        The log of the share of the full softmax, at that temperature, that the kept set has; NaN in invalid rows.
    mask : [B, V] bool, [B, ceil(V / 32)] int32, `Csr`, or None
        The kept set, in the form asked for.
    """

    token_ids: T
    num_kept: T | None
    status: T
    logprobs: T | None
    log_z: T | None
    mask: T | Csr[T] | None
    # Memory that the kernels may still be using, if its framework would otherwise reuse it at once.
    _kept_alive: Any = field(default=None, repr=False)


RESULTS = ("token_ids", "num_kept", "status", "logprobs", "log_z", "mask")
"""The public fields of `SampleOutput`, in order."""


@dataclass(frozen=True, eq=False)
class MaskOutput(Generic[T, M]):
    """What `detsample.mask` returns. The fields mean the same as in `SampleOutput`."""

    mask: M
    num_kept: T
    status: T
    log_z: T | None
    _kept_alive: Any = field(default=None, repr=False)

    @staticmethod
    def of(out: SampleOutput[Any]) -> MaskOutput[Any, Any]:
        """Return what a call that drew nothing found."""
        return MaskOutput[Any, Any](out.mask, out.num_kept, out.status, out.log_z, out._kept_alive)
