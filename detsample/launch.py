"""Launching a kernel that was launched before, without what Triton does to find out that it was.

`kernel[grid](...)` costs the host dozens of microseconds: Triton binds the arguments to names, works out what each of
them is compiled for, makes a key of that, and compares every constant that the kernel's source mentions with its value
at the time of compilation. Here the first launch of a kind is Triton's own; what it returns, the compiled and loaded
kernel, is kept, and later launches of the same kind start it as Triton does in the end.

Launches are of the same kind if nothing differs that a compiled and loaded kernel depends on: the driver that is
active, its current device, the kernel, the options and compile-time arguments, and the classes of the arguments, of
which `detsample.pointer` has one for each thing that Triton tells apart. That suffices for kernels that specialise on
no integer's value; others are not kept.

Whatever else Triton would do at a launch, Triton does: where a launch hook is set, a debugger or an instrumentation is
on, in its interpreter, and where the installed Triton is not of a known shape, every launch is the ordinary one.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import triton
from triton.compiler import CompiledKernel
from triton.runtime import driver as triton_driver
from triton.runtime.jit import JITFunction

from detsample.buffer import Buffer
from detsample.frameworks import Device
from detsample.launchers import FIRST, LAST, VERSION, Start, start_of
from detsample.pointer import Pointer, Wide, integer, pointer

Launch = Callable[..., object]
"""``launch(kernel, grid, *arguments, **options)``: as ``kernel[grid](*arguments, **options)``."""

class Loaded(NamedTuple):
    """A compiled kernel on its device, and what it was compiled for."""

    types: list[type]
    """The classes of the arguments that are passed by position."""
    start: Start
    constants: tuple[Any, ...]
    """The compile-time arguments, which follow those in the kernel's signature."""
    alive: tuple[object, object]
    """The kernel and the compiled one, which unloads itself when nobody has it any more."""


Kinds = dict[tuple[Any, ...], list[Loaded]]

# What is loaded depends on the driver that was active and its device, and then on the key: see `launcher`.
_LOADED: dict[tuple[object, int], Kinds] = {}


def launcher(device: Device) -> Launch:
    """Return the function that launches kernels, now and on this thread: ask for it anew in every call.

    Parameters
    ----------
    device : Device
        Of the tensors. Inside the framework's ``launching(device)``, where Triton's driver knows device and stream.

    Returns
    -------
    Launch
        It takes a kernel, a grid of up to three numbers, the arguments up to the compile-time ones by position, and the
        compile-time ones and Triton's options by name. An integer that may be beyond 32 bits comes from
        `pointer.integer`; memory as `Framework.argument` gives it.
    """
    if device[0] == "cpu" or not _launches_alone():
        return ordinary
    driver = triton_driver.active
    index = driver.get_current_device()
    stream = driver.get_current_stream(index)
    kinds = _LOADED.get((driver, index))
    if kinds is None:
        kinds = _LOADED.setdefault((driver, index), {})

    def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> object:
        # Not the kernel itself, which Triton hashes by its source; while `Loaded` has it no other gets its id.
        key = (id(kernel), *options, *options.values())
        types = list(map(type, arguments))
        for loaded in kinds.get(key, ()):
            if loaded.types == types and not kernel.pre_run_hooks:
                (call, head, packs), constants = loaded.start, loaded.constants
                size = (*grid, 1, 1)[:3]
                if packs:
                    return call(*size, stream, *head, (*arguments, *constants))
                return call(*size, stream, *head, *arguments, *constants)
        known = [_known_type(argument) for argument in arguments]
        if list(map(type, known)) != types:
            return launch(kernel, grid, *known, **options)
        compiled = ordinary(kernel, grid, *arguments, **options)
        if _can_be_kept(kernel, compiled, types, options):
            kinds.setdefault(key, []).append(_loaded(kernel, compiled, types, options))
        return None

    return launch


def ordinary(kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> Any:
    """Launch as Triton does; return the compiled kernel, or None where there is none."""
    return kernel[grid](*map(_for_triton, arguments), **options)


def _for_triton(argument: Any) -> Any:
    """An argument as Triton's own launch takes it."""
    if isinstance(argument, Pointer):
        return Buffer(int(argument), argument.dtype, None)
    return int(argument) if isinstance(argument, Wide) else argument


def _known_type(argument: Any) -> Any:
    """An argument with the class that says what it is."""
    if type(argument) is Buffer:
        return pointer(argument.data_ptr(), argument.dtype)
    return integer(argument) if type(argument) is int else argument


def _launches_alone() -> bool:
    """Whether Triton would do nothing at a launch but launch."""
    if not FIRST <= VERSION <= LAST:
        return False
    knobs = getattr(triton, "knobs", None)
    try:
        if knobs is None:  # 3.3
            hooks = (CompiledKernel.launch_enter_hook, CompiledKernel.launch_exit_hook)
            return hooks == (None, None) and os.environ.get("TRITON_DEBUG", "0") != "1"
        runtime = knobs.runtime
        return not (
            _is_hook(runtime.launch_enter_hook)
            or _is_hook(runtime.launch_exit_hook)
            or runtime.debug
            or getattr(runtime, "add_stages_inspection_hook", None)
            or getattr(knobs.compilation, "instrumentation_mode", "")
        )
    except AttributeError:  # not as any version known
        return False


def _is_hook(hook: Any) -> bool:
    """Whether there is something to call; since 3.5 it is a chain, which may be empty."""
    return hook is not None and bool(getattr(hook, "calls", True))


def _can_be_kept(kernel: Any, compiled: Any, types: list[type], options: dict[str, Any]) -> bool:
    """Whether arguments of these classes and these options always lead to this compiled kernel."""
    if not isinstance(kernel, JITFunction) or not isinstance(compiled, CompiledKernel) or kernel.pre_run_hooks:
        return False  # the interpreter; a compilation that is still going on, or that a hook took away
    given, named = kernel.params[: len(types)], kernel.params[len(types) :]
    if any(parameter.is_constexpr for parameter in given) or any(p.name not in options for p in named):
        return False
    by_class = all(issubclass(t, (Pointer, Wide)) or t is int for t in types)
    numbers = (p for p, t in zip(given, types, strict=True) if not issubclass(t, Pointer))
    return by_class and all(p.do_not_specialize for p in numbers) and all(p.is_constexpr for p in named)


def _loaded(kernel: Any, compiled: Any, types: list[type], options: dict[str, Any]) -> Loaded:
    constants = tuple(options[parameter.name] for parameter in kernel.params[len(types) :])
    return Loaded(types, start_of(compiled), constants, (kernel, compiled))
