"""Kernel arguments as integers, whose class says everything that Triton compiles a kernel for.

Triton compiles a kernel anew for another element type behind a pointer, for a pointer that is a multiple of 16 and one
that is not, and for an integer that needs 64 bits. Here each of these is a class of its own, derived from int: the
classes of a call's arguments say which compiled kernel it takes (`launch`), and Triton's launcher takes an int for an
address as it is, where it would ask CUDA about the address of anything else.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from detsample.frameworks.buffer import Buffer, HostBuffer

ALIGNMENT = 16
"""What Triton looks for in an address, in bytes."""


class Pointer(int):
    """An address in device memory. It keeps nothing alive, so the caller must hold the tensor.

    Attributes
    ----------
    dtype : str
        Element type by its NumPy name; an attribute of the class.
    """

    __slots__ = ()

    dtype: str

    def data_ptr(self) -> int:
        """Address of the first element."""
        return int(self)

    def __repr__(self) -> str:
        return f"Pointer(0x{int(self):x}, {self.dtype!r})"


class Wide(int):
    """An integer beyond 32 bits."""

    __slots__ = ()


class Unsigned(Wide):
    """An integer beyond 63 bits."""

    __slots__ = ()


Argument = Buffer | Pointer
"""Memory, as `detsample.launching.launch` takes it: a `HostBuffer` for Triton's interpreter, a `Pointer` on a GPU."""


@cache
def pointer_types(dtype: str) -> tuple[type[Pointer], type[Pointer]]:
    """Return two classes for an element type: that of aligned addresses, and that of all others."""
    aligned, other = (type(f"Pointer_{dtype}_{word}", (Pointer,), {"__slots__": (), "dtype": dtype})
                      for word in ("aligned", "unaligned"))  # fmt: skip
    return aligned, other


def pointer(address: int | None, dtype: str) -> Pointer:
    """Return an address as an argument.

    Parameters
    ----------
    address : int or None
        Address of the first element. An empty tensor has none: Paddle 2.6 then says None and 3.x says 0.
    dtype : str
        Element type by its NumPy name.
    """
    address = address or 0
    return pointer_types(dtype)[address % ALIGNMENT != 0](address)


@cache
def missing(kind: str, dtype: str) -> Argument:
    """Return a stand-in for a tensor that a call does not have. No kernel reads or writes it.

    Parameters
    ----------
    kind : str
        Of the call's device: "gpu", or "cpu" for Triton's interpreter.
    dtype : str
        The element type for which the kernel is to be compiled.
    """
    return pointer(None, dtype) if kind == "gpu" else HostBuffer(np.empty(0, dtype))


def integer(value: int) -> int:
    """Return an integer that may need more than 32 bits as an argument."""
    if -(1 << 31) <= value < 1 << 31:
        return value
    return Wide(value) if value < 1 << 63 else Unsigned(value)
