"""What all adapters do in the same way for the CPU."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

CPU = ("cpu", 0)

# Nothing to set up where Triton's interpreter or NumPy does the work. A nullcontext holds no state, so that
# one can be entered by any number of threads.
NOTHING: AbstractContextManager[object] = nullcontext()


def require_cpu(device: tuple[str, int]) -> None:
    """Raise unless ``device`` is the CPU."""
    if device != CPU:
        raise ValueError(f"device must be {CPU}, got {device}")
