"""The memory kernels share between launches: one allocation a call, cut into named areas."""

from __future__ import annotations

from typing import Any

import numpy as np

from detsample.buffer import Buffer, HostBuffer
from detsample.frameworks import Device, Framework

ITEM_BYTES = {"int64": 8, "int32": 4, "float32": 4}
ALIGNMENT = 16  # what Triton specialises pointers on


def allocate(framework: Framework, device: Device, areas: dict[str, tuple[str, int]]) -> dict[str, Buffer]:
    """Allocate areas of uninitialised memory.

    Parameters
    ----------
    framework, device
        Who allocates, and where.
    areas : dict
        For each name the element type and the number of elements.

    Returns
    -------
    dict
        For each name its buffer, whose address is a multiple of 16.
    """
    starts, total = {}, 0
    for name, (dtype, count) in areas.items():
        starts[name] = total
        total += -(-count * ITEM_BYTES[dtype] // ALIGNMENT) * ALIGNMENT
    memory = framework.empty((total // 8 + 2,), "int64", device)
    base = framework.buffer(memory)
    slack = -base.data_ptr() % ALIGNMENT
    return {
        name: _area(framework, base, memory, starts[name] + slack, dtype, count)
        for name, (dtype, count) in areas.items()
    }


def _area(framework: Framework, base: Buffer, memory: Any, start: int, dtype: str, count: int) -> Buffer:
    if not isinstance(base, HostBuffer):
        return Buffer(base.data_ptr() + start, dtype, memory)
    part = framework.as_array(memory).view(np.uint8)[start : start + count * ITEM_BYTES[dtype]]
    return HostBuffer(part.view(dtype))
