"""A GPU and the framework that owns its memory, for commands that were given arrays."""

from __future__ import annotations

import ctypes
from typing import Any, Protocol

import numpy as np

from detsample.cli.failure import Failure


class Gpu(Protocol):
    """A framework that reaches a GPU from this process."""

    name: str

    def tensor(self, array: np.ndarray, dtype: str | None = None) -> Any:
        """A copy of an array on the GPU, perhaps in another floating type that holds its values exactly."""


class Paddle:
    """Paddle; types are converted on the host, so that no kernel of Paddle's takes part."""

    def __init__(self) -> None:
        import paddle

        if not paddle.device.is_compiled_with_cuda() or paddle.device.cuda.device_count() == 0:
            raise ImportError("this Paddle reaches no GPU")
        self.name = f"Paddle {paddle.__version__}"
        self._paddle = paddle

    def tensor(self, array: np.ndarray, dtype: str | None = None) -> Any:
        """See `Gpu`."""
        if dtype == "bfloat16":  # Paddle takes uint16 for its bits
            array = (np.ascontiguousarray(array, np.float32).view(np.uint32) >> 16).astype(np.uint16)
        elif dtype is not None:
            array = array.astype(dtype)
        return self._paddle.to_tensor(np.ascontiguousarray(array), place=self._paddle.CUDAPlace(0))


class Torch:
    """torch."""

    def __init__(self) -> None:
        import torch

        if not torch.cuda.is_available():
            raise ImportError("this torch reaches no GPU")
        self.name = f"torch {torch.__version__}"
        self._torch = torch

    def tensor(self, array: np.ndarray, dtype: str | None = None) -> Any:
        """See `Gpu`."""
        writable = np.require(array, requirements=["C", "W"])
        moved = self._torch.from_numpy(writable).to("cuda:0")
        return moved if dtype is None else moved.to(getattr(self._torch, dtype))


def driver_sees_one() -> bool:
    """Whether the CUDA driver is here and has a device for this process; imports no framework."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0


def find() -> Gpu | None:
    """The GPU through Paddle or, where that reaches none, through torch; None where neither does."""
    if not driver_sees_one():
        return None
    for framework in (Paddle, Torch):
        try:
            return framework()
        except ImportError:
            continue
    return None


def require() -> Gpu:
    """The GPU, or a failure that says what is missing."""
    found = find()
    if found is None:
        lacking = "Paddle or torch, built for GPUs" if driver_sees_one() else "an NVIDIA GPU and its driver"
        raise Failure(f"--device gpu needs {lacking}")
    return found
