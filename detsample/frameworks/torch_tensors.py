"""The adapter for torch's tensors. Triton's own driver follows torch's device and stream, so it is used as it is."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache
from typing import Any

import numpy as np
import torch

from detsample.frameworks import Description, UnusableTensor, bfloat16
from detsample.frameworks.buffer import Buffer, HostBuffer
from detsample.frameworks.host import CPU, NOTHING, require_cpu
from detsample.frameworks.pointer import ALIGNMENT, Argument, Pointer, pointer_types

name = "torch"


def is_tensor(x: object) -> bool:
    """Whether ``x`` is a tensor."""
    return isinstance(x, torch.Tensor)


def shape(x: torch.Tensor) -> tuple[int, ...]:
    """Return the shape."""
    return tuple(x.shape)


def strides(x: torch.Tensor) -> tuple[int, ...]:
    """Return the strides in elements."""
    return x.stride()


@cache
def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).rpartition(".")[2]


def dtype_name(x: torch.Tensor) -> str:
    """Return the element type."""
    return _dtype_name(x.dtype)


def device(x: torch.Tensor) -> tuple[str, int]:
    """Return the device; a tensor has an index even if it was asked for on "cuda" without one."""
    if x.is_cuda:
        return ("gpu", x.get_device())
    if x.device.type == "cpu":
        return CPU
    raise TypeError(f"a torch tensor must be on a CUDA device or the CPU, got one on {x.device}")


def describe(x: torch.Tensor) -> Description:
    """Return shape, element type, device, strides and pointer; the shape is a ``torch.Size``, which is a tuple.

    The questions that are asked of every tensor already show the unusable ones. Asking for the layout as well would
    only take time.
    """
    try:
        address = x.data_ptr()  # raises where there is no storage: sparse, for MKL-DNN, inside torch.vmap
        # Elements without an address are fake ones, on "meta" or of a class; a negative bit is not in the memory.
        if (address or 0 in x.shape) and not x.is_neg():
            if x.is_cuda:
                pointer = _pointer_types(x.dtype)[address % ALIGNMENT != 0](address)
                return x.shape, pointer.dtype, ("gpu", x.get_device()), x.stride(), pointer
            if x.device.type == "cpu":
                return x.shape, _dtype_name(x.dtype), CPU, x.stride(), None
    except RuntimeError:  # some nested tensors have an address and no shape
        pass
    raise UnusableTensor(_why_unusable(x))


def _why_unusable(x: torch.Tensor) -> str:
    if x.layout is not torch.strided or x.is_nested:
        return f"must be a strided tensor, got a {'nested' if x.is_nested else x.layout} one"
    if not x.is_cuda and x.device.type != "cpu":
        return f"must be on a CUDA device or the CPU, got a torch tensor on {x.device}"
    if x.is_neg():
        return "must be a tensor without the negative bit (resolve_neg() makes it one), got one with it"
    return f"must be a tensor with memory of its own, got a {type(x).__module__}.{type(x).__qualname__} without"


def on_gpu(x: torch.Tensor) -> bool:
    """Whether the tensor is on a GPU."""
    return x.is_cuda


@cache
def _torch_device(device: tuple[str, int]) -> torch.device:
    """Return torch's name of a device; the CPU has no index there."""
    return torch.device("cpu") if device == CPU else torch.device("cuda", device[1])


@cache
def _new_empty(dtype_name: str, device: tuple[str, int]) -> Callable[[tuple[int, ...] | int], torch.Tensor]:
    """Return a method that makes new tensors like an existing one. `torch.empty` reads more arguments and is slower."""
    with torch.inference_mode(False):
        return torch.empty(0, dtype=getattr(torch, dtype_name), device=_torch_device(device)).new_empty


def empty(shape: tuple[int, ...], dtype_name: str, device: tuple[str, int]) -> torch.Tensor:
    """Return a new tensor; torch takes care of the current device."""
    return _new_empty(dtype_name, device)(shape if len(shape) != 1 else shape[0])


def buffer(x: torch.Tensor) -> Buffer:
    """Return the tensor as a kernel argument, whether it requires a gradient or not."""
    if x.is_cuda:
        return Buffer(x.data_ptr(), _dtype_name(x.dtype), x)
    return HostBuffer(_bits(x), _dtype_name(x.dtype))


@cache
def _pointer_types(dtype: torch.dtype) -> tuple[type[Pointer], type[Pointer]]:
    return pointer_types(_dtype_name(dtype))


def _pointer(x: torch.Tensor) -> Pointer:
    address = x.data_ptr()
    return _pointer_types(x.dtype)[address % ALIGNMENT != 0](address)


def argument(x: torch.Tensor) -> Argument:
    """Return the tensor as `detsample.launching.launch` takes it."""
    return _pointer(x) if x.is_cuda else buffer(x)


def _bits(x: torch.Tensor) -> np.ndarray:
    """Return a view of a host tensor, bfloat16 as uint16: NumPy has no such type."""
    if x.device.type != "cpu":
        raise TypeError(f"a torch tensor must be on the CPU here, got one on {x.device}")
    x = x.detach()
    return x.view(torch.int16).numpy().view(np.uint16) if x.dtype == torch.bfloat16 else x.numpy()


def as_array(x: torch.Tensor) -> np.ndarray:
    """Return a view of a host tensor; bfloat16 as float32."""
    return bfloat16.to_float32(_bits(x)) if x.dtype == torch.bfloat16 else _bits(x)


def from_array(a: np.ndarray, device: tuple[str, int]) -> torch.Tensor:
    """Return the array as a tensor that shares its memory; as a copy if it is read-only or strided."""
    require_cpu(device)
    return torch.from_numpy(a if a.flags.writeable and a.flags.c_contiguous else a.copy())


def fetch(x: torch.Tensor) -> np.ndarray:
    """Copy to the host; torch orders the copy after the current stream of the tensor's own device."""
    host = x.detach().cpu()
    return as_array(host) if x.is_cuda else as_array(host).copy()


def launching(device: tuple[str, int]) -> AbstractContextManager[Any]:
    """Make the device current for torch, which is where Triton's driver looks for device and stream."""
    if device == CPU or torch.cuda.current_device() == device[1]:
        return NOTHING
    return torch.cuda.device(device[1])


def frees_behind_stream(device: tuple[str, int]) -> bool:
    """Return True: torch reuses memory only behind the work of the stream on which it was allocated."""
    return True


@cache
def multiprocessor_count(device: tuple[str, int]) -> int:
    """Return the number of multiprocessors of a GPU; 1 for the CPU."""
    if device == CPU:
        return 1
    return int(torch.cuda.get_device_properties(device[1]).multi_processor_count)


@cache
def compute_capability(device: tuple[str, int]) -> int:
    """Return the compute capability of a GPU, 90 for 9.0; 0 for the CPU."""
    if device == CPU:
        return 0
    major, minor = torch.cuda.get_device_capability(device[1])
    return major * 10 + minor


def gpu_count() -> int:
    """Return how many GPUs torch finds."""
    return torch.cuda.device_count()
