"""The adapters: all against one contract, and each with the other framework blocked from import."""

from __future__ import annotations

import gc
import importlib.util
import threading
from pathlib import Path
from typing import Any

import kernel_path
import numpy as np
import pytest
from own_process import KERNELS, run

import detsample
from detsample import frameworks, rollout
from detsample.frameworks import bfloat16
from detsample.frameworks.buffer import Buffer, HostBuffer

CPU = ("cpu", 0)
NAMES = ("numpy", "torch", "paddle")
DTYPES = ("float32", "float16", "float64", "int32", "int64", "uint8", "bool")


def adapter(name: str) -> Any:
    """Import an adapter, or skip saying which framework is missing."""
    pytest.importorskip(name, reason=f"{name} is not installed: its adapter is not tested here")
    module = {"numpy": "numpy_arrays", "torch": "torch_tensors", "paddle": "paddle_tensors"}[name]
    return importlib.import_module(f"detsample.frameworks.{module}")


@pytest.fixture(params=NAMES)
def framework(request: pytest.FixtureRequest) -> Any:
    return adapter(request.param)


def tensor_of(framework: Any, array: np.ndarray) -> Any:
    """Make a tensor by the framework's own means, not by the adapter's."""
    if framework.name == "torch":
        import torch

        return torch.tensor(array)
    if framework.name == "paddle":
        import paddle

        return paddle.to_tensor(array, place=paddle.CPUPlace())
    return array.copy()


def bfloat16_of(framework: Any, bits: np.ndarray) -> Any:
    """Make a tensor of bfloat16 from its bits."""
    if framework.name == "torch":
        import torch

        return torch.tensor(bits.view(np.int16)).view(torch.bfloat16)
    if framework.name == "paddle":
        return tensor_of(framework, bits)  # Paddle takes uint16 to be bfloat16
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed: NumPy has no bfloat16")
    return bits.view(ml_dtypes.bfloat16)


def test_importing_the_package_imports_no_framework(tmp_path: Path) -> None:
    """Catches an import of torch, Paddle or Triton at the top of the package, which a user of another one has to wait
    for or does not have.
    """
    body = """
import detsample.frameworks.buffer, detsample.frameworks
assert not {"torch", "paddle", "triton"} & set(sys.modules)
"""
    run(tmp_path, body, interpret=False)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_tensor_is_described_and_shares_its_memory(framework: Any, dtype: str) -> None:
    """Catches an adapter that misnames a shape, a stride, a type or a device, that copies where it should share, or
    whose fetched copy is still the tensor's memory.
    """
    array = np.arange(12).reshape(3, 4).astype(dtype)
    x = tensor_of(framework, array)
    assert frameworks.of(x) is framework
    assert framework.is_tensor(x)
    assert framework.shape(x) == (3, 4)
    assert framework.strides(x) == (4, 1)
    assert framework.dtype_name(x) == dtype
    assert framework.device(x) == CPU
    assert framework.on_gpu(x) is False
    view = framework.as_array(x)
    assert view.dtype == array.dtype
    assert (view == array).all()
    view[1, 2] = 0
    assert (framework.as_array(x) == view).all(), "as_array must not copy"
    copy = framework.fetch(x)
    copy[0, 0] = 1
    assert not np.shares_memory(copy, view)


