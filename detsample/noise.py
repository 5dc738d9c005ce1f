"""`gumbel_noise` and `fold_in`: the streams of noise on their own (spec section 7)."""

from __future__ import annotations

from typing import Any

import numpy as np

import detsample.reference as reference
from detsample import frameworks
from detsample.frameworks import Framework
from detsample.parameters import as_integer, is_scalar


def gumbel_noise(topp_seed: Any, position: Any, token_ids: Any) -> Any:
    """The Gumbel noise that `sample` adds to the scaled logits of these tokens, exactly.

    Parameters
    ----------
    topp_seed : int, or [B] int64 or int32
        Streams of noise.
    position : int, or [B] int64 or int32
        Absolute indices of the tokens being drawn.
    token_ids : [N] or [B, N] int64 or int32, or an int or a list of them
        Token ids, from 0.

    Returns
    -------
    [N] or [B, N] float64
        Noise, a multiple of ``2**-32``; of the framework and on the device of `token_ids`, or NumPy if those
        are plain numbers. Of shape [B, N] as soon as an argument has rows.

    Raises
    ------
    TypeError, ValueError
        For an argument of the wrong type, shape, device or, where the host can see it, range.

    Examples
    --------
    >>> gumbel_noise(7, 0, [0, 1])
    array([-1.1288763 , -0.32707352])
    """
    if not _is_tensor(token_ids):
        token_ids = _as_token_ids(token_ids)
    framework = frameworks.of(token_ids, "token_ids")
    if len(framework.shape(token_ids)) > 2:
        raise ValueError(f"token_ids must have shape [N] or [B, N], got {list(framework.shape(token_ids))}")
    if not framework.on_gpu(token_ids):
        noise = reference.gumbel_noise(
            _host(framework, "topp_seed", topp_seed),
            _host(framework, "position", position),
            framework.as_array(token_ids),
        )
        return framework.from_array(noise, framework.device(token_ids))
    from detsample import streams

    return streams.gumbel_noise(framework, topp_seed, position, token_ids)


def fold_in(topp_seed: Any, i: Any) -> Any:
    """The seed of the i-th of several samples that share a seed; unrelated to it and to those of all other i.

    Parameters
    ----------
    topp_seed : int, or [N] int64
        Seeds.
    i : int, or [N] int64
        Indices: any 64 bits.

    Returns
    -------
    int, or [N] int64
        Seeds, signed; an int if both arguments are, otherwise of the framework and on the device of the tensor
        among them.

    Raises
    ------
    TypeError, ValueError
        For an argument of the wrong type, shape or device.

    Examples
    --------
    >>> fold_in(7, 0)
    -3942576820568715282
    """
    tensor = next((x for x in (topp_seed, i) if _is_tensor(x)), None)
    if tensor is None:
        return reference.fold_in(
            as_integer("topp_seed", topp_seed, -(1 << 63), (1 << 64) - 1), as_integer("i", i, -(1 << 63), (1 << 64) - 1)
        )
    framework = frameworks.of(tensor, "topp_seed or i")
    if not framework.on_gpu(tensor):
        seeds = reference.fold_in(_host(framework, "topp_seed", topp_seed), _host(framework, "i", i))
        return framework.from_array(seeds, framework.device(tensor))
    from detsample import streams

    return streams.fold_in(framework, framework.device(tensor), topp_seed, i)


def _is_tensor(x: object) -> bool:
    return not is_scalar(x) and not isinstance(x, (list, tuple))


def _as_token_ids(numbers: Any) -> np.ndarray:
    """An int or a list of ints as an array."""
    try:
        ids = np.asarray(numbers)
    except ValueError as error:
        raise ValueError(f"token_ids must be an integer or a list of integers, got {numbers!r}") from error
    if ids.dtype.kind not in "iu" and ids.size:
        raise TypeError(f"token_ids must be integers, got {numbers!r}")
    return ids.astype(np.int64)


def _host(framework: Framework, name: str, x: Any) -> Any:
    """A number, or a tensor of this framework as an array."""
    if is_scalar(x):
        return x
    if not framework.is_tensor(x):
        kind = f"{type(x).__module__}.{type(x).__qualname__}"
        raise TypeError(f"{name} must be a number or a {framework.name} tensor, got {kind}")
    return framework.as_array(x)
