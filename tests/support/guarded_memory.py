"""Memory that forgives nothing, where Triton's interpreter runs the kernels.

On a GPU a load from a wrong address, or of memory that nobody has written, mostly goes unnoticed. Here

* what a kernel loads, stores or adds to at once must lie within one of the launch's arguments;
* the areas that kernels share are arrays of their own, so that the end of one is not the start of the next;
* memory that nobody has written holds large positive numbers, never the zeros that an allocator happens to give.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np

UNWRITTEN = 0x5A
"""Every byte of memory that nobody has written."""

_CHECKED = ("load", "store", "atomic_rmw", "atomic_cas")


class Extent(NamedTuple):
    """Where an argument's elements lie."""

    name: str
    first: int
    end: int


class Accesses:
    """Triton's module of memory accesses, with a look at the addresses; whatever else it has is as it was.

    Parameters
    ----------
    module : module
        The interpreter's own.
    """

    def __init__(self, module: Any) -> None:
        self._module = module
        self.kernel = ""
        self.extents: list[Extent] | None = None
        self.checked = 0
        self.before: Callable[[], None] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)

    def load(self, pointers: np.ndarray, mask: np.ndarray, other: np.ndarray, dtype: Any) -> Any:
        """Load, if it may."""
        self._check("loads", pointers, mask, np.dtype(dtype).itemsize)
        return self._module.load(pointers, mask, other, dtype)

    def store(self, pointers: np.ndarray, values: np.ndarray, mask: np.ndarray) -> Any:
        """Store, if it may."""
        self._check("stores", pointers, mask, values.dtype.itemsize)
        return self._module.store(pointers, values, mask)

    def atomic_rmw(self, how: Any, pointers: np.ndarray, values: np.ndarray, mask: np.ndarray, order: Any) -> Any:
        """Add, or whatever else, if it may."""
        self._check("updates", pointers, mask, values.dtype.itemsize)
        return self._module.atomic_rmw(how, pointers, values, mask, order)

    def atomic_cas(self, pointers: np.ndarray, old: np.ndarray, new: np.ndarray, order: Any) -> Any:
        """Compare and swap, if it may."""
        self._check("swaps", pointers, np.ones(pointers.shape, bool), new.dtype.itemsize)
        return self._module.atomic_cas(pointers, old, new, order)

    def _check(self, does: str, pointers: np.ndarray, mask: np.ndarray, size: int) -> None:
        if self.before is not None:
            self.before()
        if self.extents is None:
            return
        touched = pointers if mask.all() else pointers[np.broadcast_to(mask.astype(bool), pointers.shape)]
        if not touched.size:
            return
        self.checked += touched.size
        first, end = int(touched.min()), int(touched.max()) + size
        if not any(extent.first <= first and end <= extent.end for extent in self.extents):
            known = sorted((abs(first - e.first), first - e.first, e.end - e.first, e.name) for e in self.extents)
            _, away, length, name = known[0]
            raise MemoryError(
                f"{self.kernel} {does} {end - first} bytes that lie in no argument; "
                f"nearest is {name!r} of {length} bytes, from byte {away} on"
            )


@cache
def guard() -> Accesses:
    """Guard every launch in Triton's interpreter from now on; returns what counts the elements looked at."""
    from triton.runtime import interpreter

    from detsample.frameworks import numpy_arrays
    from detsample.frameworks.buffer import HostBuffer
    from detsample.launching import workspace

    accesses = Accesses(interpreter._interpreter)
    missing = [name for name in _CHECKED if not hasattr(accesses, name)]
    assert not missing, f"Triton's interpreter accesses memory in another way: it has no {missing}"
    interpreter._interpreter = accesses
    executor = interpreter.GridExecutor
    run = executor.__call__

    def guarded(self: Any, *arguments: Any, **options: Any) -> Any:
        before = accesses.kernel, accesses.extents
        accesses.kernel, accesses.extents = self.fn.__name__, _extents(self.arg_names, arguments, HostBuffer)
        try:
            return run(self, *arguments, **options)
        finally:
            accesses.kernel, accesses.extents = before

    executor.__call__ = guarded
    numpy_arrays.empty = lambda shape, dtype, device: unwritten(shape, dtype)
    workspace._host_area = lambda memory, slack, area: HostBuffer(unwritten((area.length,), area.dtype))
    return accesses


def unwritten(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Return a new array that nobody has written, with as much around it."""
    dtype = np.dtype(dtype)
    count, margin = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize, 64
    return np.full(count + 2 * margin, UNWRITTEN, np.uint8)[margin : margin + count].view(dtype).reshape(shape)


def _extents(names: Any, arguments: Any, kind: type) -> list[Extent] | None:
    """Where the arguments lie; None if one of them is memory of another kind."""
    if any(hasattr(value, "data_ptr") and not isinstance(value, kind) for value in arguments):
        return None
    return list(_of_buffers((n, value) for n, value in zip(names, arguments, strict=False) if isinstance(value, kind)))


def _of_buffers(named: Iterator[tuple[str, Any]]) -> Iterator[Extent]:
    for name, buffer in named:
        size, shape = buffer._owner.itemsize, buffer.size()
        steps = [(n - 1) * step * size for n, step in zip(shape, buffer.stride(), strict=True)]
        if 0 in shape:
            yield Extent(name, buffer.data_ptr(), buffer.data_ptr())
        else:
            first = buffer.data_ptr() + sum(step for step in steps if step < 0)
            yield Extent(name, first, buffer.data_ptr() + sum(step for step in steps if step > 0) + size)
