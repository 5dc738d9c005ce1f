"""The memory that the kernels of a call share: one allocation for each call, cut into named areas."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from detsample.frameworks import Device, Framework
from detsample.frameworks.buffer import HostBuffer
from detsample.frameworks.pointer import ALIGNMENT, Argument, Pointer, pointer_types

ITEM_BYTES = {"int64": 8, "int32": 4, "float32": 4, "bfloat16": 2, "float16": 2}


class Areas(dict[str, Any]):
    """Areas by their names.

    Attributes
    ----------
    memory : tensor
        The memory that all areas lie in. Keep it, because the areas do not keep it alive.
    """

    __slots__ = ("memory",)

    memory: Any


class Area(NamedTuple):
    """Where an area lies, in bytes from the start."""

    name: str
    dtype: str
    start: int
    length: int
    kind: type[Pointer]


class Layout(NamedTuple):
    """Areas behind each other."""

    total: int
    """The bytes that they need."""
    areas: tuple[Area, ...]
    names: tuple[str, ...]
    starts: tuple[int, ...]


def layout(areas: dict[str, tuple[str, int]]) -> Layout:
    """Place areas one behind the other, each at a multiple of 16 bytes.

    Parameters
    ----------
    areas : dict
        For each name the element type and the number of elements.
    """
    laid, total = [], 0
    for name, (dtype, count) in areas.items():
        laid.append(Area(name, dtype, total, count, pointer_types(dtype)[0]))
        total += -(-count * ITEM_BYTES[dtype] // ALIGNMENT) * ALIGNMENT
    return Layout(total, tuple(laid), tuple(areas), tuple(area.start for area in laid))


def allocate(framework: Framework, device: Device, laid: Layout) -> Areas:
    """Allocate areas of uninitialised memory, as arguments of `launch.launcher`: see `addresses`."""
    areas = addresses(framework, device, laid)
    if device[0] == "gpu":
        areas.update([(area.name, area.kind(areas[area.name])) for area in laid.areas])
    return areas


def addresses(framework: Framework, device: Device, laid: Layout) -> Areas:
    """Allocate areas of uninitialised memory.

    Parameters
    ----------
    framework, device
        The framework that allocates the memory, and its device.
    laid : Layout
        From `layout`.

    Returns
    -------
    Areas
        For each name its address, a multiple of 16, as a plain int; a `HostBuffer` where the memory is the host's.
    """
    memory = framework.empty((laid.total // 8 + 2,), "int64", device)
    base = framework.argument(memory)
    address = base.data_ptr()
    start = address + -address % ALIGNMENT
    if isinstance(base, HostBuffer):
        array, slack = framework.as_array(memory).view(np.uint8), start - address
        areas = Areas((area.name, _host_area(array, slack, area)) for area in laid.areas)
    else:
        areas = Areas(zip(laid.names, [start + offset for offset in laid.starts], strict=True))
    areas.memory = memory
    return areas


def _host_area(array: np.ndarray, slack: int, area: Area) -> HostBuffer:
    first = slack + area.start
    return HostBuffer(array[first : first + area.length * ITEM_BYTES[area.dtype]].view(area.dtype))


def as_argument(area: Any, dtype: str) -> Argument:
    """Return an area of `addresses` as an argument of `detsample.launching.launch.launcher`."""
    return pointer_types(dtype)[0](area) if type(area) is int else area
