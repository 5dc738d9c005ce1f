"""The adapter for NumPy arrays, which the CPU reference works on, and which Triton's interpreter runs kernels on."""

from __future__ import annotations

from contextlib import AbstractContextManager

import numpy as np

from detsample.frameworks import Description, bfloat16
from detsample.frameworks.buffer import HostBuffer
from detsample.frameworks.host import CPU, NOTHING, require_cpu

name = "numpy"


def is_tensor(x: object) -> bool:
    """Whether ``x`` is an array. NumPy's scalars have no memory, masked arrays mean other numbers than theirs."""
    return isinstance(x, np.ndarray) and not isinstance(x, np.ma.MaskedArray)


def shape(x: np.ndarray) -> tuple[int, ...]:
    """Return the shape."""
    return x.shape


def strides(x: np.ndarray) -> tuple[int, ...]:
    """Return the strides in elements."""
    size = x.itemsize or 1  # An element of no bytes is refused later; the error should not be about this division.
    return tuple(step // size for step in x.strides)


def dtype_name(x: np.ndarray) -> str:
    """Return the element type; ml_dtypes calls its type "bfloat16" as well."""
    return x.dtype.name


def device(x: np.ndarray) -> tuple[str, int]:
    """Return the CPU."""
    return CPU


def describe(x: np.ndarray) -> Description:
    """Return shape, element type, device and strides."""
    return x.shape, x.dtype.name, CPU, strides(x), None


def on_gpu(x: np.ndarray) -> bool:
    """Return False."""
    return False


def empty(shape: tuple[int, ...], dtype_name: str, device: tuple[str, int]) -> np.ndarray:
    """Return a new array; bfloat16 is known to NumPy once ml_dtypes has been imported."""
    require_cpu(device)
    return np.empty(shape, np.dtype(dtype_name))


def buffer(x: np.ndarray) -> HostBuffer:
    """Return the array as an argument of Triton's interpreter."""
    return HostBuffer(x)


argument = buffer


def as_array(x: np.ndarray) -> np.ndarray:
    """Return the array itself, as a plain ndarray in native byte order; bfloat16 as float32."""
    if x.dtype.name == "bfloat16":
        return bfloat16.to_float32(x.view(np.uint16))
    return np.asarray(x) if x.dtype.isnative else x.astype(x.dtype.newbyteorder("="))


def from_array(a: np.ndarray, device: tuple[str, int]) -> np.ndarray:
    """Return the array itself."""
    require_cpu(device)
    return a


def fetch(x: np.ndarray) -> np.ndarray:
    """Return a copy of the array."""
    return as_array(x).copy()


def launching(device: tuple[str, int]) -> AbstractContextManager[object]:
    """Return a context that does nothing."""
    require_cpu(device)
    return NOTHING


def frees_behind_stream(device: tuple[str, int]) -> bool:
    """Return True: the interpreter is done when it returns."""
    return True


def multiprocessor_count(device: tuple[str, int]) -> int:
    """Return 1: the interpreter runs one program after another."""
    require_cpu(device)
    return 1


def compute_capability(device: tuple[str, int]) -> int:
    """Return 0: there is none."""
    require_cpu(device)
    return 0


def gpu_count() -> int:
    """Return 0."""
    return 0
