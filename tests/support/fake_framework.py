"""A framework whose GPUs are the host's memory, for Triton with a compiler and a launcher that only take notes.

What a launch would compile for, and what would be passed to it, can so be told without a GPU. Importing this puts all
of it in place, in a process of its own: nothing is put back.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
from triton import compiler
from triton.backends.compiler import GPUTarget
from triton.compiler import CompiledKernel
from triton.runtime import driver

from detsample import frameworks
from detsample.frameworks.buffer import Buffer
from detsample.frameworks.pointer import pointer

ITEM_BYTES = {"float64": 8, "int64": 8, "float32": 4, "int32": 4, "bfloat16": 2, "float16": 2, "bool": 1}


class Tensor:
    """Memory that is only an address: nobody reads it."""

    def __init__(self, address: int, shape: tuple[int, ...], strides: tuple[int, ...], dtype: str, index: int) -> None:
        self.address, self.shape, self.strides, self.dtype, self.index = address, shape, strides, dtype, index

    def data_ptr(self) -> int:
        """The address, as frameworks call it."""
        return self.address


class Here(threading.local):
    """What differs between threads: the current device, the next address, and what was launched."""

    device = 0
    address = 1 << 40

    def __init__(self) -> None:
        self.launched: list[tuple[Any, ...]] = []


HERE = Here()
COMPILED: list[tuple[Any, ...]] = []


def empty(shape: tuple[int, ...], dtype: str, device: frameworks.Device) -> Tensor:
    """Memory at the next address, a multiple of 256."""
    at = HERE.address
    HERE.address += -(-int(np.prod(shape, dtype=np.int64)) * ITEM_BYTES[dtype] // 256) * 256 + 256
    strides = tuple(int(np.prod(shape[i + 1 :], dtype=np.int64)) for i in range(len(shape)))
    return Tensor(at, shape, strides, dtype, device[1])


def argument(x: Tensor) -> Any:
    """A pointer."""
    return pointer(x.address, x.dtype)


@contextlib.contextmanager
def launching(device: frameworks.Device) -> Iterator[None]:
    """Make the device current on this thread."""
    before, HERE.device = HERE.device, device[1]
    try:
        yield
    finally:
        HERE.device = before


FRAMEWORK: Any = SimpleNamespace(
    name="fake",
    is_tensor=lambda x: isinstance(x, Tensor),
    shape=lambda x: x.shape,
    strides=lambda x: x.strides,
    dtype_name=lambda x: x.dtype,
    device=lambda x: ("gpu", x.index),
    describe=lambda x: (x.shape, x.dtype, ("gpu", x.index), x.strides, argument(x)),
    on_gpu=lambda x: True,
    empty=empty,
    argument=argument,
    buffer=lambda x: Buffer(x.address, x.dtype, x),
    launching=launching,
    frees_behind_stream=lambda device: True,
    multiprocessor_count=lambda device: 132,
    compute_capability=lambda device: 90,
    gpu_count=lambda: 2,
    fetch=lambda x: np.full(x.shape, 3),
)
frameworks._BY_CLASS[Tensor] = FRAMEWORK


def as_number(argument: Any) -> Any:
    """An argument as CUDA gets it."""
    return argument.data_ptr() if hasattr(argument, "data_ptr") else argument


class Compiled(CompiledKernel):
    """What `compile_note` returns: a kernel loaded on the device that was current, with a launcher that takes notes."""

    def __init__(self, name: str, kind: tuple[Any, ...]) -> None:
        self.name, self.kind = name, kind
        self.module, self.src = "loaded", None
        self.function = (name, HERE.device, kind)
        self.packed_metadata = "metadata"

    def __getattribute__(self, name: str) -> Any:
        return object.__getattribute__(self, name)

    def run(self, x: int, y: int, z: int, stream: int, function: Any, *rest: Any) -> None:
        """Note a launch; the first of `rest` are metadata, and hooks."""
        metadata, launch_metadata, enter, leave, *arguments = rest
        for hook in (enter, leave):
            if hook is not None:
                hook(launch_metadata)
        HERE.launched.append(((x, y, z), stream, function, metadata, tuple(map(as_number, arguments))))

    def __del__(self) -> None:
        pass


def compile_note(src: Any, target: Any = None, options: Any = None, **_: Any) -> Compiled:
    """Note what would be compiled."""
    def listed(table: dict[Any, Any]) -> str:
        return repr(sorted(table.items(), key=repr))

    kind = (src.fn.fn.__name__, listed(src.signature), listed(src.constants), listed(src.attrs), repr(options))
    COMPILED.append((HERE.device, *kind))
    return Compiled(src.fn.fn.__name__, kind)


class Driver:
    """A driver of two H100s."""

    def __init__(self, streams: int = 1000) -> None:
        self.streams = streams

    def get_current_device(self) -> int:
        return HERE.device

    def get_current_stream(self, device: int) -> int:
        return self.streams + device

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


compiler.compile = compile_note
driver.set_active(Driver())
