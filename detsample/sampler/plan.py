"""`plan`: checks the arguments of a call once, for many calls with new logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, NoReturn, overload

import numpy as np

from detsample.frameworks.recording import unrecorded
from detsample.frameworks.types import FilterOrder, Integer, MaskKind, Real, T
from detsample.sampler.output import SampleOutput
from detsample.sampler.parameters import Logits, described, read_draw, read_flag, read_wanted
from detsample.sampler.run import serving
from detsample.sampler.status import raise_for_status


class Plan(Generic[T]):
    """A planned call of `sample`: made by `plan`, and called with logits. Its calls differ only in the values of their
    tensors.
    """

    def __init__(self, logits: Logits, draw: Callable[[Any, Any], SampleOutput]) -> None:
        self._framework = logits.framework
        self._kind = type(logits.tensor)
        *self._layout, _pointer = described("logits", logits.tensor, logits.framework)
        self._draw = draw

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Plan cannot be pickled or copied: it reads its tensors where they are; call plan() there")

    @unrecorded
    def __call__(self, logits: T, *, check: bool = False) -> SampleOutput[T]:
        """Draw one token a row.

        Parameters
        ----------
        logits : [B, V] tensor
            Logits of the class, shape, strides, type and device that were planned for.
        check : bool
            As for `sample`.

        Returns
        -------
        SampleOutput
            New tensors, as those of `sample`.

        Raises
        ------
        TypeError
            If the logits are not a tensor of the class that was planned for.
        ValueError
            If their shape, strides, type or device are not those that were planned for; with `check`, for invalid rows.
        """
        if type(logits) is not self._kind:
            raise TypeError(f"logits must be a {self._kind.__qualname__} as planned, got {type(logits).__qualname__}")
        *layout, pointer = described("logits", logits, self._framework)
        if layout != self._layout:
            raise ValueError(f"logits must be {_told(self._layout)} as planned, got {_told(layout)}")
        out = self._draw(logits, pointer)
        if read_flag("check", check):
            raise_for_status(out.status)
        return out


@overload
def plan(
    logits: np.ndarray, topp_seed: Integer | np.ndarray, *, position: Integer | np.ndarray = 0,
    temperature: Real | np.ndarray = 1.0, top_k: Integer | np.ndarray = 0, top_p: Real | np.ndarray = 1.0,
    min_p: Real | np.ndarray = 0.0, filter_order: FilterOrder = "top_k_first", allowed: np.ndarray | None = None,
    return_logprobs: bool = True, return_log_z: bool = False, return_mask: MaskKind | None = None,
    return_num_kept: bool = True, shared_noise: bool = False,
) -> Plan[np.ndarray]: ...  # fmt: skip


@overload
def plan(
    logits: T, topp_seed: Integer | T, *, position: Integer | T = 0, temperature: Real | T = 1.0,
    top_k: Integer | T = 0, top_p: Real | T = 1.0, min_p: Real | T = 0.0, filter_order: FilterOrder = "top_k_first",
    allowed: T | None = None, return_logprobs: bool = True, return_log_z: bool = False,
    return_mask: MaskKind | None = None, return_num_kept: bool = True, shared_noise: bool = False,
) -> Plan[T]: ...  # fmt: skip


@unrecorded
def plan(
    logits: Any,
    topp_seed: Any,
    *,
    position: Any = 0,
    temperature: Any = 1.0,
    top_k: Any = 0,
    top_p: Any = 1.0,
    min_p: Any = 0.0,
    filter_order: FilterOrder = "top_k_first",
    allowed: Any = None,
    return_logprobs: bool = True,
    return_log_z: bool = False,
    return_mask: MaskKind | None = None,
    return_num_kept: bool = True,
    shared_noise: bool = False,
) -> Plan[Any]:
    """Check the arguments of `sample` now, and draw later, as often as you like, with less time on the host.

    Parameters that are tensors are read when the plan is called: change them in place, and the next call sees it.
    They must stay where they are, and the plan keeps them alive.

    Parameters
    ----------
    logits : [B, V] tensor
        Like those to come, in class, shape, strides, type and device. Their values are not read.
    topp_seed, position, temperature, top_k, top_p, min_p, filter_order, allowed : as for `sample`
    return_logprobs, return_log_z, return_mask, return_num_kept, shared_noise
        As for `sample`.

    Returns
    -------
    Plan
        ``plan(logits)`` gives what ``sample(logits, ...)`` would.

    Raises
    ------
    TypeError, ValueError
        As `sample`.

    Examples
    --------
    >>> import numpy as np
    >>> from detsample import sample
    >>> logits, position = np.array([[0.0, 1.0, 2.0, 3.0]], np.float32), np.array([0])
    >>> draw = plan(logits, 7, position=position, top_k=2)
    >>> draw(logits).token_ids
    array([3])
    >>> position += 1
    >>> draw(logits).token_ids == sample(logits, 7, position=1, top_k=2).token_ids
    array([ True])
    """
    wanted = read_wanted(return_logprobs, return_log_z, return_mask, return_num_kept)
    of, given = read_draw(
        logits, topp_seed, position, temperature, top_k, top_p, min_p, filter_order, allowed, shared_noise
    )
    return Plan(of, serving("detsample.sampler", of.device).planned(of._replace(tensor=None), given, wanted))


def _told(layout: list[Any]) -> str:
    shape, dtype, device, strides = layout
    return f"{dtype} {list(shape)} with strides {list(strides)} on {device[0]} {device[1]}"
