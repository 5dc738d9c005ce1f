"""Makes the keys of kernels in Triton's cache on the disk independent of what the process compiled before.

Triton keys a kernel by its source, the source of the functions that it calls, and the constants that these mention. Up
to 3.6 at least it gathers the constants of a function that is called only if that function was hashed before: a process
that compiles kernels in another order then finds nothing of what is in the cache (on an H100, with Triton 3.6: a
warmup whose own processes had compiled all there is compiled nearly all of it again, one after the other).
"""

from __future__ import annotations

from typing import Any

from triton.runtime.jit import JITFunction


def settle(kernel: Any) -> None:
    """Hash the functions that a kernel calls before the kernel, and those that they call before them.

    Parameters
    ----------
    kernel
        A kernel that is about to be compiled for the first time. In Triton's interpreter there is nothing to hash.
    """
    if not isinstance(kernel, JITFunction) or kernel.hash is not None:
        return
    for name in kernel.fn.__code__.co_names:
        settle(kernel.fn.__globals__.get(name))
    assert kernel.cache_key  # Triton makes it when it is asked for
