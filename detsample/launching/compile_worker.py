"""Compiles kernels into Triton's cache on the disk: a process that `detsample.warmup` starts, a few at a time.

It needs no GPU; it is told which one to compile for. Each line that it reads has a kernel and its specialisation, as
Triton serialises it. Each line that it writes says whether the kernel was compiled.
"""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from importlib import import_module
from typing import Any

from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from detsample.launching.cache_keys import settle


class Driver:
    """The part of a Triton driver that is needed to compile."""

    def __init__(self, target: list[Any]) -> None:
        self._target = GPUTarget(*target)

    def get_current_device(self) -> int:
        """Return a device number. Triton uses it only as a key in its tables."""
        return 0

    def get_current_target(self) -> GPUTarget:
        """Return what to compile for."""
        return self._target


def compile_one(line: str) -> str:
    """Compile one kernel; return "ok", or what went wrong."""
    job = json.loads(line)
    driver.set_active(Driver(job["target"]))
    try:
        kernel = getattr(import_module(job["module"]), job["name"])
        settle(kernel)
        compile_launcher(kernel.preload(job["data"]))
    except Exception as error:  # whoever needs the kernel compiles it again, and gets the error where it belongs
        return f"{type(error).__name__}: {error}".replace("\n", " ")
    return "ok"


def compile_launcher(compiled: Any) -> None:
    """Compile the launcher of a kernel, for versions of Triton that have a C file for each signature. Each takes half a
    second.
    """
    from triton.backends.nvidia.driver import CudaLauncher

    with suppress(Exception):  # whoever starts the kernel gets the error
        CudaLauncher(compiled.src, compiled.metadata)


def main() -> None:
    """Serve until there are no more lines."""
    for line in sys.stdin:
        print(compile_one(line), flush=True)


if __name__ == "__main__":
    main()
