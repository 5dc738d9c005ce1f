"""How a compiled kernel is started, in the words of each version of Triton.

``CompiledKernel.run`` is an object in Python that adds a few arguments, the same at every launch, and calls a function
in C. Of the versions whose source was read for it, that function is called at once; of the others, `run` is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import triton

VERSION = tuple(int(number) for number in triton.__version__.split(".")[:2])
FIRST, LAST = (3, 3), (3, 9)
"""The versions whose `run` takes what is passed here."""


class Start(NamedTuple):
    """What starts a kernel: ``call(x, y, z, stream, *head, *arguments)``, or with all arguments in one tuple."""

    call: Callable[..., object]
    head: tuple[Any, ...]
    packs: bool


def start_of(compiled: Any, overlaps: bool = False) -> Start:
    """Return what starts a kernel that is compiled and loaded, without hooks and so without metadata for them.

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
    """Whether this is Triton's own launcher, for a kernel that wants no memory of the launcher."""
    from triton.backends.nvidia.driver import CudaLauncher

    wants = ("global_scratch_size", "profile_scratch_size", "gsan_enabled")
    return type(run) is CudaLauncher and not any(getattr(run, name, 0) for name in wants)
