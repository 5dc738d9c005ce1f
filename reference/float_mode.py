"""Makes a call independent of the processor's floating-point mode and NumPy's error state in its thread, and leaves
both as they were.

Libraries set a mode for the whole thread: `torch.set_flush_denormal(True)`, a C library built with ``-ffast-math``,
interval arithmetic that rounds upwards. The contract's steps are those of IEEE 754: to nearest, with subnormal numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np

__all__ = ["is_usual", "unaffected", "usual_mode"]

P = ParamSpec("P")
R = TypeVar("R")

_SMALLEST_NORMAL, _HALF = 2.0**-1022, 0.5
_ONE, _BELOW_HALF_UNIT, _QUARTER_UNIT = 1.0, 2.0**-53, 2.0**-54


def is_usual() -> bool:
    """Whether this thread rounds to the nearest number and keeps subnormal numbers.

    A product that is subnormal is flushed, or is taken for zero by the comparison; a tie goes up, or down.
    """
    return _SMALLEST_NORMAL * _HALF > 0.0 and _ONE + _BELOW_HALF_UNIT == _ONE == _ONE - _QUARTER_UNIT


def usual_mode(function: Callable[P, R]) -> Callable[P, R]:
    """A function that computes in the usual mode, whatever the thread's is, and leaves the thread's as it was.

    Raises
    ------
    FloatingPointError
        If the function is called in an unusual mode, and the system has no way to change it.

    Examples
    --------
    >>> half = usual_mode(lambda x: x / 2)
    >>> half(2.0**-1022) > 0
    True
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if is_usual():
            return function(*args, **kwargs)
        with _usual():
            return function(*args, **kwargs)

    return call


def unaffected(function: Callable[P, R]) -> Callable[P, R]:
    """As `usual_mode`; and NumPy's error state is afterwards what it was, even if an interrupt comes just as
    `numpy.errstate` is entered, when nobody leaves it.
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        before = np.geterr()
        try:
            return function(*args, **kwargs)
        except BaseException:
            np.seterr(**before)
            raise

    return usual_mode(call)


@contextmanager
def _usual() -> Iterator[None]:
    """Sets the usual mode inside this context, and the thread's own again afterwards."""
    get, put, default = _calls()
    before = (_Byte() * 64)()  # a fenv_t is 8 to 32 bytes
    get(before)
    try:
        put(default)
        if not is_usual():
            raise FloatingPointError(_UNUSUAL)
        yield
    finally:
        put(before)


_UNUSUAL = (
    "the thread's floating-point mode must be to round to nearest with subnormal numbers; it is to flush them to zero "
    "or to round elsewhere, and cannot be changed here: torch.set_flush_denormal(False) is the usual remedy"
)


@cache
def _calls() -> tuple[Callable[[Any], int], Callable[[Any], int], Any]:
    """C's ``fegetenv`` and ``fesetenv``, and its ``FE_DFL_ENV``."""
    try:
        import ctypes
        import sys

        # PyDLL keeps the interpreter's lock, because giving it away takes longer than setting a register.
        library = ctypes.PyDLL(None)
        mac = sys.platform == "darwin"
        default: Any = ctypes.byref(_Byte().in_dll(library, "_FE_DFL_ENV")) if mac else ctypes.c_void_p(-1)
        return library.fegetenv, library.fesetenv, default
    except (ImportError, TypeError, OSError, AttributeError, ValueError):
        raise FloatingPointError(_UNUSUAL) from None


def _Byte() -> Any:
    import ctypes

    return ctypes.c_char
