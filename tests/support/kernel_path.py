"""The kernels behind the signatures of the reference: arrays in, arrays out, so that one suite tests both.

Where there is a GPU, on its tensors (DETSAMPLE_TEST_FRAMEWORK says whose: torch or paddle). Elsewhere in Triton's
interpreter, for which conftest.py sets TRITON_INTERPRET=1 before anybody imports triton: interpreted and compiled
kernels cannot be in one process.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import functools
import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import guarded_memory
import numpy as np

OUTPUTS = ("token_ids", "num_kept", "status", "logprobs", "log_z", "mask")


def _count_gpus() -> int:
    """GPUs that the CUDA driver sees; 0 without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return 0
    return count.value


def _sees_gpu(framework: str) -> bool:
    if importlib.util.find_spec(framework) is None:
        return False
    if framework == "torch":
        import torch

        return bool(torch.cuda.is_available())
    import paddle

    return bool(paddle.device.is_compiled_with_cuda() and paddle.device.cuda.device_count())


def _choose() -> str | None:
    if os.environ.get("TRITON_INTERPRET") == "1" or not _count_gpus():
        return None
    asked = os.environ.get("DETSAMPLE_TEST_FRAMEWORK")
    if asked and not _sees_gpu(asked):
        raise RuntimeError(f"DETSAMPLE_TEST_FRAMEWORK must name a framework that sees the GPU, got {asked!r}")
    return asked or next((name for name in ("torch", "paddle") if _sees_gpu(name)), None)


GPU: str | None = _choose()
"""The framework whose GPU tensors the kernels run on; None: the interpreter."""


# ---- arrays to the kernels and back


def on_device(value: Any) -> Any:
    """An array as a tensor on the GPU, with the array's own strides; without a GPU, or if no array, as it is."""
    if GPU is None or not isinstance(value, np.ndarray):
        return value
    return _torch_tensor(value) if GPU == "torch" else _paddle_tensor(value)


def _memory(array: np.ndarray) -> tuple[np.ndarray, list[int], int]:
    """(flat memory, strides, offset) of an array, in elements: of the array it is a view of, if it is one."""
    base = array
    while isinstance(base.base, np.ndarray) and base.base.dtype == array.dtype:
        base = base.base
    if not base.flags.c_contiguous or array.flags.c_contiguous or min(array.strides, default=0) < 0:
        base = array = np.array(array, order="C")  # ascontiguousarray would make one axis of none
    offset = array.__array_interface__["data"][0] - base.__array_interface__["data"][0]
    return base.reshape(-1), [step // array.itemsize for step in array.strides], offset // array.itemsize


def _torch_tensor(array: np.ndarray) -> Any:
    import torch

    flat, strides, offset = _memory(array)
    flat = flat if flat.flags.writeable else flat.copy()
    if flat.dtype.name == "bfloat16":
        tensor = torch.from_numpy(flat.view(np.int16)).cuda().view(torch.bfloat16)
    else:
        tensor = torch.from_numpy(flat).cuda()
    return torch.as_strided(tensor, array.shape, strides, offset)


def _paddle_tensor(array: np.ndarray) -> Any:
    import paddle

    flat, strides, offset = _memory(array)
    bits = flat.view(np.uint16) if flat.dtype.name == "bfloat16" else flat  # uint16 is Paddle's name for bfloat16
    place = paddle.CUDAPlace(0)
    if array.flags.c_contiguous or 0 in array.shape:
        return paddle.to_tensor(bits.reshape(array.shape), place=place)
    tensor, away = paddle.to_tensor(bits, place=place), offset * array.itemsize
    for start in (away, offset):  # bytes or elements: Paddle's versions differ, its documentation does not say
        view = paddle.as_strided(tensor, list(array.shape), strides, start)
        if view.data_ptr() == tensor.data_ptr() + away:
            return view
    raise RuntimeError(f"paddle.as_strided must reach offset {offset} of {array.dtype}, got neither way to it")


def to_array(value: Any) -> Any:
    """A tensor of any framework, or a `Csr` or an output of such, as arrays."""
    from detsample import frameworks

    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value) if not field.name.startswith("_")]
        return dataclasses.replace(value, **{name: to_array(getattr(value, name)) for name in names})
    if value is None or isinstance(value, (int, np.ndarray)):
        return value
    return frameworks.of(value).fetch(value)


# ---- the reference's signatures


def sample(
    logits: np.ndarray,
    topp_seed: Any,
    *,
    position: Any = 0,
    temperature: Any = 1.0,
    top_k: Any = 0,
    top_p: Any = 1.0,
    min_p: Any = 0.0,
    filter_order: str = "top_k_first",
    allowed: np.ndarray | None = None,
    return_logprobs: bool = True,
    return_log_z: bool = False,
    return_mask: str | None = None,
    return_num_kept: bool = True,
    check: bool = False,
    tuning: Any = None,
) -> Any:
    """`reference.sample` by the kernels; `tuning` is an `engine.Tuning`."""
    parameters = (topp_seed, position, temperature, top_k, top_p, min_p, filter_order)
    wanted = (True, return_logprobs, return_log_z, return_mask, return_num_kept)
    return _run(logits, allowed, parameters, wanted, check, tuning)


