"""Launches a kernel that was launched before, without Triton's search for the compiled kernel.

`kernel[grid](...)` costs the host dozens of microseconds: Triton binds the arguments to names, works out what each of
them is compiled for, makes a key of that, and compares every constant that the kernel's source mentions with its value
at the time of compilation. Here only the first launch of a kind is Triton's own. The compiled and loaded kernel that it
returns is kept, and later launches of the same kind start it directly, as Triton would in the end.

Launches are of the same kind if nothing differs that a compiled and loaded kernel depends on: the driver that is
active, its current device, the kernel, the options and compile-time arguments, and the classes of the arguments, of
which `pointer` has one for each thing that Triton tells apart. That suffices for kernels that specialise on no
integer's value; others are not kept.

If Triton would do more at a launch than launch, the launch is left to Triton: if a launch hook is set, if a debugger or
an instrumentation is on, in its interpreter, and if the installed version of Triton is not known here.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from operator import itemgetter
from typing import Any, NamedTuple

import triton
from triton.compiler import CompiledKernel
from triton.runtime import driver as triton_driver
from triton.runtime.jit import JITFunction

from detsample.frameworks import Device
from detsample.frameworks.buffer import Buffer
from detsample.frameworks.pointer import Pointer, Wide, integer, pointer
from detsample.launching.cache_keys import settle
from detsample.launching.launchers import FIRST, LAST, VERSION, Start, start_of

Launch = Callable[..., object]
"""``launch(kernel, grid, *arguments, **options)``: as ``kernel[grid](*arguments, **options)``."""

Take = Callable[[Sequence[Any]], tuple[Any, ...]]


class Step:
    """A kernel with its options: one launch in a sequence whose launches share their values. Steps are compared by
    identity.

    Parameters
    ----------
    kernel : JITFunction
        To be launched.
    overlaps : bool
        Whether its programs may start before the kernel ahead in the stream has ended, for whose results they wait
        themselves; where the launch is Triton's own they do not. It is compiled alike either way.
    **options
        Its compile-time arguments and Triton's options.
    """

    __slots__ = ("kernel", "options", "overlaps")

    def __init__(self, kernel: Any, overlaps: bool = False, **options: Any) -> None:
        self.kernel = kernel
        self.overlaps = overlaps
        self.options = options

    def take(self, names: Names) -> Take:
        """Return a function that picks the kernel's arguments, by their names, out of the values of the sequence."""
        wanted = [name for name in self.kernel.arg_names if name not in self.options]
        return itemgetter(*(names.order.index(name) for name in wanted))


class Names:
    """The names of the values of a sequence, in order. Like `Step`, it is compared by identity.

    Parameters
    ----------
    looked_at : sequence of str
        The values whose classes are looked at in every call.
    sure : dict
        For each of the others, which follow, its class: that of a small integer, int, or that of a pointer, which is
        given as a plain int.
    """

    __slots__ = ("looked_at", "order", "sure")

    def __init__(self, looked_at: Sequence[str], sure: dict[str, type]) -> None:
        self.order = (*looked_at, *sure)
        self.looked_at = len(looked_at)
        self.sure = tuple(sure.values())

    def classed(self, values: Sequence[Any]) -> list[Any]:
        """Return the values, each converted to its class: see `pointer`."""
        others = values[self.looked_at :]
        sure = (kind(v) if type(v) is int else v for kind, v in zip(self.sure, others, strict=True))
        return [*values[: self.looked_at], *sure]


StepLaunch = Callable[[Step, tuple[int, ...]], object]
"""``launch(step, grid)``."""


class Loaded(NamedTuple):
    """A compiled kernel on its device, and what it was compiled for."""

    types: list[type]
    """The classes of the arguments that are passed by position."""
    start: Start
    constants: tuple[Any, ...]
    """The compile-time arguments, which follow those in the kernel's signature."""
    alive: tuple[object, object]
    """The kernel and the compiled kernel, which must be kept because it unloads itself when nothing refers to it any
    more.
    """


# A plain tuple, which Python takes apart sooner than a named one: what takes a step's arguments out of the values, the
# three of `Start`, the constants, and what is to be kept alive.
Ready = dict[Step, tuple[Take, Callable[..., object], tuple[Any, ...], bool, tuple[Any, ...], object]]
Kinds = dict[tuple[Any, ...], list[Loaded]]

# What is loaded depends on the driver that was active and its device, and then on the kernel, its options and the
# classes of its arguments; which step starts what, on that driver, that device and the classes of the named values.
_LOADED: dict[tuple[object, int], Kinds] = {}
_STEPS: dict[tuple[object, ...], Ready] = {}


