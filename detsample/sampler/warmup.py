"""`warmup`: compiles and loads beforehand everything that later calls launch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import product
from typing import IO, Any, cast

from detsample import frameworks
from detsample.frameworks import Device, Framework
from detsample.frameworks.pointer import pointer
from detsample.sampler.output import Wanted
from detsample.sampler.parameters import (
    INTEGER_TYPES,
    LOGIT_TYPES,
    MASK_KINDS,
    REAL_TYPES,
    SEED_TYPES,
    Logits,
    Parameter,
    Parameters,
    Scalar,
    Vector,
    as_integer,
    read_flag,
)

USUAL = {"topp_seed": 7, "position": 0, "temperature": 1.0, "top_k": 1, "top_p": 1.0, "min_p": 0.0}

Call = Callable[[], object]


def warmup(
    framework: str = "torch",
    index: int = 0,
    *,
    dtypes: Sequence[str] = LOGIT_TYPES,
    masks: Sequence[str] = MASK_KINDS,
    parameters: dict[str, str] | None = None,
    allowed: bool = False,
    processes: int | None = None,
) -> int:
    """Compile and load every kernel that `sample` and `mask` may need on a GPU, so that no later call has to.

    The kernels depend on the element types of the logits and of the parameters that are vectors, on whether all rows
    start on 16 bytes, and on whether there are sets of allowed tokens; on nothing else: not on B, V, strides or the
    value of any parameter. Kernels that are not in
    Triton's cache on the disk are compiled by several processes at once.

    Parameters
    ----------
    framework : "torch" or "paddle"
        The framework of the tensors in later calls.
    index : int
        The GPU, as CUDA counts them in this process. Call it for each GPU that is used.
    dtypes : sequence of str
        Element types of logits: of "float32", "bfloat16" and "float16".
    masks : sequence of str
        Forms of masks that will be asked for: of "bool", "bits" and "csr".
    parameters : dict, optional
        Names of the parameters that will be vectors of another type than float32 and int64, and their types, like
        ``{"top_k": "int32"}``. Numbers, and vectors of float32 or int64, need no mention.
    allowed : bool
        Whether there will be calls with ``allowed``, which have kernels of their own: nearly twice as many in all.
    processes : int, optional
        How many compile at once; None: as many as there are processors, but at most 16. 0: this process does it.

    Returns
    -------
    int
        How many kernels were compiled or taken from Triton's cache on the disk: 0 if all were loaded already.

    Raises
    ------
    TypeError, ValueError
        If the framework finds no such GPU, or an argument is none of those above.
    ImportError
        If the framework is not installed.

    Examples
    --------
    >>> warmup("torch", dtypes=["bfloat16"], masks=[])  # doctest: +SKIP
    9
    """
    adapter = frameworks.named(framework)
    given = parameters or {}
    _check("dtypes", dtypes, LOGIT_TYPES)
    _check("masks", masks, MASK_KINDS)
    _check("parameters", list(given), tuple(USUAL))
    for name, dtype in given.items():
        _check(f"parameters[{name!r}]", [dtype], _types(name))
    if framework == "numpy":
        raise ValueError(f"framework must be 'torch' or 'paddle', got {framework!r}")
    if processes is not None:
        as_integer("processes", processes, 0, 1 << 16)
    gpus = adapter.gpu_count()
    if not gpus:
        raise ValueError(f"framework must find a GPU, {framework} finds none")
    as_integer("index", index, 0, gpus - 1)
    sets = (False, True) if read_flag("allowed", allowed) else (False,)
    calls = list(_calls(adapter, ("gpu", index), dtypes, masks, given, sets))
    jobs = compilations(calls)
    if jobs:
        workers = min(len(jobs), 16, os.cpu_count() or 1) if processes is None else processes
        compile_jobs(jobs, workers)
        for call in calls:  # loads what was compiled, and compiles what could not be
            call()
    return len(jobs)


def _types(name: str) -> tuple[str, ...]:
    if name == "topp_seed":
        return SEED_TYPES
    return REAL_TYPES if type(USUAL[name]) is float else INTEGER_TYPES


def _check(name: str, values: Sequence[str], known: Sequence[str]) -> None:
    if isinstance(values, str):
        raise TypeError(f"{name} must be a sequence of names, got {values!r}")
    for value in values:
        if value not in known:
            raise ValueError(f"{name} must be of {', '.join(known)}, got {value!r}")


def _calls(
    framework: Framework, device: Device, dtypes: Sequence[str], masks: Sequence[str], types: dict[str, str],
    sets: Sequence[bool],
) -> Iterator[Call]:  # fmt: skip
    """Make calls with one small row that launch every kernel. Their memory is not initialised, since any logits will
    do.
    """
    from detsample.sampler import on_gpu

    memory = framework.empty((64,), "int64", device)
    address = framework.argument(memory).data_ptr()
    given: dict[str, Any] = {name: _parameter(name, types, memory, address) for name in USUAL}
    parameters = Parameters(**given)
    bits = Vector(memory, 0, pointer(address, "int32"))
    strides = (32, 17)  # all rows on 16 bytes, or not
    for dtype, row_stride, has_sets, mask in product(dtypes, strides, sets, masks or (None,)):
        at, allowed = pointer(address, dtype), bits if has_sets else None
        logits = Logits(memory, framework, device, 1, 17, row_stride, dtype, at, allowed)
        wanted = Wanted(True, True, True, mask)
        yield lambda logits=logits, wanted=wanted: on_gpu.run(logits, parameters, wanted)  # type: ignore[misc]


def _parameter(name: str, types: dict[str, str], memory: Any, address: int) -> Parameter:
    if name in types:
        return Vector(memory, 0, pointer(address, types[name]))
    return Scalar(USUAL[name])


def compilations(calls: Sequence[Call]) -> list[dict[str, Any]]:
    """Find out what calls would compile, in the form that `compile_worker` takes. The calls are made, but nothing is
    launched, because a kernel without the kernels before it would read memory that nothing has written.
    """
    from triton.runtime import driver

    from detsample.launching.launch import compiling_only

    found: dict[str, dict[str, Any]] = {}
    targets: list[Any] = []
    thread = threading.get_ident()

    def note(**seen: Any) -> bool:
        if threading.get_ident() != thread:
            return False  # a launch of another thread goes on undisturbed
        kernel, data = seen["fn"], seen["compile"]["specialization_data"]
        target = driver.active.get_current_target()
        targets[:] = [target.backend, target.arch, target.warp_size]
        job = {"module": kernel.module, "name": kernel.jit_function.fn.__name__, "data": data, "target": targets}
        found[kernel.module + data] = job
        return True  # do not compile

    with _ONE_AT_A_TIME, _hook(note), compiling_only():
        for call in calls:
            call()
    return list(found.values())


_ONE_AT_A_TIME = threading.Lock()
"""Triton has one such hook for all threads. If two threads each put back what they found, one hook could stay behind.
"""


@contextmanager
def _hook(note: Callable[..., bool]) -> Iterator[None]:
    """Inside this context, Triton asks `note` before it compiles, and then the hook that it asked before."""
    import triton
    from triton.runtime.jit import JITFunction

    owner, name = (triton.knobs.runtime, "jit_cache_hook") if hasattr(triton, "knobs") else (JITFunction, "cache_hook")
    before = getattr(owner, name)
    inside = True

    def first_note(**seen: Any) -> bool:
        return (inside and note(**seen)) or bool(before and before(**seen))

    setattr(owner, name, first_note)
    try:
        yield
    finally:
        inside = False  # another hook that was put in front since then goes on asking this one
        setattr(owner, name, before)


def compile_jobs(jobs: list[dict[str, Any]], workers: int) -> None:
    """Share jobs among processes. If a process cannot be started, or ends, its kernels are compiled later, by whoever
    needs them.
    """
    if not workers or not sys.executable:
        return
    # The longest jobs come first, so that none is left for one process when all others are done.
    queue = iter(sorted(jobs, key=lambda job: LONG.index(job["name"]) if job["name"] in LONG else len(LONG)))
    lock = threading.Lock()

    def work(_: int) -> None:
        with _worker() as ask:
            while True:
                with lock:
                    job = next(queue, None)
                if job is None or not ask(json.dumps(job)):
                    return

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, range(workers)))


LONG = ("settle", "finish", "sum_weights", "summarize")
"""The kernels that take longest to compile, the longest first."""


WORKER = """
import sys
sys.path[:] = filter(None, sys.path)
from detsample.launching.compile_worker import main
main()
"""
"""What a process runs. Python puts the current folder first on its path, as an empty name, and would import a `json.py`
that is there. So this name is removed first. Python's option ``-P``, of 3.11, would do the same."""


@contextmanager
def _worker() -> Iterator[Callable[[str], bool]]:
    """Start a `compile_worker`. Return a function that sends it a line and says whether it answered."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    command = [sys.executable, "-c", WORKER]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    )
    stdin, stdout = cast(IO[str], process.stdin), cast(IO[str], process.stdout)

    def ask(line: str) -> bool:
        try:
            stdin.write(line + "\n")
            stdin.flush()
        except BrokenPipeError:
            return False
        return bool(stdout.readline())

    try:
        yield ask
    finally:
        process.kill()
        process.communicate()
