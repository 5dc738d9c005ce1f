"""The adapter for Paddle's tensors, from 2.6.2 to 3.x. It uses memory, places and streams, and launches no kernel of
Paddle's.

``get_strides()``, ``data_ptr()``, ``place`` and ``_C_ops.empty`` are in all of these versions (``stride()``,
torch's name, is new in 3.x, and so is ``paddle.empty(device=...)``). Views by slicing and transposing are
strided in both while ``FLAGS_use_stride_kernel`` is on, the default; ``data_ptr()`` is then that of the
view's own first element.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cache
from typing import Any

import numpy as np
import paddle

from detsample.frameworks import Description, UnusableTensor, bfloat16
from detsample.frameworks.buffer import Buffer, HostBuffer
from detsample.frameworks.cuda_context import Current, is_current
from detsample.frameworks.host import CPU, NOTHING, require_cpu
from detsample.frameworks.pointer import Argument, pointer

name = "paddle"


def is_tensor(x: object) -> bool:
    """Whether ``x`` is a tensor with memory; a static graph's variable has none."""
    return isinstance(x, paddle.Tensor)


def shape(x: Any) -> tuple[int, ...]:
    """Return the shape, a list in 2.6 and a ``paddle.Size`` later."""
    return tuple(x.shape)


def strides(x: Any) -> tuple[int, ...]:
    """Return the strides in elements; Paddle gives an empty tensor odd ones."""
    return tuple(x.get_strides())


# A Paddle dtype is slow to hash and to compare (2 us, in 2.6), its number is not; 2.6 numbers a VarType and
# 3.x a DataType, each in its own way.
_DTYPE_NAMES: dict[tuple[type, int], str] = {}


def _dtype_name(dtype: Any) -> str:
    key = (type(dtype), dtype.value)
    known = _DTYPE_NAMES.get(key)
    if known is None:
        # "paddle.float32" for either kind; their `name` differs ("FP32", "FLOAT32").
        known = _DTYPE_NAMES[key] = str(dtype).rpartition(".")[2]
    return known


def dtype_name(x: Any) -> str:
    """Return the element type."""
    return _dtype_name(x.dtype)


def device(x: Any) -> tuple[str, int]:
    """Return the device; pinned memory is the host's."""
    place = x.place
    if place.is_gpu_place():
        return ("gpu", place.gpu_device_id())
    if place.is_cpu_place() or place.is_cuda_pinned_place():
        return CPU
    raise TypeError(f"a Paddle tensor must be on a GPU or the CPU, got one on {place}")


def describe(x: Any) -> Description:
    """Return shape, element type, device, strides and pointer."""
    if not x.is_dense():
        raise UnusableTensor("must be a dense tensor, got a sparse or a distributed one")
    place, dtype = x.place, _dtype_name(x.dtype)
    if not place.is_gpu_place():
        if not (place.is_cpu_place() or place.is_cuda_pinned_place()):
            raise UnusableTensor(f"must be on a GPU or the CPU, got a Paddle tensor on {place}")
        return tuple(x.shape), dtype, CPU, strides(x), None
    where = ("gpu", place.gpu_device_id())
    return tuple(x.shape), dtype, where, tuple(x.get_strides()), pointer(x.data_ptr(), dtype)


def on_gpu(x: Any) -> bool:
    """Whether the tensor is on a GPU."""
    return bool(x.place.is_gpu_place())


@cache
def _place(device: tuple[str, int]) -> Any:
    if device == CPU:
        return paddle.CPUPlace()
    if not paddle.device.is_compiled_with_cuda():  # CUDAPlace would end the process, in 2.6
        raise ValueError(f"device must be {CPU} with a Paddle built for the CPU, got {device}")
    return paddle.CUDAPlace(device[1])


def empty(shape: tuple[int, ...], dtype_name: str, device: tuple[str, int]) -> Any:
    """Return a new tensor on ``device``, whatever Paddle's default place is.

    ``paddle.empty`` allocates on the default place, and 2.6 cannot be told another, so this calls what it
    calls. The allocation launches nothing. Paddle makes the place's GPU current and leaves it so, which is why there is
    a guard.
    """
    place = _place(device)
    with NOTHING if device == CPU or is_current(device[1]) else Current(device[1]):
        return paddle._C_ops.empty(list(shape), getattr(paddle, dtype_name), place)