@pytest.mark.parametrize("cut", [np.s_[:, 1:], np.s_[1:2], np.s_[:, ::2], np.s_[1], np.s_[2, 3], np.s_[3:]])
def test_views_have_their_own_start_and_strides(framework: Any, cut: Any) -> None:
    """Catches an adapter that describes a view by its base: the wrong first element, or the strides of the whole."""
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    x = tensor_of(framework, array)[cut]
    if framework.name == "numpy":
        x = np.asarray(x)
    expected = np.asarray(array[cut])
    assert framework.shape(x) == expected.shape
    assert (framework.as_array(x) == expected).all()
    assert (framework.fetch(x) == expected).all()
    if expected.size > 1:
        assert framework.strides(x) == tuple(step // 4 for step in expected.strides)
        assert framework.buffer(x).data_ptr() == framework.as_array(x).__array_interface__["data"][0]


@pytest.mark.parametrize("shape", [(), (0,), (0, 4), (3, 0), (1, 1, 1)])
def test_tensors_of_any_rank_and_empty_ones(framework: Any, shape: tuple[int, ...]) -> None:
    """Catches an adapter that fails on scalars or tensors without elements, or allocates another shape or type."""
    x = framework.empty(shape, "int64", CPU)
    assert framework.shape(x) == shape
    assert framework.dtype_name(x) == "int64"
    assert framework.device(x) == CPU
    assert framework.as_array(x).shape == framework.fetch(x).shape == shape
    assert len(framework.strides(x)) == len(shape)
    assert isinstance(framework.buffer(x).data_ptr(), int)
    y = framework.from_array(np.full(shape, 7, np.int32), CPU)
    assert framework.shape(y) == shape
    assert (framework.as_array(y) == 7).all()


def test_bfloat16_is_widened_exactly(framework: Any) -> None:
    """Catches bfloat16 that is rounded, flushed or read as integers on its way to an array."""
    bits = np.concatenate([np.arange(0, 0x7F81, 5), np.arange(0x8000, 0xFF81, 3)]).astype(np.uint16)
    x = bfloat16_of(framework, bits)
    assert framework.dtype_name(x) == framework.buffer(x).dtype == "bfloat16"
    for wide in (framework.as_array(x), framework.fetch(x), framework.as_array(x[::1])):
        assert wide.dtype == np.float32
        assert (wide.view(np.uint32) == bits.astype(np.uint32) << 16).all()


def test_the_widening_keeps_every_pattern() -> None:
    """Catches one of the 65,536 bfloat16 patterns, NaNs and subnormals included, being changed by the widening."""
    bits = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16)
    assert (bfloat16.to_float32(bits).view(np.uint32) >> 16 == bits).all()


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12, dtype=np.int64).reshape(3, 4).T,
        np.arange(6, dtype=np.float32)[::-1],
        np.broadcast_to(np.float32(2), (3, 2)),
        np.array([True, False]),
        np.array(2.5),
    ],
    ids=["transposed", "reversed", "read-only", "bool", "rank 0"],
)
def test_arrays_become_tensors(framework: Any, array: np.ndarray) -> None:
    """Catches arrays that are transposed, reversed, read-only, bool or of rank 0 being refused or reordered on their
    way to a tensor.
    """
    x = framework.from_array(array, CPU)
    assert framework.is_tensor(x)
    assert framework.device(x) == CPU
    assert framework.dtype_name(x) == array.dtype.name
    assert (framework.as_array(x) == array).all()


def test_the_cpu_needs_no_setting_up(framework: Any) -> None:
    """Catches a launch context of the CPU that asks for a GPU or cannot be entered twice."""
    context = framework.launching(CPU)
    with context, context:
        pass
    assert framework.multiprocessor_count(CPU) == 1
    assert framework.compute_capability(CPU) == 0


def test_a_host_tensor_is_a_host_buffer_that_keeps_it_alive(framework: Any) -> None:
    """Catches memory on the host that is given away while a buffer or an array still shows it, or a buffer on a copy.
    """
    x = tensor_of(framework, np.arange(1000, dtype=np.float32))
    buffer = framework.buffer(x)
    assert isinstance(buffer, HostBuffer)
    view = framework.as_array(x)
    del x
    scratch = [tensor_of(framework, np.full(1000, -1, np.float32)) for _ in range(50)]
    assert (view == np.arange(1000)).all()
    assert buffer.data_ptr() == view.__array_interface__["data"][0]
    del scratch


