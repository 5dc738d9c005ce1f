"""`gumbel_noise` and `fold_in`: the streams of noise on their own (spec section 7)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

import numpy as np

from detsample.frameworks.recording import recording, untranslated
from detsample.frameworks.types import Integer, T
from detsample.noise.now import fold_in_now, gumbel_noise_now


# Of two that fit, type checkers take the first: numbers for numbers.
@overload
def gumbel_noise(  # type: ignore[overload-overlap]
    topp_seed: Integer, position: Integer, token_ids: Integer
) -> float: ...


@overload
def gumbel_noise(
    topp_seed: Integer | np.ndarray, position: Integer | np.ndarray, token_ids: Integer | Sequence[int] | np.ndarray
) -> np.ndarray: ...


@overload
def gumbel_noise(topp_seed: Integer | T, position: Integer | T, token_ids: T) -> T: ...


@untranslated
def gumbel_noise(topp_seed: Any, position: Any, token_ids: Any) -> Any:
    """The Gumbel noise that `sample` adds to the scores of these tokens, exactly.

    Parameters
    ----------
    topp_seed : int, or [B] or [B, 1] int64, int32, uint64 or uint32
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
    if recording():
        from detsample.noise import recorded

        return recorded.gumbel_noise(topp_seed, position, token_ids)
    return gumbel_noise_now(topp_seed, position, token_ids)


@overload
def fold_in(topp_seed: Integer, i: Integer) -> int: ...  # type: ignore[overload-overlap]


@overload
def fold_in(topp_seed: Integer | np.ndarray, i: Integer | np.ndarray) -> np.ndarray: ...


@overload
def fold_in(topp_seed: Integer | T, i: Integer | T) -> T: ...


@untranslated
def fold_in(topp_seed: Any, i: Any) -> Any:
    """The seed of the i-th of several samples of one request. It is unrelated to the request's seed and to the seeds of
    all other samples.

    Parameters
    ----------
    topp_seed : int, or [N] int64, int32, uint64 or uint32
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
    if recording():
        from detsample.noise import recorded

        return recorded.fold_in(topp_seed, i)
    return fold_in_now(topp_seed, i)
