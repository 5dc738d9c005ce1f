"""Turns a call's parameters into the arguments of kernels: see `kernels.sampling.rows`."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any, NamedTuple

from detsample.frameworks import Device, Framework
from detsample.frameworks.pointer import missing
from detsample.kernels.sampling.rows import (
    MIN_P_GIVEN,
    POSITION_GIVEN,
    SEED_GIVEN,
    TEMPERATURE_GIVEN,
    TOP_K_GIVEN,
    TOP_P_GIVEN,
)
from detsample.sampler.parameters import Parameters, Scalar

_FLOAT, _INT = struct.Struct("<f"), struct.Struct("<i")


class Kind(NamedTuple):
    """How one parameter is passed to kernels: the address and the stride of a vector, then the words of a number."""

    bit: int
    """The parameter's bit in `given`, the word that says which parameters are vectors."""
    dtype: str
    """The element type for which kernels are compiled if the parameter is a number."""
    words: Callable[[Any], tuple[int, ...]]
    """A number as 32-bit words, which are always i32 arguments."""
    none: tuple[int, ...]
    """What is passed as the number's words if the parameter is a vector."""


def _float_bits(value: float) -> tuple[int]:
    return _INT.unpack(_FLOAT.pack(value))


def _clipped(value: int) -> tuple[int]:
    return (max(-1, min(value, (1 << 31) - 1)),)


def _halves(value: int) -> tuple[int, int]:
    value &= (1 << 64) - 1
    return _signed(value & 0xFFFFFFFF), _signed(value >> 32)


def _signed(word: int) -> int:
    return word - (1 << 32) if word >= 1 << 31 else word


TEMPERATURE = Kind(TEMPERATURE_GIVEN.value, "float32", _float_bits, (0,))
TOP_K = Kind(TOP_K_GIVEN.value, "int64", _clipped, (0,))
TOP_P = Kind(TOP_P_GIVEN.value, "float32", _float_bits, (0,))
MIN_P = Kind(MIN_P_GIVEN.value, "float32", _float_bits, (0,))
SEED = Kind(SEED_GIVEN.value, "int64", _halves, (0, 0))
POSITION = Kind(POSITION_GIVEN.value, "int64", _halves, (0, 0))

# In the order of `kernels.sampling.rows.PARAMETER_NAMES`.
_KINDS = (TEMPERATURE, TOP_K, TOP_P, MIN_P, SEED, POSITION)
_ORDER = attrgetter("temperature", "top_k", "top_p", "min_p", "topp_seed", "position")


def parameter_arguments(parameters: Parameters, framework: Framework, device: Device) -> list[Any]:
    """Return `given`, then what `kernels.sampling.rows.PARAMETER_NAMES` names, of all of a call's parameters."""
    return arguments(framework, device, zip(_KINDS, _ORDER(parameters), strict=True))


def arguments(framework: Framework, device: Device, parameters: Iterable[tuple[Kind, Any]]) -> list[Any]:
    """Return `given`, the word that says which of some parameters are vectors, then of each address, stride and words.

    Parameters
    ----------
    framework : Framework
        The framework of the vectors among the parameters.
    device : Device
        The device of these vectors.
    parameters
        For each parameter its kind, and the checked parameter itself.
    """
    given, where = 0, device[0]
    found: list[Any] = [given]
    for (bit, dtype, words, none), parameter in parameters:
        if type(parameter) is Scalar:
            found += (missing(where, dtype), 0, *words(parameter.value))
        else:
            vector = parameter.pointer
            found += (framework.argument(parameter.tensor) if vector is None else vector, parameter.stride, *none)
            given |= bit
    found[0] = given
    return found
