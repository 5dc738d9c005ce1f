"""`gumbel_noise` and `fold_in`: the streams of noise on their own (spec section 7)."""

from __future__ import annotations

from typing import Any

import numpy as np

import detsample.reference as reference
from detsample import frameworks
from detsample.noise.arguments import SEEDS, read_noise, read_seeds, read_token_ids
from detsample.sampler.on_cpu import as_array
from detsample.sampler.parameters import as_integer, described, is_scalar


def gumbel_noise(topp_seed: Any, position: Any, token_ids: Any) -> Any:
    """The Gumbel noise that `sample` adds to the scaled logits of these tokens, exactly.

    Parameters
    ----------
    topp_seed : int, or [B] or [B, 1] int64 or int32
        Streams of noise: any 64 bits.
    position : int, or [B] or [B, 1] int64 or int32
        Absolute indices, from 0, of the tokens being drawn.
    token_ids : [N] or [B, N] int64 or int32, or an int or a list of them
        Token ids, from 0 and below ``2**21``.

    Returns
    -------
    [N] or [B, N] float64
        Noise, a multiple of ``2**-32``; of the framework and on the device of `token_ids`, or NumPy if those
        are plain numbers. Of shape [B, N] as soon as an argument has rows; without the N for a single token id: [B],
        or [] for a tensor of shape [], or a float for an int.

    Raises
    ------
    TypeError, ValueError
        For an argument of the wrong type, shape, device or, where the host can see it, range. What tensors on a GPU
        hold it does not look at: a negative position there counts as its 64 bits and an id out of range as its
        lowest 34, of which no draw makes use.

    Examples
    --------
    >>> gumbel_noise(7, 0, [0, 1])
    array([-1.1288763 , -0.32707352])
    """
    if not _is_tensor(token_ids):
        return gumbel_noise(topp_seed, position, read_token_ids(token_ids))[()]
    framework = frameworks.of(token_ids, "token_ids")
    asked = read_noise(framework, topp_seed, position, token_ids)
    if asked.device[0] == "gpu":
        from detsample.noise import on_gpu as streams  # imports triton, which a machine without a GPU need not have

        return streams.launch_noise(asked)
    seed, index = (as_array(framework, parameter) for parameter in (asked.topp_seed, asked.position))
    noise = reference.gumbel_noise(seed, index, framework.as_array(token_ids))
    return framework.from_array(np.asarray(noise), asked.device)


def fold_in(topp_seed: Any, i: Any) -> Any:
    """The seed of the i-th of several samples that share a seed; unrelated to it and to those of all other i.

    Parameters
    ----------
    topp_seed : int, or [N] int64 or int32
        Seeds: any 64 bits. A tensor of shape [] or [1] goes with the other's N.
    i : int, or [N] int64 or int32
        Indices: any 64 bits, in the same forms.

    Returns
    -------
    int, or [N] int64
        Seeds, signed; an int if both arguments are, otherwise of the framework and on the device of the tensor
        among them, of shape [] if no tensor has a length.

    Raises
    ------
    TypeError, ValueError
        For an argument of the wrong type, shape or device, or an int beyond 64 bits.

    Examples
    --------
    >>> fold_in(7, 0)
    -3942576820568715282
    """
    tensor = next((x for x in (topp_seed, i) if _is_tensor(x)), None)
    if tensor is None:
        return reference.fold_in(as_integer("topp_seed", topp_seed, *SEEDS), as_integer("i", i, *SEEDS))
    name = "topp_seed" if tensor is topp_seed else "i"
    framework = frameworks.of(tensor, name)
    asked = read_seeds(framework, described(name, tensor, framework)[2], topp_seed, i)
    if asked.device[0] == "gpu":
        from detsample.noise import on_gpu as streams

        return streams.launch_seeds(asked)
    seeds = reference.fold_in(as_array(framework, asked.topp_seed), as_array(framework, asked.i))
    return framework.from_array(np.asarray(seeds, np.int64), asked.device)


def _is_tensor(x: object) -> bool:
    return not is_scalar(x) and not isinstance(x, (list, tuple))
