"""A GPU and the framework that owns its memory, for commands that were given arrays."""

from __future__ import annotations

import argparse
import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from detsample.cli.failure import Failure


@dataclass(frozen=True)
class Gpu:
    """A framework that reaches a GPU from this process."""

    name: str
    tensor: Callable[..., Any]
    """A copy of an array on the GPU, perhaps (``dtype=``) in another floating type that holds its values exactly."""


def paddle() -> Gpu:
    """Paddle, or ImportError; types are converted on the host, so that no kernel of Paddle's takes part."""
    import paddle

    if not paddle.device.is_compiled_with_cuda() or paddle.device.cuda.device_count() == 0:
        raise ImportError("this Paddle reaches no GPU")

    def tensor(array: np.ndarray, dtype: str | None = None) -> Any:
        if dtype == "bfloat16":  # Paddle takes uint16 for its bits
            array = (np.ascontiguousarray(array, np.float32).view(np.uint32) >> 16).astype(np.uint16)
        elif dtype is not None:
            array = array.astype(dtype)
        return paddle.to_tensor(np.ascontiguousarray(array), place=paddle.CUDAPlace(0))

    return Gpu(f"Paddle {paddle.__version__}", tensor)


def torch() -> Gpu:
    """torch, or ImportError."""
    import torch

    if not torch.cuda.is_available():
        raise ImportError("this torch reaches no GPU")

    def tensor(array: np.ndarray, dtype: str | None = None) -> Any:
        moved = torch.from_numpy(np.require(array, requirements=["C", "W"])).to("cuda:0")
        return moved if dtype is None else moved.to(getattr(torch, dtype))

    return Gpu(f"torch {torch.__version__}", tensor)


def add_device(parser: argparse.ArgumentParser) -> None:
    """The argument of `mover`."""
    parser.add_argument("--device", choices=["cpu", "gpu"], default="cpu", help="where to draw: the same bits")


def mover(options: argparse.Namespace) -> Callable[..., Any]:
    """What moves arrays to where --device says."""
    return require().tensor if options.device == "gpu" else lambda array, dtype=None: np.ascontiguousarray(array)


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
    for framework in (paddle, torch):
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