@pytest.mark.parametrize("thing", [[1.0], 3, None, "x", np.float32(1), np.dtype("int8"), object()])
def test_anything_else_is_refused_by_name(thing: object) -> None:
    """Catches a list, a number or a dtype taken for a tensor, or refused without the name of the argument."""
    with pytest.raises(
        TypeError, match="logits must be a Paddle tensor, a torch tensor or a NumPy array, got"
    ):
        frameworks.of(thing, "logits")


def test_what_only_comes_from_a_framework_is_refused() -> None:
    """Catches a choice by module name alone: torch's dtypes, sizes and devices are of torch and no tensors."""
    torch = pytest.importorskip("torch")
    for thing in (torch.float32, torch.Size([2]), torch.device("cpu")):
        with pytest.raises(TypeError, match="got torch"):
            frameworks.of(thing)


def test_subclasses_belong_to_the_framework_of_their_base() -> None:
    """Catches a subclass of an array that is refused, or that gets out of the adapter with its own arithmetic."""

    class Mine(np.ndarray):
        pass

    x = np.zeros(3, np.float32).view(Mine)
    assert frameworks.of(x).name == "numpy"
    assert type(frameworks.of(x).as_array(x)) is np.ndarray


def test_arrays_of_the_other_byte_order_are_read() -> None:
    """Catches big-endian arrays whose bytes are taken as they lie, by the reference or by a kernel."""
    numpy = adapter("numpy")
    x = np.arange(3, dtype=">f4")
    assert numpy.as_array(x).dtype.isnative
    assert (numpy.as_array(x) == x).all()
    with pytest.raises(TypeError, match="native byte order"):
        numpy.buffer(x)


def test_only_the_cpu_takes_arrays(framework: Any) -> None:
    """Catches an array that is silently left on the host where a GPU was asked for."""
    with pytest.raises(ValueError, match=r"device must be \('cpu', 0\), got \('gpu', 0\)"):
        framework.from_array(np.zeros(2), ("gpu", 0))


def test_torch_parameters_and_gradients() -> None:
    """Catches parameters and tensors that require gradients being refused or copied, and tensors without memory (meta)
    being taken.
    """
    torch_tensors = adapter("torch")
    import torch

    for x in (torch.nn.Parameter(torch.ones(3)), torch.ones(3, requires_grad=True) * 1):
        assert frameworks.of(x) is torch_tensors
        assert torch_tensors.buffer(x).data_ptr() == x.data_ptr()
        assert (torch_tensors.as_array(x) == 1).all()
        assert (torch_tensors.fetch(x) == 1).all()
    with pytest.raises(TypeError, match="on meta"):
        torch_tensors.device(torch.empty(2, device="meta"))


def test_torch_makes_another_device_current_and_leaves_its_own_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a launch on the caller's device in place of the tensor's, a device that is not put back after an error,
    and a switch that costs time where none is needed.
    """
    torch_tensors = adapter("torch")
    import torch

    entered: list[int] = []

    class Guard:
        def __init__(self, index: int) -> None:
            self.index = index

        def __enter__(self) -> None:
            entered.append(self.index)

        def __exit__(self, *_: object) -> None:
            entered.append(-self.index)

    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "device", Guard)
    with torch_tensors.launching(("gpu", 1)):
        assert entered == []
    with pytest.raises(KeyError), torch_tensors.launching(("gpu", 2)):
        raise KeyError
    assert entered == [2, -2]


def test_paddle_parameters_and_the_default_place() -> None:
    """Catches Paddle's parameters and views being refused or copied, and results that track gradients."""
    paddle_tensors = adapter("paddle")
    import paddle

    x = paddle.create_parameter([3], "float32")
    assert frameworks.of(x) is paddle_tensors
    assert paddle_tensors.buffer(x).data_ptr() == x.data_ptr()
    assert (paddle_tensors.fetch(x) == x.numpy()).all()
    assert paddle_tensors.empty((2,), "int32", CPU).stop_gradient
    assert frameworks.of(x.T.T) is paddle_tensors