def buffer(x: Any) -> Buffer:
    """Return the tensor as a kernel argument."""
    if x.place.is_gpu_place():
        return Buffer(x.data_ptr(), _dtype_name(x.dtype), x)
    return HostBuffer(_bits(x), _dtype_name(x.dtype))


def argument(x: Any) -> Argument:
    """Return the tensor as `detsample.launching.launch` takes it."""
    if x.place.is_gpu_place():
        return pointer(x.data_ptr(), _dtype_name(x.dtype))
    return buffer(x)


class _Memory:
    """The memory of a host tensor as NumPy asks for it, keeping the tensor alive.

    ``Tensor.numpy()`` would copy.
    """

    __slots__ = ("__array_interface__", "_owner")

    def __init__(self, x: Any) -> None:
        dtype = _numpy_dtype(_dtype_name(x.dtype))
        self._owner = x
        self.__array_interface__ = {
            "version": 3,
            "typestr": dtype.str,
            "shape": tuple(x.shape),
            "strides": tuple(step * dtype.itemsize for step in x.get_strides()),
            "data": (x.data_ptr(), False),
        }


@cache
def _numpy_dtype(dtype_name: str) -> np.dtype[Any]:
    """Return NumPy's type of an element. NumPy has no bfloat16; for it the type of its bits is returned."""
    return np.dtype("uint16" if dtype_name == "bfloat16" else dtype_name)


def _bits(x: Any) -> np.ndarray:
    """Return a view of a host tensor, bfloat16 as uint16."""
    if device(x) != CPU:
        raise TypeError(f"a Paddle tensor must be on the CPU here, got one on {x.place}")
    if 0 in x.shape:  # an empty tensor has no memory to share: its address is None in 2.6, and 0 in 3.x
        return np.empty(tuple(x.shape), _numpy_dtype(_dtype_name(x.dtype)))
    return np.asarray(_Memory(x))


def as_array(x: Any) -> np.ndarray:
    """Return a view of a host tensor; bfloat16 as float32."""
    bits = _bits(x)
    return bfloat16.to_float32(bits) if _dtype_name(x.dtype) == "bfloat16" else bits


def from_array(a: np.ndarray, device: tuple[str, int]) -> Any:
    """Return a copy of the array as a tensor on the CPU, whatever Paddle's default place is."""
    require_cpu(device)
    tensor = empty(a.shape, a.dtype.name, device)
    _bits(tensor)[...] = a
    return tensor


def fetch(x: Any) -> np.ndarray:
    """Copy to the host.

    ``Tensor.numpy()`` copies the memory behind the tensor, strided or not, so that no kernel runs. It copies
    on CUDA's default stream, which does not wait for the streams that ``paddle.device.cuda.Stream`` makes
    (they are non-blocking), so the current one is waited for first.
    """
    if not on_gpu(x):
        return as_array(x).copy()
    index = x.place.gpu_device_id()
    with Current(index):
        paddle.device.cuda.current_stream(index).synchronize()
        array = x.numpy()
    return bfloat16.to_float32(array) if _dtype_name(x.dtype) == "bfloat16" else array


def launching(device: tuple[str, int]) -> AbstractContextManager[object]:
    """Have Triton take device and stream from Paddle, on this thread; see `detsample.frameworks.paddle_driver`."""
    if device == CPU:
        return NOTHING
    # Imported here, where a kernel is about to be launched: the CPU reference does without Triton.
    from detsample.frameworks.paddle_driver import Launching

    return Launching(device[1])


def frees_behind_stream(device: tuple[str, int]) -> bool:
    """Return False for a GPU: inside a ``stream_guard`` memory still belongs to the device's default stream.

    A call on one stream was seen (2.6.2, an H100) to get the working memory that a call on another still used.
    """
    return device == CPU


@cache
def multiprocessor_count(device: tuple[str, int]) -> int:
    """Return the number of multiprocessors of a GPU; 1 for the CPU."""
    if device == CPU:
        return 1
    return int(paddle.device.cuda.get_device_properties(device[1]).multi_processor_count)


@cache
def compute_capability(device: tuple[str, int]) -> int:
    """Return the compute capability of a GPU, 90 for 9.0; 0 for the CPU."""
    if device == CPU:
        return 0
    major, minor = paddle.device.cuda.get_device_capability(device[1])
    return int(major) * 10 + int(minor)


def gpu_count() -> int:
    """Return how many GPUs Paddle finds."""
    return int(paddle.device.cuda.device_count()) if paddle.device.is_compiled_with_cuda() else 0