def mask(
    logits: np.ndarray,
    *,
    temperature: Any = 1.0,
    top_k: Any = 0,
    top_p: Any = 1.0,
    min_p: Any = 0.0,
    filter_order: str = "top_k_first",
    allowed: np.ndarray | None = None,
    kind: str = "bool",
    return_log_z: bool = False,
    check: bool = False,
    tuning: Any = None,
) -> Any:
    """`reference.mask` by the kernels."""
    from detsample.sampler.output import MaskOutput

    parameters = (0, 0, temperature, top_k, top_p, min_p, filter_order)
    out = _run(logits, allowed, parameters, (False, False, return_log_z, kind), check, tuning)
    return MaskOutput(out.mask, out.num_kept, out.status, out.log_z)


def _run(
    logits: np.ndarray, allowed: Any, parameters: tuple[Any, ...], wanted: tuple[Any, ...], check: bool, tuning: Any
) -> Any:
    from detsample import frameworks
    from detsample.sampler import on_gpu as engine
    from detsample.sampler.output import Wanted
    from detsample.sampler.parameters import read_allowed, read_logits, read_parameters
    from detsample.sampler.status import raise_for_status

    prepare_interpreter()
    tensor = on_device(logits)
    framework = frameworks.of(tensor, "logits")
    read = read_allowed(read_logits(tensor, framework), on_device(allowed))
    given = read_parameters(read, *map(on_device, parameters))
    prepared = engine.prepare(read, given, Wanted(*wanted), tuning or engine.tuning_for(read.rows))
    out = engine.launch(prepared, prepared.values[0])
    if check:
        raise_for_status(out.status)
    return to_array(out)


def margin(
    logits: np.ndarray,
    topp_seed: Any,
    *,
    position: Any = 0,
    temperature: Any = 1.0,
    top_k: Any = 0,
    top_p: Any = 1.0,
    min_p: Any = 0.0,
    filter_order: str = "top_k_first",
    tuning: tuple[int, int] | None = None,
) -> np.ndarray:
    """`reference.margin(...).margin` by the kernel; `tuning` is (span, bits) of `inspect.on_gpu.launch`.

    In the interpreter the tokens come from the reference, and fewer and larger steps save its time.
    """
    from detsample import frameworks, reference
    from detsample.inspect import on_gpu
    from detsample.sampler.parameters import read_logits, read_parameters

    prepare_interpreter()
    tensor, filters = on_device(logits), (position, temperature, top_k, top_p, min_p, filter_order)
    framework = frameworks.of(tensor, "logits")
    read = read_logits(tensor, framework)
    given = read_parameters(read, *map(on_device, (topp_seed, *filters)))
    names = ("position", "temperature", "top_k", "top_p", "min_p", "filter_order")
    drawn = (sample if GPU else reference.sample)(logits, topp_seed, **dict(zip(names, filters, strict=True)))
    if tuning is None:
        span = 1 << max(4, min(10, (logits.shape[1] - 1).bit_length()))
        tuning = (on_gpu.SPAN, on_gpu.BITS) if GPU else (span, 8)
    found = on_gpu.launch(read, given, on_device(drawn.token_ids), on_device(drawn.status), *tuning)
    return to_array(found)


def gumbel_noise(topp_seed: Any, position: Any, token_ids: np.ndarray) -> np.ndarray:
    """`reference.gumbel_noise` by the kernels; `token_ids` is an array."""
    from detsample import frameworks
    from detsample.noise import arguments, on_gpu

    prepare_interpreter()
    tokens = on_device(token_ids)
    asked = arguments.read_noise(frameworks.of(tokens), on_device(topp_seed), on_device(position), tokens)
    return to_array(on_gpu.gumbel_noise(asked))


def fold_in(topp_seed: Any, i: Any) -> np.ndarray:
    """`reference.fold_in` by the kernels; at least one of the two is an array."""
    from detsample import frameworks
    from detsample.noise import arguments, on_gpu

    prepare_interpreter()
    given = [on_device(topp_seed), on_device(i)]
    tensor = given[0] if isinstance(topp_seed, np.ndarray) else given[1]
    framework = frameworks.of(tensor)
    return to_array(on_gpu.fold_in(arguments.read_seeds(framework, framework.device(tensor), *given)))


# ---- comparing outputs


def bits(value: np.ndarray) -> np.ndarray:
    """Floats as the integers they are made of: NaN equals NaN, and -0 is not 0."""
    return value.view({4: np.int32, 8: np.int64}[value.itemsize]) if value.dtype.kind == "f" else value


