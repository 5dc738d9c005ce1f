"""How each version of Triton starts a compiled kernel.

``CompiledKernel.run`` is a Python object that adds a few arguments, the same at every launch, and calls a function in
C. For the versions whose source was read for this, that function is called directly. For other versions `run` is
called.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import triton

VERSION = tuple(int(number) for number in triton.__version__.split(".")[:2])
FIRST, LAST = (3, 3), (3, 9)
"""The first and the last version whose `run` takes the arguments that are passed here."""


class Start(NamedTuple):
    """How to start a kernel: ``call(x, y, z, stream, *head, *arguments)``, or with all arguments in one tuple."""

    call: Callable[..., object]
    head: tuple[Any, ...]
    packs: bool


def start_of(compiled: Any, overlaps: bool = False) -> Start:
    """Return how to start a compiled and loaded kernel, without hooks, and so without the metadata that hooks need.

    If it `overlaps` its programs start before the kernel ahead in the stream has ended: CUDA's programmatic dependent
    launch, where this version has it.
    """
    run, function, metadata = compiled.run, compiled.function, compiled.packed_metadata
    if _is_simple(run):
        if VERSION == (3, 9):
            flags = (run.launch_cooperative_grid, overlaps or run.launch_pdl)
            described = (run.arg_annotations, run.kernel_signature)
            return Start(run.launch, (function, *flags, metadata, *[None] * 5, *described), True)
        if VERSION == (3, 6):
            flags = (run.launch_cooperative_grid, overlaps or run.launch_pdl)
            return Start(run.launch, (function, *flags, None, None, metadata, None, None, None), False)
        if VERSION == (3, 3):
            return Start(run.launch, (function, run.launch_cooperative_grid, None, metadata, None, None, None), False)
    return Start(run, (function, metadata, None, None, None), False)


def _is_simple(run: Any) -> bool:
    """Whether this is Triton's own launcher, for a kernel that needs no memory from the launcher."""
    from triton.backends.nvidia.driver import CudaLauncher

    wants = ("global_scratch_size", "profile_scratch_size", "gsan_enabled")
    return type(run) is CudaLauncher and not any(getattr(run, name, 0) for name in wants)