def launcher(device: Device) -> Launch:
    """Return the function that launches kernels. It is valid now and on this thread only, so ask for it anew in every
    call.

    Parameters
    ----------
    device : Device
        The device of the tensors. Call this inside the framework's ``launching(device)``, where Triton's driver knows
        device and stream.

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
    kinds = _LOADED.setdefault((driver, index), {})

    def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
        loaded = _find(kinds, kernel, list(map(type, arguments)), options)
        if loaded is None:
            _launch_first(kinds, kernel, grid, arguments, options)
        else:
            _start(loaded, grid, stream, arguments)

    return launch


def step_launcher(device: Device, names: Names, values: list[Any]) -> StepLaunch:
    """Return the function that launches the steps of a sequence. It is quicker than that of `launcher`, which looks at
    all arguments.

    Parameters
    ----------
    device : Device
        As for `launcher`.
    names : Names
        The same object in every call.
    values : list
        One for each name. A step takes those that its kernel has arguments for. Values whose class `names` gives may be
        replaced between launches.

    Returns
    -------
    StepLaunch
        It takes a step and a grid.
    """
    if device[0] == "cpu" or not _launches_alone():
        return lambda step, grid: ordinary(step.kernel, grid, *step.take(names)(names.classed(values)), **step.options)
    driver = triton_driver.active
    index = driver.get_current_device()
    stream = driver.get_current_stream(index)
    key = (driver, index, names, *map(type, values[: names.looked_at]))
    steps = _STEPS.get(key)
    if steps is None:
        steps = _STEPS.setdefault(key, {})

    def launch(step: Step, grid: tuple[int, ...]) -> None:
        found = steps.get(step)
        if found is None or step.kernel.pre_run_hooks:
            kinds = _LOADED.setdefault((driver, index), {})
            _launch_first_step(kinds, steps, names, step, grid, values)
        else:
            take, call, head, packs, constants, _ = found
            if packs:
                call(*grid, *_ONES[len(grid)], stream, *head, take(values) + constants)
            else:
                call(*grid, *_ONES[len(grid)], stream, *head, *take(values), *constants)

    return launch


def _start(loaded: Loaded, grid: tuple[int, ...], stream: int, arguments: tuple[Any, ...]) -> None:
    start = loaded.start
    if start.packs:
        start.call(*grid, *_ONES[len(grid)], stream, *start.head, arguments + loaded.constants)
    else:
        start.call(*grid, *_ONES[len(grid)], stream, *start.head, *arguments, *loaded.constants)


_ONES = ((1, 1, 1), (1, 1), (1,), ())
"""For a grid with n numbers, entry n has the ones that make it three numbers."""


def _find(kinds: Kinds, kernel: Any, types: list[type], options: dict[str, Any]) -> Loaded | None:
    for loaded in kinds.get(_key(kernel, options), ()):
        if loaded.types == types and not kernel.pre_run_hooks:
            return loaded
    return None


def _key(kernel: Any, options: dict[str, Any]) -> tuple[Any, ...]:
    """A key for a kernel and its options. It uses the kernel's id, because Triton hashes a kernel by its source, which
    is slow. No other kernel gets that id while `Loaded` keeps this one.
    """
    return (id(kernel), *options, *options.values())


def _launch_first(
    kinds: Kinds, kernel: Any, grid: tuple[int, ...], arguments: Sequence[Any], options: dict[str, Any]
) -> Loaded | None:
    """Launch as Triton does. Return the compiled kernel for later launches, or None if it must not be kept."""
    types = [type(_known_type(argument)) for argument in arguments]
    compiled = ordinary(kernel, grid, *arguments, **options)
    if not _can_be_kept(kernel, compiled, types, options):
        return None
    constants = tuple(options[parameter.name] for parameter in kernel.params[len(types) :])
    loaded = Loaded(types, start_of(compiled), constants, (kernel, compiled))
    known = kinds.setdefault(_key(kernel, options), [])
    if not any(other.types == types for other in known):
        known.append(loaded)
    return loaded


def _launch_first_step(
    kinds: Kinds,
    steps: Ready,
    names: Names,
    step: Step,
    grid: tuple[int, ...],
    values: Sequence[Any],
) -> None:
    take = step.take(names)
    arguments = take(names.classed(values))
    loaded = _launch_first(kinds, step.kernel, grid, arguments, step.options)
    if loaded is not None and loaded.types == list(map(type, arguments)):
        _, compiled = loaded.alive
        steps[step] = (take, *start_of(compiled, step.overlaps), loaded.constants, loaded.alive)


def ordinary(kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> Any:
    """Launch as Triton does. Return the compiled kernel, or None in the interpreter."""
    settle(kernel)
    for_triton = map(_for_triton, arguments)
    if _THREAD.only_compiles:
        return kernel.warmup(*for_triton, grid=grid, **options)
    return kernel[grid](*for_triton, **options)


class _Thread(threading.local):
    only_compiles = False


_THREAD = _Thread()


@contextmanager
def compiling_only() -> Iterator[None]:
    """Inside this context, the launches of this thread compile their kernels, if Triton's hooks allow it, and start
    none of them.
    """
    before, _THREAD.only_compiles = _THREAD.only_compiles, True
    try:
        yield
    finally:
        _THREAD.only_compiles = before


def only_compiles() -> bool:
    """Whether launches of this thread start no kernel. Then results must not be read."""
    return _THREAD.only_compiles


def _for_triton(argument: Any) -> Any:
    """An argument as Triton's own launch takes it."""
    if isinstance(argument, Pointer):
        return Buffer(int(argument), argument.dtype, None)
    return int(argument) if isinstance(argument, Wide) else argument


def _known_type(argument: Any) -> Any:
    """An argument, converted to the class that says what it is."""
    if type(argument) is Buffer:
        return pointer(argument.data_ptr(), argument.dtype)
    return integer(argument) if type(argument) is int else argument


def _launches_alone() -> bool:
    """Whether Triton would only launch at a launch, and do nothing else."""
    if _THREAD.only_compiles or not FIRST <= VERSION <= LAST:
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
    except AttributeError:  # unlike any version that is known here
        return False


def _is_hook(hook: Any) -> bool:
    """Whether a hook is set. Since Triton 3.5 a hook is a chain, which may be empty."""
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
