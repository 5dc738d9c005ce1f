"""The memory kernels share between launches: one allocation a call, cut into named areas."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from detsample.buffer import HostBuffer
from detsample.frameworks import Device, Framework
from detsample.pointer import ALIGNMENT, Argument, Pointer, pointer_types

ITEM_BYTES = {"int64": 8, "int32": 4, "float32": 4}


class Areas(dict[str, Argument]):
    """Areas by their names.

    Attributes
    ----------
    memory : tensor
        What they all lie in. The areas do not keep it alive; this does.
    """

    __slots__ = ("memory",)

    memory: Any


class Area(NamedTuple):
    """Where an area lies, in bytes from the start."""

    name: str
    dtype: str
    start: int
    count: int
    kind: type[Pointer]


Layout = tuple[int, tuple[Area, ...]]
"""The bytes that areas need, and where each lies."""


def layout(areas: dict[str, tuple[str, int]]) -> Layout:
    """Lay areas out one behind the other, each on a multiple of 16 bytes.

    Parameters
    ----------
    areas : dict
        For each name the element type and the number of elements.
    """
    laid, total = [], 0
    for name, (dtype, count) in areas.items():
        laid.append(Area(name, dtype, total, count, pointer_types(dtype)[0]))
        total += -(-count * ITEM_BYTES[dtype] // ALIGNMENT) * ALIGNMENT
    return total, tuple(laid)


def allocate(framework: Framework, device: Device, laid: Layout) -> Areas:
    """Allocate areas of uninitialised memory.

    Parameters
    ----------
    framework, device
        Who allocates, and where.
    laid : Layout
        From `layout`.

    Returns
    -------
    Areas
        For each name its argument, whose address is a multiple of 16.
    """
    total, parts = laid
    areas = Areas()
    areas.memory = memory = framework.empty((total // 8 + 2,), "int64", device)
    base = framework.argument(memory)
    start = base.data_ptr() + -base.data_ptr() % ALIGNMENT
    if isinstance(base, HostBuffer):
        array, slack = framework.as_array(memory).view(np.uint8), start - base.data_ptr()
        areas.update((area.name, _host_area(array, slack, area)) for area in parts)
    else:
        areas.update([(name, kind(start + offset)) for name, _, offset, _, kind in parts])
    return areas


def _host_area(array: np.ndarray, slack: int, area: Area) -> HostBuffer:
    first = slack + area.start
    return HostBuffer(array[first : first + area.count * ITEM_BYTES[area.dtype]].view(area.dtype))
