"""A call's parameters as kernels take them: see `kernels.rows`."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import cache
from operator import attrgetter
from typing import Any

import numpy as np

from detsample.frameworks import Device, Framework
from detsample.frameworks.buffer import HostBuffer
from detsample.frameworks.pointer import Argument, pointer
from detsample.kernels.rows import (
    MIN_P_GIVEN,
    POSITION_GIVEN,
    SEED_GIVEN,
    TEMPERATURE_GIVEN,
    TOP_K_GIVEN,
    TOP_P_GIVEN,
)
from detsample.sampler.parameters import Parameters, Scalar


def words(value: int) -> tuple[int, int]:
    """The low and the high half of a 64-bit integer, each as a signed 32-bit one, which is always an i32 argument."""
    value &= (1 << 64) - 1
    return _signed(value & 0xFFFFFFFF), _signed(value >> 32)


def float_bits(value: float) -> tuple[int]:
    """The bits of a number that fp32 can hold, as a signed 32-bit integer."""
    return _INT.unpack(_FLOAT.pack(value))


def _signed(word: int) -> int:
    return word - (1 << 32) if word >= 1 << 31 else word


def _clipped(value: int) -> tuple[int]:
    return (max(-1, min(value, (1 << 31) - 1)),)


_FLOAT, _INT = struct.Struct("<f"), struct.Struct("<i")

# In the order of `PARAMETER_NAMES`; of each the bit that says "a vector", the type of an unused one, a number as
# words, and what stands in their place beside a vector.
_ORDER = attrgetter("temperature", "top_k", "top_p", "min_p", "topp_seed", "position")
_TABLE: tuple[tuple[int, str, Callable[[Any], tuple[int, ...]], tuple[int, ...]], ...] = (
    (TEMPERATURE_GIVEN.value, "float32", float_bits, (0,)),
    (TOP_K_GIVEN.value, "int64", _clipped, (0,)),
    (TOP_P_GIVEN.value, "float32", float_bits, (0,)),
    (MIN_P_GIVEN.value, "float32", float_bits, (0,)),
    (SEED_GIVEN.value, "int64", words, (0, 0)),
    (POSITION_GIVEN.value, "int64", words, (0, 0)),
)


def parameter_arguments(parameters: Parameters, framework: Framework, device: Device) -> list[Any]:
    """Return `given`, then what `kernels.rows.PARAMETER_NAMES` names: pointers, strides, and the words of numbers.

    Parameters
    ----------
    parameters : Parameters
        Checked.
    framework : Framework
        Of the vectors among them.
    device : Device
        Where they are.
    """
    unused = _null_pointer if device[0] == "gpu" else _no_memory
    given: int = 0
    arguments: list[Any] = [given]
    for parameter, (bit, dtype, as_words, none) in zip(_ORDER(parameters), _TABLE, strict=True):
        if type(parameter) is Scalar:
            arguments += (unused(dtype), 0, *as_words(parameter.value))
        else:
            vector = parameter.pointer
            arguments += (framework.argument(parameter.tensor) if vector is None else vector, parameter.stride, *none)
            given |= bit
    arguments[0] = given
    return arguments


@cache
def _null_pointer(dtype: str) -> Argument:
    """What stands in the place of a vector that is not there, which no kernel reads."""
    return pointer(None, dtype)


@cache
def _no_memory(dtype: str) -> Argument:
    """The same in Triton's interpreter."""
    return HostBuffer(np.empty(0, dtype))
