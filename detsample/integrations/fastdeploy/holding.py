"""Memory that kernels may still be using when a function returns only a part of a call's results.

Paddle hands freed memory out again in the order of the device's default stream. Under ``paddle.device.stream_guard``
that may be while kernels on the other stream still write to it. So the outputs of `detsample.sample` and
`detsample.mask` hold their working memory, but FastDeploy's functions return tensors out of them and drop the rest.
Within a step of a sampler that rest is collected here, and let go when the next step is over. Outside of one nothing
is: there the functions are for the default stream.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_CURRENT: ContextVar[list[Any] | None] = ContextVar("detsample_fastdeploy_held", default=None)
_LAST: ContextVar[list[Any] | None] = ContextVar("detsample_fastdeploy_held_of_the_last_step", default=None)


def hold(output: Any, *read: Any) -> Any:
    """Keep what a call's kernels write, and the tensors that were made for them to read, for as long as the step's
    memory is kept. Returns `output`.
    """
    held = _CURRENT.get()
    if held is not None:
        held += [output._kept_alive, read]
    return output


@contextmanager
def holding() -> Iterator[None]:
    """Collect what `hold` is given, and keep it until the next collection of this thread is over."""
    held: list[Any] = []
    token = _CURRENT.set(held)
    try:
        yield
    finally:
        _CURRENT.reset(token)
        _LAST.set(held)
