"""Checks the arguments of `gumbel_noise` and `fold_in`."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from detsample.frameworks import Description, Device, Framework
from detsample.frameworks.pointer import integer
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

SEEDS = (-(1 << 63), (1 << 64) - 1)
_POSITIONS = (0, (1 << 63) - 1)
_TOKEN_IDS = (0, LARGEST_VOCABULARY - 1)


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
