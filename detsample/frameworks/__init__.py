"""What detsample needs from the framework that owns a tensor: one small set of functions for each framework.

A kernel gets addresses, shapes and strides and knows of no framework. What differs between Paddle, torch and NumPy is
here. The adapter is chosen by the class of the tensor and imported when first needed, so importing this package imports
none of them, and a process that has only one of them never looks for the others.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from importlib import import_module
from typing import Any, Protocol, cast

import numpy as np

from detsample.frameworks.buffer import Buffer
from detsample.frameworks.pointer import Argument, Pointer

Device = tuple[str, int]
"""``("gpu", index)`` or ``("cpu", 0)``. There always is an index, so that equal devices are the same device."""


class UnusableTensor(TypeError):
    """A tensor whose memory neither a kernel nor an array could read.

    The message does not have the argument's name. The caller, who knows it, puts it in front.
    """


Description = tuple[tuple[int, ...], str, Device, tuple[int, ...], Pointer | None]
"""What a call needs to know of each of its tensors. Asking an adapter once is quicker than asking five times."""


class Framework(Protocol):
    """What an adapter provides. Adapters are modules, so ``self`` is not passed.

    Attributes
    ----------
    name : str
        ``"numpy"``, ``"torch"`` or ``"paddle"``.
    """

    @property
    def name(self) -> str:
        """Name of the framework."""

    def is_tensor(self, x: object) -> bool:
        """Whether ``x`` is a tensor of this framework, and not a dtype or a shape of it."""

    def shape(self, x: Any) -> tuple[int, ...]:
        """Return the shape of ``x``."""

    def strides(self, x: Any) -> tuple[int, ...]:
        """Return the strides of ``x`` in elements. They mean nothing if ``x`` is empty."""

    def dtype_name(self, x: Any) -> str:
        """Return the element type by its NumPy name: ``"float32"``, ``"bfloat16"``, ``"int64"``..."""

    def device(self, x: Any) -> Device:
        """Return where the elements of ``x`` are."""

    def describe(self, x: Any) -> Description:
        """Return the shape, the element type, the device, the strides and, of a tensor on a GPU, the argument.

        Raises
        ------
        UnusableTensor
            If there is no strided memory behind ``x`` on a GPU or on the host, or it holds other numbers than ``x``.
        """

    def on_gpu(self, x: Any) -> bool:
        """Whether the elements of ``x`` are in a GPU's memory."""

    def empty(self, shape: tuple[int, ...], dtype_name: str, device: Device) -> Any:
        """Return a new tensor, contiguous and not initialised."""

    def buffer(self, x: Any) -> Buffer:
        """Return ``x`` as a kernel argument: a ``HostBuffer`` where ``x`` is on the host."""

    def argument(self, x: Any) -> Argument:
        """Return ``x`` as `detsample.launching` takes it: a ``Pointer`` on a GPU, a ``HostBuffer`` on the host."""

    def as_array(self, x: Any) -> np.ndarray:
        """Return a host tensor as an array, sharing its memory; bfloat16 as the exact float32, a copy."""

    def from_array(self, a: np.ndarray, device: Device) -> Any:
        """Return an array as a host tensor, perhaps sharing its memory; ``device`` must be the CPU."""

    def fetch(self, x: Any) -> np.ndarray:
        """Copy ``x`` to the host, after everything queued on the current stream; bfloat16 as float32."""

    def launching(self, device: Device) -> AbstractContextManager[object]:
        """Inside this context, Triton launches on ``device``, on the framework's current stream there."""

    def frees_behind_stream(self, device: Device) -> bool:
        """Whether memory may be released while the stream that it was allocated on still uses it."""

    def multiprocessor_count(self, device: Device) -> int:
        """Return the number of multiprocessors of a GPU; 1 for the CPU, where programs run in turn."""

    def compute_capability(self, device: Device) -> int:
        """Return the compute capability of a GPU, 90 for 9.0; 0 for the CPU."""

    def gpu_count(self) -> int:
        """Return how many GPUs the framework finds."""


_MODULES = {
    "numpy": "detsample.frameworks.numpy_arrays",
    "torch": "detsample.frameworks.torch_tensors",
    "paddle": "detsample.frameworks.paddle_tensors",
}

_STATIC = ("paddle.base.libpaddle.pir.Value", "paddle.base.framework.Variable")

# Which framework a class belongs to depends on nothing but the class. Only the frameworks' own classes are here: those
# live as long as the process, while a caller's may be many, and would never be freed.
_BY_CLASS: dict[type, Framework] = {}


def named(name: str) -> Framework:
    """Return the framework of a name.

    Raises
    ------
    ValueError
        If there is none of that name.
    ImportError
        If it is not installed.
    """
    if name not in _MODULES:
        raise ValueError(f"framework must be one of {', '.join(_MODULES)}, got {name!r}")
    return cast(Framework, import_module(_MODULES[name]))


def of(tensor: object, name: str = "tensor") -> Framework:
    """Return the framework that ``tensor`` belongs to.

    Parameters
    ----------
    tensor : object
        A tensor of Paddle or torch, or a NumPy array; of a subclass, too.
    name : str
        The argument's name, for the message of the error.

    Raises
    ------
    TypeError
        If it is none of these.
    """
    return _BY_CLASS.get(type(tensor)) or _find(tensor, name)


def _find(tensor: object, name: str) -> Framework:
    """Import the adapter for a class that is not known, by its bases, for a subclass may be from anywhere."""
    kind = f"{type(tensor).__module__}.{type(tensor).__qualname__}"
    if kind in _STATIC:
        raise TypeError(
            f"{name} must be a tensor with numbers, got {kind}, a variable of a graph that Paddle builds: "
            "call detsample outside of it, or use paddle.jit.to_static(full_graph=False)"
        )
    for base in type(tensor).__mro__:
        module = _MODULES.get(base.__module__.partition(".")[0])
        if module is not None:
            framework = cast(Framework, import_module(module))
            if framework.is_tensor(tensor):
                if base is type(tensor):
                    _BY_CLASS[base] = framework
                return framework
    raise TypeError(f"{name} must be a Paddle tensor, a torch tensor or a NumPy array, got {kind}")