def test_paddle_for_the_cpu_has_no_gpu() -> None:
    """Catches a Paddle built for the CPU that fails deep inside, or allocates on the host, when a GPU is asked for."""
    paddle_tensors = adapter("paddle")
    import paddle

    if paddle.device.is_compiled_with_cuda():
        pytest.skip("this Paddle is built for GPUs")
    with pytest.raises(ValueError, match="with a Paddle built for the CPU"):
        paddle_tensors.empty((2,), "int32", ("gpu", 0))


INTERPRETED = "from interpreted_add import *\n"
ALONE = {
    "numpy": "check(x, y)",
    "torch": "import torch; check(torch.tensor(x), torch.tensor(y))",
    "paddle": "import paddle; check(paddle.to_tensor(x, place='cpu'), paddle.to_tensor(y, place='cpu'))",
}


@pytest.mark.full("another process with another framework", every=2)
@pytest.mark.parametrize("name", NAMES)
def test_a_framework_does_without_the_others(tmp_path: Path, name: str) -> None:
    """Catches an adapter that imports another framework, on the reference's way in (as_array) or on the kernels'."""
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed: its adapter is not tested here")
    pytest.importorskip("triton", reason="Triton is not installed: no kernel can run")
    others = tuple({"torch", "paddle"} - {name})
    body = KERNELS + INTERPRETED + ALONE[name] + f"\nassert not set({others}) & set(sys.modules)\n"
    run(tmp_path, body, interpret=True, block=others)


@pytest.mark.full("another process with another framework", every=3)
@pytest.mark.parametrize("name", NAMES)
def test_a_framework_describes_its_tensors_without_triton(tmp_path: Path, name: str) -> None:
    """Catches an adapter that imports Triton, without which the reference must still take and give its tensors."""
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed: its adapter is not tested here")
    make = {
        "numpy": "x = np.ones((2, 3))",
        "torch": "import torch; x = torch.ones(2, 3, dtype=torch.float64)",
        "paddle": "import paddle; x = paddle.to_tensor(np.ones((2, 3)), place=paddle.CPUPlace())",
    }[name]
    body = f"""
import numpy as np
from detsample import frameworks
{make}
framework = frameworks.of(x)
with framework.launching(framework.device(x)):
    out = framework.from_array(framework.as_array(x).sum(1), framework.device(x))
assert framework.fetch(out).tolist() == [3, 3]
"""
    # torch imports Triton for its own ends where it finds it
    run(tmp_path, body, interpret=False, block=("triton",))


