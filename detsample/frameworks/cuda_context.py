"""Makes a GPU current for the calling thread, and afterwards puts back what was there.

Triton launches into the CUDA context that is current on the thread. A framework's own switch is not a good
way to choose it: ``paddle.device.set_device`` also changes the default place of every tensor made later, and
in no version does Paddle offer a guard that puts the CUDA device back. Paddle and torch each carry a CUDA
runtime of their own, too, but both run on the device's one *primary* context, and the driver library that
every runtime calls is one. So the primary context is pushed on the thread's stack of contexts, and popped:
the caller's device, or its having none yet, is back exactly, for every runtime in the process.
"""

from __future__ import annotations

import ctypes
import threading
from functools import cache
from types import TracebackType


class CudaError(RuntimeError):
    """The CUDA driver refused a call."""


@cache
def _driver() -> ctypes.PyDLL:
    """Load the CUDA driver. PyDLL keeps the interpreter's lock, because giving it away would take longer than these
    calls.
    """
    driver = ctypes.PyDLL("libcuda.so.1")
    driver.cuCtxPushCurrent_v2.argtypes = [ctypes.c_void_p]
    driver.cuCtxPopCurrent_v2.argtypes = [ctypes.c_void_p]
    _check(driver.cuInit(0), "cuInit")
    return driver


def _check(code: int, call: str) -> None:
    if code:
        raise CudaError(f"{call} failed with CUresult {code}")


@cache
def _primary_context(index: int) -> ctypes.c_void_p:
    """Return a device's primary context; kept for the life of the process, as the runtimes keep it."""
    context = ctypes.c_void_p()
    _check(_driver().cuDevicePrimaryCtxRetain(ctypes.byref(context), index), "cuDevicePrimaryCtxRetain")
    return context


class _Thread(threading.local):
    """The GPU that a `Current` made current on this thread, or None."""

    index: int | None = None


_thread = _Thread()


def is_current(index: int) -> bool:
    """Whether the innermost `Current` that this thread is inside is of this GPU."""
    return _thread.index == index


class Current:
    """A context manager inside which GPU ``index`` is current for the calling thread.

    Parameters
    ----------
    index : int
        The device, as CUDA counts them in this process.
    """

    __slots__ = ("_index", "_outer")

    def __init__(self, index: int) -> None:
        self._index = index
        self._outer: int | None = None

    def __enter__(self) -> None:
        _check(_driver().cuCtxPushCurrent_v2(_primary_context(self._index)), "cuCtxPushCurrent")
        self._outer, _thread.index = _thread.index, self._index

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        _thread.index = self._outer
        _check(_driver().cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p())), "cuCtxPopCurrent")