def assert_same(found: Any, expected: Any, context: object = "") -> None:
    """All outputs equal as bits, of equal types and shapes; the message names the first rows that differ."""
    for name in OUTPUTS:
        one, other = getattr(found, name, None), getattr(expected, name, None)
        if hasattr(one, "row_offsets"):
            one, other = (np.append(csr.row_offsets, csr.token_ids) for csr in (one, other))
        if one is None or other is None:
            assert one is other, f"{name}: {one} against {other}"
            continue
        assert (one.dtype, one.shape) == (other.dtype, other.shape), f"{name}: {one.dtype}{one.shape}"
        rows = np.unique(np.nonzero(bits(one) != bits(other))[0])[:5]
        assert not rows.size, f"{name} of rows {rows}: {one[rows]} against {other[rows]}; {context}"


def only_rows(parameters: dict[str, Any], rows: Any) -> dict[str, Any]:
    """The parameters of some of the rows."""
    return {name: value[rows] if np.ndim(value) else value for name, value in parameters.items()}


# ---- compiling on all processors (GPU only)


def compile_beforehand(calls: Sequence[Callable[[], Any]]) -> int:
    """Compile what calls will need and say how many kernels that is. The calls are made, without the kernels that are
    not yet compiled: each must have none of its own that is, or only such as read nothing of the others' as an address.
    """
    from detsample.sampler import warmup as warming

    jobs = warming.compilations(calls)
    warming.compile_jobs(jobs, os.cpu_count() or 1)
    return len(jobs)


# ---- which kernel finished a row (interpreter only)


@contextlib.contextmanager
def records_kept() -> Iterator[list[np.ndarray]]:
    """Inside, each call appends its rows' records, which later kernels still change."""
    from detsample.kernels.sampling.rows import RECORD
    from detsample.sampler import on_gpu as engine

    found: list[np.ndarray] = []
    addresses = engine.addresses

    def allocate_and_keep(*arguments: Any) -> Any:
        areas = addresses(*arguments)
        found.append(areas["records"]._owner.reshape(-1, int(RECORD.value)))
        return areas

    engine.addresses = allocate_and_keep
    try:
        yield found
    finally:
        engine.addresses = addresses


@contextlib.contextmanager
def left_to_finish() -> Iterator[list[np.ndarray]]:
    """Inside, each call appends an array that says of which of its rows `settle` left the draw to `finish`."""
    from detsample.kernels.sampling.rows import DRAWN, MODE, PENDING, STATUS
    from detsample.sampler import on_gpu as engine

    found: list[np.ndarray] = []
    step_launcher = engine.step_launcher

    def watched(*arguments: Any) -> Any:
        launch = step_launcher(*arguments)

        def launch_and_look(step: Any, grid: tuple[int, ...]) -> None:
            launch(step, grid)
            if step.kernel is engine.settle_kernel:
                mode, pending = records[-1][:, int(MODE.value)], records[-1][:, int(STATUS.value)] == int(PENDING.value)
                found.append(pending & (mode & int(DRAWN.value) == 0))

        return launch_and_look

    with records_kept() as records:
        engine.step_launcher = watched
        try:
            yield found
        finally:
            engine.step_launcher = step_launcher


# ---- a faster interpreter


@functools.cache
def prepare_interpreter() -> None:
    """Hasten and guard Triton's interpreter, unless the kernels run on a GPU."""
    if GPU is None:
        _hasten_interpreter()
        guarded_memory.guard()


def _hasten_interpreter() -> None:
    """Leave out three things that Triton's interpreter does for nothing; a row then takes a third of the time.

    It patches the language anew for every call of a device function, though it is still patched by the kernel that
    calls it; it computes every 32-bit sum twice, for an overflow check whose outcome it ignores outside debug mode; and
    it makes a table of all types whenever it looks one up.
    Where a version of Triton has neither, nothing is done.
    """
    from triton import language as tl
    from triton.runtime import interpreter

    patch = getattr(interpreter, "_patch_lang", None)
    options = getattr(getattr(interpreter, "interpreter_builder", None), "options", None)
    if patch is None or not hasattr(options, "sanitize_overflow"):
        return
    languages: dict[int, list[Any]] = {}

    def patch_once(function: Any) -> Any:
        names = function.__globals__
        if id(names) not in languages:
            languages[id(names)] = [value for value in names.values() if value is tl or value is tl.core]
        if any(tl.core.is_builtin(language.load) for language in languages[id(names)]):
            patched = patch(function)
            # 3.3 to 3.6 take int() of an array of one number, which NumPy 2.4 refuses.
            tl.tensor.__index__ = lambda tensor: int(tensor.handle.data.item())
            return patched
        scope = getattr(interpreter, "_LangPatchScope", None)
        return scope() if scope else None

    interpreter._patch_lang = patch_once
    interpreter.interpreter_builder.options = dataclasses.replace(options, sanitize_overflow=False)
    look_up = getattr(interpreter, "_get_np_dtype", None)
    numpys: dict[str, Any] = {}

    def looked_up(kind: Any) -> Any:
        if isinstance(kind.scalar, tl.pointer_type):
            return look_up(kind)
        name = kind.scalar.name
        if name not in numpys:
            numpys[name] = look_up(kind)
        return numpys[name]

    if look_up is not None:
        interpreter._get_np_dtype = looked_up