def test_both_frameworks_in_one_process_and_several_threads(tmp_path: Path) -> None:
    """Catches state that the adapters share: a tensor of one framework handled by the other's adapter."""
    for name in ("torch", "paddle"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed: the two are not tested together here")
    body = """
import threading
import numpy as np
import paddle
import torch
from detsample import frameworks

wrong = []


def work(name, make, seed):
    for step in range(200):
        array = np.full((3, 5), seed * 1000 + step)
        x = make(array)
        framework = frameworks.of(x)
        y = framework.from_array(framework.as_array(x) + 1, framework.device(x))
        if framework.name != name or (framework.fetch(y) != array + 1).any():
            wrong.append((name, seed, step))


makers = {"torch": torch.tensor, "paddle": lambda a: paddle.to_tensor(a, place="cpu"), "numpy": np.array}
threads = [threading.Thread(target=work, args=(n, makers[n], i)) for i, n in enumerate([*makers] * 2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not wrong, wrong[:5]
"""
    run(tmp_path, body, interpret=False)


def test_the_first_look_at_a_class_may_come_from_many_threads_at_once() -> None:
    """Catches a race in the table of known classes: a thread that finds an entry half made."""
    classes = [type("Mine", (np.ndarray,), {}) for _ in range(50)]
    found: list[str] = []

    def look() -> None:
        found.extend(frameworks.of(np.zeros(1).view(kind)).name for kind in classes)

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["numpy"] * 200


@pytest.mark.gpu
def test_torch_on_a_gpu() -> None:
    """Catches torch's CUDA tensors taken for host memory, views at the wrong address, and results allocated elsewhere.
    """
    torch_tensors = adapter("torch")
    import torch

    if not torch.cuda.is_available():
        pytest.skip("torch finds no GPU")
    x = torch.arange(12, dtype=torch.float32, device="cuda").reshape(3, 4)[:, 1:]
    assert torch_tensors.device(x) == ("gpu", torch.cuda.current_device())
    assert torch_tensors.on_gpu(x)
    assert torch_tensors.strides(x) == (4, 1)
    buffer = torch_tensors.buffer(x)
    assert type(buffer) is Buffer
    assert (buffer.data_ptr(), buffer.dtype) == (x.data_ptr(), "float32")
    assert torch_tensors.fetch(x).tolist() == [[1, 2, 3], [5, 6, 7], [9, 10, 11]]
    assert torch_tensors.fetch(x.to(torch.bfloat16)).tolist() == [[1, 2, 3], [5, 6, 7], [9, 10, 11]]
    assert torch_tensors.empty((2,), "int64", torch_tensors.device(x)).device == x.device
    count = torch.cuda.get_device_properties(0).multi_processor_count
    assert torch_tensors.multiprocessor_count(("gpu", 0)) == count
    assert divmod(torch_tensors.compute_capability(("gpu", 0)), 10) == torch.cuda.get_device_capability(0)
    with pytest.raises(TypeError, match="must be on the CPU here"):
        torch_tensors.as_array(x)


@pytest.mark.gpu
def test_paddle_on_a_gpu() -> None:
    """Catches Paddle's GPU tensors misdescribed, copied from the wrong view, or allocated at the default place instead
    of the device asked for.
    """
    paddle_tensors = adapter("paddle")
    import paddle

    if not paddle.device.is_compiled_with_cuda() or paddle.device.cuda.device_count() == 0:
        pytest.skip("Paddle finds no GPU")
    gpu = ("gpu", 0)
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    x = paddle.to_tensor(array, place=paddle.CUDAPlace(0))
    assert paddle_tensors.device(x) == gpu
    assert paddle_tensors.on_gpu(x)
    for view, expected in ((x, array), (x[:, 1:], array[:, 1:]), (x.T, array.T), (x[2], array[2])):
        assert paddle_tensors.shape(view) == expected.shape
        assert paddle_tensors.strides(view) == tuple(step // 4 for step in expected.strides)
        assert (paddle_tensors.fetch(view) == expected).all()
    assert paddle_tensors.buffer(x[:, 1:]).data_ptr() == x.data_ptr() + 4
    bits = np.array([0x3F80, 0xC040], np.uint16)
    assert paddle_tensors.fetch(paddle.to_tensor(bits, place=paddle.CUDAPlace(0))).tolist() == [1, -3]
    paddle.device.set_device("cpu")  # the device asked for decides, not the default place
    try:
        y = paddle_tensors.empty((0, 3), "int64", gpu)
        z = paddle_tensors.empty((2, 3), "float64", gpu)
    finally:
        paddle.device.set_device("gpu:0")
    assert (paddle_tensors.device(z), paddle_tensors.shape(y)) == (gpu, (0, 3))
    assert paddle_tensors.buffer(y).data_ptr() == 0
    assert paddle_tensors.multiprocessor_count(gpu) > 1
    assert divmod(paddle_tensors.compute_capability(gpu), 10) == paddle.device.cuda.get_device_capability(0)
    with pytest.raises(TypeError, match="must be on the CPU here"):
        paddle_tensors.as_array(x)


@pytest.mark.parametrize("name", ["numpy", "torch", "paddle"])
def test_one_look_says_what_five_say(name: str) -> None:
    """Catches a description that differs from what is asked one by one, and a pointer to memory that no GPU has."""
    framework = adapter(name)
    for array in (np.zeros((2, 3), np.float32), np.zeros((4,), np.int64), np.zeros((), np.float64)):
        x = framework.from_array(array, ("cpu", 0))
        asked = (framework.shape(x), framework.dtype_name(x), framework.device(x), framework.strides(x), None)
        assert framework.describe(x) == asked
        assert framework.argument(x).data_ptr() == framework.buffer(x).data_ptr()
    assert frameworks.named(name) is framework
    assert framework.gpu_count() >= 0


def reachable(value: Any, found: dict[int, Any] | None = None) -> dict[int, Any]:
    """By its id whatever an output of ours holds, and what that holds."""
    found = {} if found is None else found
    ours = isinstance(value, (tuple, list, dict)) or type(value).__module__.startswith("detsample.")
    if id(value) not in found:
        found[id(value)] = value
        for held in gc.get_referents(value) if ours and not isinstance(value, type) else ():
            reachable(held, found)
    return found


LOGITS, SEEDS = np.linspace(-1, 1, 80, dtype=np.float32).reshape(2, 40), np.array([1, 2])
CHAIN = (LOGITS[None], np.array([[3]]), np.array([1]), np.array([7]))
CALLS: dict[str, Any] = {
    "sample": lambda: detsample.sample(LOGITS, SEEDS, top_p=0.9),
    "sample without logprobs": lambda: detsample.sample(LOGITS, SEEDS, top_k=3, return_logprobs=False),
    "sample with a mask": lambda: detsample.sample(LOGITS, SEEDS, top_p=0.9, return_log_z=True, return_mask="csr"),
    "mask": lambda: detsample.mask(LOGITS, top_p=0.9),
    "mask as bits": lambda: detsample.mask(LOGITS, top_k=3, kind="bits", return_log_z=True),
    "margin": lambda: detsample.margin(LOGITS, SEEDS, top_k=3),
    "rollout.draw": lambda: rollout.draw(LOGITS, SEEDS, top_k=3, top_n=2),
    "rollout.observe": lambda: rollout.observe(LOGITS, SEEDS, np.full((2, 2), -1, np.int32)),
    "verify": lambda: detsample.speculative.verify(*CHAIN, position=np.array([5]), temperature=np.float32([0.5])),
    "verify by rejection": lambda: detsample.speculative.verify(
        *CHAIN, position=5, method="rejection", draft_logits=LOGITS[None, :1], return_logprobs=False
    ),
    "verify_tree": lambda: detsample.speculative.verify_tree(
        LOGITS[None], np.array([[3, 4]]), np.array([[-1, 0]]), CHAIN[3], position=5, return_logprobs=False
    ),
}


@pytest.mark.full("more calls in the interpreter", every=3)
@pytest.mark.parametrize("frees", [True, False])
@pytest.mark.parametrize("name", CALLS)
def test_working_memory_lives_as_long_as_it_may_be_used(
    frees: bool, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches memory let go under Paddle while kernels on another stream still write to it: working memory, and results
    that the caller did not ask for.
    """
    pytest.importorskip("triton", reason="Triton is not installed: no kernel runs")
    from detsample.frameworks import numpy_arrays
    from detsample.sampler import run

    if kernel_path.GPU:
        pytest.skip("arrays are for the interpreter")
    kernel_path.prepare_interpreter()  # which has an `empty` of its own
    made: list[np.ndarray] = []
    empty = numpy_arrays.empty

    def noted(shape: tuple[int, ...], dtype: str, device: Any) -> np.ndarray:
        made.append(empty(shape, dtype, device))
        return made[-1]

    monkeypatch.setattr(numpy_arrays, "frees_behind_stream", lambda device: frees)
    monkeypatch.setattr(run, "_module", lambda package, kind: importlib.import_module(f"{package}.on_gpu"))
    monkeypatch.setattr(numpy_arrays, "empty", noted)
    held = reachable(CALLS[name]())
    lost = [array for array in made if id(array) not in held]
    assert len(made) >= 3
    # A GPU's memory that its framework frees behind the stream need not be held.
    assert [(array.dtype.name, array.shape) for array in lost if not frees] == []
    assert bool(lost) == frees
