"""`gumbel_noise` and `fold_in`: the streams of noise on their own (spec section 7)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, overload

import numpy as np

import detsample.reference as reference
from detsample import frameworks
from detsample.frameworks import Description, Device, Framework
from detsample.frameworks.pointer import integer
from detsample.frameworks.recording import recording, untranslated
from detsample.frameworks.types import Integer, T
from detsample.reference.float_mode import usual_mode
from detsample.sampler.parameters import (
    INTEGER_TYPES,
    LARGEST_VOCABULARY,
    MOST_ROWS,
    SEED_TYPES,
    Parameter,
    Scalar,
    Vector,
    as_integer,
    class_name,
    described,
    is_scalar,
)
from detsample.sampler.run import serving

SEEDS = (-(1 << 63), (1 << 64) - 1)
_POSITIONS = (0, (1 << 63) - 1)
_TOKEN_IDS = (0, LARGEST_VOCABULARY - 1)


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
        from detsample.integrations import torch_ops

        return torch_ops.gumbel_noise(topp_seed, position, token_ids)
    return gumbel_noise_now(topp_seed, position, token_ids)


@usual_mode
def gumbel_noise_now(topp_seed: Any, position: Any, token_ids: Any) -> Any:
    """`gumbel_noise`, where nobody is recording it."""
    if not _is_tensor(token_ids):
        return gumbel_noise_now(topp_seed, position, read_token_ids(token_ids))[()]
    framework = frameworks.of(token_ids, "token_ids")
    asked = read_noise(framework, topp_seed, position, token_ids)
    return serving("detsample.noise", asked.device).gumbel_noise(asked)


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
        from detsample.integrations import torch_ops

        return torch_ops.fold_in(topp_seed, i)
    return fold_in_now(topp_seed, i)


@usual_mode
def fold_in_now(topp_seed: Any, i: Any) -> Any:
    """`fold_in`, where nobody is recording it."""
    tensor = next((x for x in (topp_seed, i) if _is_tensor(x)), None)
    if tensor is None:
        return reference.fold_in(as_integer("topp_seed", topp_seed, *SEEDS), as_integer("i", i, *SEEDS))
    name = "topp_seed" if tensor is topp_seed else "i"
    framework = frameworks.of(tensor, name)
    asked = read_seeds(framework, described(name, tensor, framework)[2], topp_seed, i)
    return serving("detsample.noise", asked.device).fold_in(asked)


def _is_tensor(x: object) -> bool:
    return not is_scalar(x) and not isinstance(x, (list, tuple))


class NoiseWanted(NamedTuple):
    """A call of `gumbel_noise`, checked."""

    framework: Framework
    device: Device
    topp_seed: Parameter
    position: Parameter
    token_ids: Any
    rows: int
    columns: int
    row_step: int
    """The step from row to row of the token ids, in elements; 0 if all rows have the same ids."""
    step: int
    """The step from one token id of a row to the next, in elements."""
    shape: tuple[int, ...]
    """The shape of the result."""


class SeedsWanted(NamedTuple):
    """A call of `fold_in` that has a tensor, checked."""

    framework: Framework
    device: Device
    topp_seed: Parameter
    i: Parameter
    shape: tuple[int, ...]
    """The shape of the result."""


def read_noise(framework: Framework, topp_seed: Any, position: Any, token_ids: Any) -> NoiseWanted:
    """Check a call of `gumbel_noise` whose token ids are a tensor of this framework.

    Raises
    ------
    TypeError
        If an argument is neither an integer number nor a tensor of integers of this framework.
    ValueError
        If shapes do not go together, devices differ, or a number that the host can see is out of range.
    """
    ids, _, device, strides, _ = _described("token_ids", token_ids, framework, _TOKEN_IDS, INTEGER_TYPES)
    if len(ids) > 2:
        raise ValueError(f"token_ids must have shape [N] or [B, N], got {list(ids)}")
    seed, seed_shape = _read("topp_seed", topp_seed, framework, device, SEEDS)
    index, index_shape = _read("position", position, framework, device, _POSITIONS)
    rows = next((shape[0] for shape in (ids[:-1], seed_shape, index_shape) if shape), None)
    for name, shape in (("topp_seed", seed_shape), ("position", index_shape)):
        if shape not in ((), (rows,), (rows, 1)):
            raise ValueError(f"{name} must be a number or have shape [{rows}] (or [{rows}, 1]), got {list(shape)}")
    if rows is not None and rows > MOST_ROWS:
        raise ValueError(f"topp_seed, position and token_ids must have fewer than 2^31 rows, got {rows}")
    row_step, step = (0, 0, *strides)[-2:]
    result = ids[-1:] if rows is None else (rows, *ids[-1:])
    rows, columns = 1 if rows is None else rows, ids[-1] if ids else 1
    return NoiseWanted(framework, device, seed, index, token_ids, rows, columns, row_step, step, result)


def read_seeds(framework: Framework, device: Device, topp_seed: Any, i: Any) -> SeedsWanted:
    """Check a call of `fold_in` of which an argument is a tensor of this framework, on this device.

    Raises
    ------
    TypeError, ValueError
        As `read_noise`.
    """
    seed, seed_shape = _read("topp_seed", topp_seed, framework, device, SEEDS)
    index, index_shape = _read("i", i, framework, device, SEEDS)
    for name, shape in (("topp_seed", seed_shape), ("i", index_shape)):
        if len(shape) > 1:
            raise ValueError(f"{name} must be a number or have shape [N], got {list(shape)}")
    lengths = {*seed_shape, *index_shape}
    if len(lengths - {1}) > 1:
        raise ValueError(f"topp_seed and i must have the same length, got {sorted(lengths)}")
    return SeedsWanted(framework, device, seed, index, tuple(lengths - {1} or lengths))


def _read(
    name: str, value: Any, framework: Framework, device: Device, bounds: tuple[int, int]
) -> tuple[Parameter, tuple[int, ...]]:
    """Check an argument that comes with a tensor on this device. Return it with its shape, which is [] for a number."""
    if is_scalar(value):
        return Scalar(as_integer(name, value, *bounds)), ()
    types = SEED_TYPES if bounds == SEEDS else INTEGER_TYPES
    shape, _, where, strides, pointer = _described(name, value, framework, bounds, types)
    if where != device:
        raise ValueError(f"{name} must be on device {device}, got {where}")
    return Vector(value, integer(strides[0]) if shape and shape[0] > 1 else 0, pointer), tuple(shape)


def _described(
    name: str, tensor: Any, framework: Framework, bounds: tuple[int, int], types: tuple[str, ...]
) -> Description:
    """Check a tensor of integers, and its values if the host can see them. Return what the adapter says of it."""
    if not framework.is_tensor(tensor):
        raise TypeError(f"{name} must be a number or a {framework.name} tensor, got {class_name(tensor)}")
    shape, dtype, device, strides, pointer = described(name, tensor, framework)
    if dtype not in types:
        raise TypeError(f"{name} must be of type {' or '.join(types)}, got {dtype}")
    if device[0] == "cpu":
        _check_range(name, framework.as_array(tensor), bounds)
    return tuple(shape), dtype, device, strides, pointer


def _check_range(name: str, values: np.ndarray, bounds: tuple[int, int]) -> None:
    least, most = bounds
    for value in (values.min(), values.max()) if values.size else ():
        if not least <= int(value) <= most:
            raise ValueError(f"{name} must be between {least} and {most}, got {value}")


def read_token_ids(numbers: Any) -> np.ndarray:
    """An int or a list of ints as an array, checked."""
    try:
        ids = np.asarray(numbers)
    except ValueError as error:
        raise ValueError(f"token_ids must be an integer or a list of integers, got {numbers!r}") from error
    if ids.dtype.kind not in "iu" and ids.size:
        raise TypeError(f"token_ids must be integers of 64 bits, got {numbers!r}")
    _check_range("token_ids", ids, _TOKEN_IDS)  # checked here, before an unsigned number is converted
    return ids.astype(np.int64)
