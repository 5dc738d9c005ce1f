"""`margin`: how far the logits may move before a row's token could change (docs/margin.md)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Generic, overload

import numpy as np

from detsample.frameworks.recording import unrecorded
from detsample.frameworks.types import FilterOrder, Integer, Real, Rows, T
from detsample.sampler.output import Wanted
from detsample.sampler.parameters import read_draw, read_flag
from detsample.sampler.run import run, serving
from detsample.sampler.status import raise_for_status


@dataclass(frozen=True, eq=False)
class MarginOutput(Generic[T]):
    """What `detsample.margin` returns.

    Attributes
    ----------
    token_ids : [B] int64
        The tokens that `detsample.sample` draws; ``-1`` in invalid rows.
    margin : [B] float32
        In the unit of the logits: at least 0; ``+inf`` where no motion changes the token; NaN in invalid rows.
    status : [B] int32
        0, or the sum of the `detsample.Status` bits that say why a row is invalid.
    """

    token_ids: T
    margin: T
    status: T
    # See `SampleOutput`.
    _kept_alive: Any = field(default=None, repr=False, compare=False)


@overload
def margin(
    logits: np.ndarray | Rows, topp_seed: Integer | np.ndarray, *, position: Integer | np.ndarray = 0,
    temperature: Real | np.ndarray = 1.0, top_k: Integer | np.ndarray = 0, top_p: Real | np.ndarray = 1.0,
    min_p: Real | np.ndarray = 0.0, filter_order: FilterOrder = "top_k_first", shared_noise: bool = False,
    check: bool = False,
) -> MarginOutput[np.ndarray]: ...  # fmt: skip


@overload
def margin(
    logits: T, topp_seed: Integer | T, *, position: Integer | T = 0, temperature: Real | T = 1.0,
    top_k: Integer | T = 0, top_p: Real | T = 1.0, min_p: Real | T = 0.0, filter_order: FilterOrder = "top_k_first",
    shared_noise: bool = False, check: bool = False,
) -> MarginOutput[T]: ...  # fmt: skip


@unrecorded
def margin(
    logits: Any,
    topp_seed: Any,
    *,
    position: Any = 0,
    temperature: Any = 1.0,
    top_k: Any = 0,
    top_p: Any = 1.0,
    min_p: Any = 0.0,
    filter_order: FilterOrder = "top_k_first",
    shared_noise: bool = False,
    check: bool = False,
) -> MarginOutput[Any]:
    """How far a row's logits may move before its token could change.

    Logits that are finite where the given ones are, ``-inf`` where those are, and nowhere further from them than
    ``margin``, give the same token. The margin is a sound bound, and the largest one up to rounding where top-p
    does not decide; docs/margin.md says what it is exactly. Its bits are the same on every device and in every
    framework.

    It costs some dozens of looks at each row and is meant for tests and inquiries, not for serving.

    Parameters
    ----------
    logits, topp_seed, position, temperature, top_k, top_p, min_p, filter_order, shared_noise, check
        As for `detsample.sample`.

    Returns
    -------
    MarginOutput
        Tensors of the logits' framework on the logits' device. Nothing waits for the device, unless `check` does.

    Raises
    ------
    TypeError, ValueError
        As `detsample.sample`.

    Examples
    --------
    >>> import numpy as np
    >>> out = margin(np.array([[0.0, 1.0, 4.0, 3.0]], np.float32), 7, temperature=0)
    >>> out.token_ids, out.margin.round(6)
    (array([2]), array([0.5], dtype=float32))
    """
    wait = read_flag("check", check)
    of, given = read_draw(
        logits, topp_seed, position, temperature, top_k, top_p, min_p, filter_order, None, shared_noise
    )
    drawn = run(of, given, Wanted(True, False, False, None, num_kept=False))
    found = serving("detsample.inspect", of.device).margin(of, given, drawn.token_ids, drawn.status)
    if wait:
        raise_for_status(drawn.status)
    return MarginOutput(drawn.token_ids, found, drawn.status, drawn._kept_alive)
