"""A driver that tells Triton Paddle's device and stream, for launches of Paddle tensors only.

Triton asks one object of the process, ``triton.runtime.driver.active``, for the device, the stream and the
compute capability, and its own answers are torch's. Making another object active is process-wide, while a
process may hold tensors of both frameworks and launch from several threads. So the object made active here
(`Dispatcher`) decides by thread: between entering and leaving `Launching`, questions asked *on that thread*
are answered from Paddle, and all others go, untouched, to whatever was active before. Where nothing was, they
go to Triton's default, made only when somebody asks, for making it imports torch.

A kernel compiled and loaded under one of the two answers serves the other, too. Triton keeps loaded kernels
by device index; a loaded kernel belongs to a CUDA context, and both frameworks run on the device's primary
one (see `detsample.frameworks.cuda_context`); both count devices as CUDA does in this process, so index and
capability mean the same; and launcher and loader are Triton's own in both cases.

What cannot be helped: another thread that calls ``set_active`` between our making ours active and Triton's
asking it sends that one launch elsewhere. Triton has no lock for this.
"""

from __future__ import annotations

import logging
import threading
from functools import cache
from types import TracebackType
from typing import Any

import paddle
from triton.backends.nvidia.driver import CudaDriver, CudaLauncher, CudaUtils
from triton.runtime import driver as triton_driver

from detsample.frameworks.cuda_context import Current


class _Thread(threading.local):
    """The GPU that this thread is launching Paddle's work on, or None."""

    index: int | None = None


_thread = _Thread()


class PaddleDriver(CudaDriver):
    """Triton's CUDA driver, as seen between entering and leaving `Launching`.

    What it overrides is all that Triton 3.3 to 3.9 take from torch in order to compile and launch; the
    target, for one, is made from these by ``CudaDriver``.
    """

    def __init__(self) -> None:
        # Not the constructors above: they import torch (3.3, 3.6), or take what they find of it (3.9).
        self.utils = CudaUtils()
        self.launcher_cls = CudaLauncher

    def get_current_device(self) -> int | None:
        """Return the device of the tensors, not Paddle's current one."""
        return _thread.index

    def get_current_stream(self, device: int) -> int:
        """Return Paddle's stream as it is now, in a ``stream_guard`` or a graph's capture, too."""
        return int(paddle.device.cuda.current_stream(device).cuda_stream)

    def get_device_capability(self, device: int) -> tuple[int, int]:
        """Return the compute capability, like (9, 0)."""
        major, minor = paddle.device.cuda.get_device_capability(device)
        return major, minor

    def set_current_device(self, device: int) -> None:
        """Refuse another device than that of the tensors."""
        if device != _thread.index:
            raise ValueError(
                f"device must be {_thread.index}, that of the tensors being launched on, got {device}"
            )


@cache
def _paddle_driver() -> PaddleDriver:
    return PaddleDriver()


class Dispatcher:
    """The active driver: Paddle's on a thread inside `Launching`, elsewhere the one that was active before.

    It forwards every attribute, read or written, and has none of its own; so whatever a version of Triton
    asks a driver for, or somebody patches on the active one, is asked of or patched on the right one.

    Parameters
    ----------
    previous : object or None
        The driver active until now; None for Triton's default, where nobody has needed it yet.
    """

    __slots__ = ("_previous",)

    def __init__(self, previous: object | None) -> None:
        object.__setattr__(self, "_previous", previous)

    def __getattr__(self, name: str) -> Any:
        return getattr(_answering(self), name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(_answering(self), name, value)

    def __repr__(self) -> str:
        return f"Dispatcher({object.__getattribute__(self, '_previous')!r})"


def _answering(dispatcher: Dispatcher) -> Any:
    """Return the driver that answers on this thread now."""
    if _thread.index is not None:
        return _paddle_driver()
    previous = object.__getattribute__(dispatcher, "_previous")
    return triton_driver.default if previous is None else previous


def _active() -> Any:
    """Return the active driver without having Triton make its default one."""
    state = vars(triton_driver)
    for name in ("_active", "active"):  # of 3.6 and 3.9, where None stands for the default; of 3.3
        if name in state:
            return state[name]
    return triton_driver.active


def make_active() -> None:
    """Make a `Dispatcher` active unless one is: the first time, and after somebody else's ``set_active``.

    A dispatcher never changes and never wraps another. Whoever keeps the active driver and sets it again
    later therefore gets back what it had.
    """
    active = _active()
    if type(active) is not Dispatcher:
        triton_driver.set_active(Dispatcher(active))
        logging.getLogger("detsample").info(
            "Triton's active driver answers from Paddle where detsample launches for its tensors; other threads and "
            "other launches are asked about as before (docs/installing.md)"
        )


class Launching:
    """A context manager inside which this thread launches on Paddle's current stream of a GPU.

    Parameters
    ----------
    index : int
        The device of the tensors, which need not be Paddle's current one.
    """

    __slots__ = ("_current", "_index", "_outer")

    def __init__(self, index: int) -> None:
        self._index = index
        self._current = Current(index)
        self._outer: int | None = None

    def __enter__(self) -> None:
        make_active()
        self._current.__enter__()
        self._outer = _thread.index
        _thread.index = self._index

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        _thread.index = self._outer
        self._current.__exit__(kind, value, trace)
