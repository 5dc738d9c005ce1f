"""The driver that answers for Paddle inside `Launching` and for whoever was active everywhere else.

Without a GPU, Paddle, CUDA and the loader are stand-ins, and Triton is real: which stream a launch ends up on
is read off the launcher. What needs a GPU is marked so, and runs in processes of its own, where imports can
be blocked.
"""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from own_process import KERNELS, run

from detsample.frameworks import cuda_context

pytest.importorskip("triton", reason="Triton is not installed: there is no driver to stand in for")


def fake_paddle() -> ModuleType:
    """Paddle with eight GPUs of capability 9.x, whose streams are 1000, 1001, ..."""
    paddle: Any = ModuleType("paddle")
    paddle.device = SimpleNamespace(
        cuda=SimpleNamespace(
            current_stream=lambda index: SimpleNamespace(cuda_stream=1000 + index),
            get_device_capability=lambda index: (9, index),
        )
    )
    return paddle


class OtherDriver:
    """The driver of somebody else."""

    launcher_cls = "other launcher"

    def get_current_device(self) -> int:
        return 70

    def get_current_stream(self, device: int) -> int:
        return 7000 + device

    def something_new(self) -> str:
        return "of the other"


class FakeCurrent:
    """What stands for the guard: a stack for each thread."""

    threads = threading.local()

    def __init__(self, index: int) -> None:
        self.index = index

    @classmethod
    def stack(cls) -> list[int]:
        return cls.threads.__dict__.setdefault("stack", [])

    def __enter__(self) -> None:
        if self.index < 0:
            raise cuda_context.CudaError("no such device")
        self.stack().append(self.index)

    def __exit__(self, *_: object) -> None:
        self.stack().pop()


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module with stand-ins for Paddle, CUDA and the loader; Triton's choice of driver is put back."""
    import triton

    state = dict(vars(triton.runtime.driver))
    before = sys.modules.pop("detsample.frameworks.paddle_driver", None)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "paddle", fake_paddle())
        loaded = importlib.import_module("detsample.frameworks.paddle_driver")
    monkeypatch.setattr(loaded, "CudaUtils", lambda: "Triton's utils")
    monkeypatch.setattr(loaded, "CudaLauncher", "Triton's launcher")
    monkeypatch.setattr(loaded, "Current", FakeCurrent)
    yield loaded
    sys.modules.pop("detsample.frameworks.paddle_driver")
    if before is not None:
        sys.modules["detsample.frameworks.paddle_driver"] = before
    vars(triton.runtime.driver).clear()
    vars(triton.runtime.driver).update(state)


def in_a_thread(work: Any) -> None:
    """Run ``work`` on another thread, and raise here what it raises there."""
    errors: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]


def test_inside_the_context_paddle_answers_and_outside_whoever_did_before(module: Any) -> None:
    """Catches launches on Paddle's tensors that go to another framework's device or stream, and a driver that is still
    answered for when they are done.
    """
    config = module.triton_driver
    other = OtherDriver()
    config.set_active(other)
    with module.Launching(3):
        active = config.active
        assert active.get_current_device() == 3
        assert active.get_current_stream(3) == 1003
        assert active.get_device_capability(3) == (9, 3)
        target = active.get_current_target()
        assert (target.backend, target.arch, target.warp_size) == ("cuda", 93, 32)
        assert (active.utils, active.launcher_cls) == ("Triton's utils", "Triton's launcher")
        assert FakeCurrent.stack() == [3]
        active.set_current_device(3)
        with pytest.raises(ValueError, match="device must be 3, that of the tensors"):
            active.set_current_device(4)
    assert FakeCurrent.stack() == []
    assert config.active.get_current_device() == 70
    assert config.active.get_current_stream(5) == 7005
    assert config.active.something_new() == "of the other"
    assert config.active.launcher_cls == "other launcher"
    assert not hasattr(config.active, "nonsense")


def test_nothing_of_torch_is_imported(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a driver that needs torch, as Triton's own does, where only Paddle is installed."""
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it raises now
    with module.Launching(0):
        assert module.triton_driver.active.get_current_target().arch == 90


def test_other_threads_see_nothing_of_it(module: Any) -> None:
    """Catches a launch on one thread that changes the device and the stream of other threads' launches."""
    config = module.triton_driver
    config.set_active(OtherDriver())

    def elsewhere() -> None:
        assert config.active.get_current_device() == 70
        with module.Launching(2):
            assert config.active.get_current_stream(config.active.get_current_device()) == 1002
        assert config.active.get_current_device() == 70

    with module.Launching(1):
        in_a_thread(elsewhere)
        assert config.active.get_current_device() == 1
    in_a_thread(elsewhere)


def test_many_threads_at_once_each_see_their_own(module: Any) -> None:
    """Catches a device kept per process: threads that launch at the same time and see each other's."""
    config = module.triton_driver
    config.set_active(OtherDriver())
    barrier = threading.Barrier(6)
    wrong: list[object] = []

    def work(index: int) -> None:
        barrier.wait()
        for _ in range(500):
            if index % 2:
                with module.Launching(index):
                    seen = config.active.get_current_device()
                    if (seen, config.active.get_current_stream(seen)) != (index, 1000 + index):
                        wrong.append(seen)
            elif config.active.get_current_device() != 70:
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_contexts_nest(module: Any) -> None:
    """Catches an inner launch that leaves the outer one without its device."""
    config = module.triton_driver
    with module.Launching(1):
        with module.Launching(2):
            assert config.active.get_current_device() == 2
        assert config.active.get_current_device() == 1
        assert FakeCurrent.stack() == [1]


def test_an_error_inside_leaves_everything_as_it_was(module: Any) -> None:
    """Catches a failed launch after which the thread stays on Paddle's driver and device."""
    config = module.triton_driver
    config.set_active(OtherDriver())
    with pytest.raises(KeyError), module.Launching(1):
        raise KeyError
    assert config.active.get_current_device() == 70
    assert FakeCurrent.stack() == []


def test_a_device_that_cannot_be_made_current_leaves_everything_as_it_was(module: Any) -> None:
    """Catches a thread marked as launching before its device is current, and never unmarked when CUDA refuses."""
    config = module.triton_driver
    config.set_active(OtherDriver())
    with pytest.raises(cuda_context.CudaError), module.Launching(-1):
        pytest.fail("entered")
    assert config.active.get_current_device() == 70


def test_it_is_made_active_once(module: Any) -> None:
    """Catches a new dispatcher for every launch, each in front of the one before."""
    config = module.triton_driver
    with module.Launching(0):
        first = config.active
    with module.Launching(1):
        assert config.active is first


def test_it_is_made_active_again_after_somebody_else_without_stacking(module: Any) -> None:
    """Catches Paddle's launches going to a driver that was made active since, and dispatchers that forward to one
    another without end.
    """
    config = module.triton_driver
    one, two = OtherDriver(), OtherDriver()
    config.set_active(one)
    with module.Launching(0):
        first = config.active
    config.set_active(two)
    with module.Launching(0):
        assert config.active.get_current_device() == 0
        second = config.active
    assert second is not first
    for dispatcher, previous in ((first, one), (second, two)):
        assert object.__getattribute__(dispatcher, "_previous") is previous
    config.set_active(first)  # somebody puts back what was active earlier, as Triton's own tools do
    with module.Launching(0):
        assert config.active is first
    for _ in range(100):
        config.set_active(config.active)
        with module.Launching(0):
            assert config.active is first


def test_another_driver_made_active_inside_the_context_stays(module: Any) -> None:
    """Catches an exit that puts back the old driver over one that somebody has chosen in the meantime."""
    config = module.triton_driver
    other = OtherDriver()
    with module.Launching(0):
        config.set_active(other)
    assert config.active is other


def test_triton_makes_its_own_driver_only_when_somebody_asks(
    module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches an entry that makes Triton's default driver, which imports torch, or one that makes it more than once."""
    made: list[OtherDriver] = []

    def create() -> OtherDriver:
        made.append(OtherDriver())
        return made[-1]

    monkeypatch.setattr(sys.modules["triton.runtime.driver"], "_create_driver", create)
    config = type(module.triton_driver)()
    monkeypatch.setattr(module, "triton_driver", config)
    with module.Launching(0):
        assert config.active.get_current_device() == 0
    assert not made
    assert config.active.get_current_device() == 70
    assert config.active.get_current_stream(1) == 7001
    assert len(made) == 1
    config.reset_active()
    with module.Launching(0):
        assert config.active.get_current_device() == 0
    assert config.active.get_current_device() == 70
    assert len(made) == 1


def test_what_is_patched_on_the_active_driver_is_patched_on_the_one_behind(module: Any) -> None:
    """Catches a patch of the active driver that sticks to the dispatcher: lost to its owner, and in force for Paddle.
    """
    config = module.triton_driver
    other: Any = OtherDriver()
    config.set_active(other)
    with module.Launching(0):
        pass
    config.active.get_current_device = lambda: 71
    assert other.get_current_device() == 71
    with module.Launching(0):
        assert config.active.get_current_device() == 0


class FakeCuda:
    """libcuda's stack of contexts."""

    def __init__(self) -> None:
        self.stack: list[object] = []
        self.refuse = False

    def cuCtxPushCurrent_v2(self, context: object) -> int:
        if not self.refuse:
            self.stack.append(context)
        return 201 if self.refuse else 0

    def cuCtxPopCurrent_v2(self, popped: object) -> int:
        self.stack.pop()
        return 0


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    monkeypatch.setattr(cuda_context, "_driver", lambda: fake)
    monkeypatch.setattr(cuda_context, "_primary_context", lambda index: f"primary {index}")
    return fake


def test_a_device_is_current_inside_the_guard_only(cuda: FakeCuda) -> None:
    """Catches a CUDA context that stays on the thread's stack after a launch, an error included, or one too many
    popped.
    """
    cuda.stack = ["of the caller"]
    with cuda_context.Current(1), cuda_context.Current(0):
        assert cuda.stack == ["of the caller", "primary 1", "primary 0"]
    assert cuda.stack == ["of the caller"]
    with pytest.raises(KeyError), cuda_context.Current(1):
        raise KeyError
    assert cuda.stack == ["of the caller"]


def test_a_refusal_of_cuda_is_an_error(cuda: FakeCuda) -> None:
    """Catches an error code of the CUDA driver that nobody looks at: the launch would go to another device."""
    cuda.refuse = True
    with pytest.raises(cuda_context.CudaError, match="cuCtxPushCurrent failed with CUresult 201"):
        cuda_context.Current(1).__enter__()
    assert cuda.stack == []


WHOLE = "from fake_paddle_driver import *\n"


def test_launches_go_to_the_stream_of_the_framework_that_owns_the_tensors(tmp_path: Path) -> None:
    """Catches a launch that reads a stale stream or loads a kernel on another device, or a kernel compiled twice
    because two frameworks use it.
    """
    body = """
driver.set_active(Torchs())
first = launch()
with paddle_driver.Launching(0):
    assert launch() is first, "a kernel compiled under one driver serves the other"
    streams.now = 5000
    launch()
with paddle_driver.Launching(1):
    assert launch() is not first
launch()
assert Launcher.calls == [(7000, 2000), (1000, 2000), (5000, 2000), (5001, 2001), (7000, 2000)]
assert Utils.loaded == [("is_zero", 0), ("is_zero", 1)]
assert "torch" not in sys.modules
"""
    run(tmp_path, KERNELS + WHOLE + body, interpret=False, block=("torch",))


def test_launches_from_threads_of_two_frameworks_stay_apart(tmp_path: Path) -> None:
    """Catches a stream or a loaded kernel of one thread's framework used by a launch on another thread."""
    body = """
driver.set_active(Torchs())
launch()
with paddle_driver.Launching(1):
    launch()
mine = threading.local()
Launcher.__call__ = lambda self, x, y, z, stream, function, *args: mine.calls.append((stream, function))
wrong = []


def work(number):
    mine.calls = []
    for step in range(200):
        if number % 2:
            streams.now = number * 10**6 + step
            with paddle_driver.Launching(number % 4 // 2):
                launch()
            expected = number * 10**6 + step + number % 4 // 2, 2000 + number % 4 // 2
        else:
            launch()
            expected = 7000, 2000
        if mine.calls.pop() != expected or mine.calls:
            wrong.append((number, step))


threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not wrong, wrong[:5]
"""
    run(tmp_path, KERNELS + WHOLE + body, interpret=False, block=("torch",))


# From here on with a GPU. Paddle 2.6.2 has no kernels for Hopper and says so by wrong numbers, so inputs are
# made by paddle.to_tensor from arrays, outputs by the adapter, and only Triton computes.

REAL = "from real_paddle import *\n"


@pytest.fixture
def gpu() -> None:
    paddle = pytest.importorskip("paddle", reason="Paddle is not installed")
    if not paddle.device.is_compiled_with_cuda() or paddle.device.cuda.device_count() == 0:
        pytest.skip("Paddle finds no GPU")


def need_torch() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    if not torch.cuda.is_available():
        pytest.skip("torch finds no GPU")


@pytest.mark.gpu
@pytest.mark.usefixtures("gpu")
def test_paddle_tensors_with_torch_blocked(tmp_path: Path) -> None:
    """Catches a way through Paddle's launches that needs torch, a misread element type, and a view at the wrong
    address.
    """
    body = """
for dtype in ("float32", "float64", "float16", "int32", "int64", "uint8"):
    x, y = np.arange(37).astype(dtype), np.full(37, 3, dtype)
    out = added(paddled(x), paddled(y))
    assert paddle_tensors.device(out) == GPU
    assert (paddle_tensors.fetch(out) == x + y).all(), dtype
    wide = np.arange(74).astype(dtype)
    assert (paddle_tensors.fetch(added(paddled(wide)[::2], paddled(y))) == wide[::2] + y).all(), dtype
    assert (paddle_tensors.fetch(added(paddled(wide)[1:38], paddled(y))) == wide[1:38] + y).all(), dtype
bits = np.arange(0, 0x7F80, 997).astype(np.uint16)
out = paddle_tensors.empty(bits.shape, "float32", GPU)
with paddle_tensors.launching(GPU):
    widen[(4,)](paddle_tensors.buffer(paddled(bits)), paddle_tensors.buffer(out), bits.size, BLOCK=16)
assert (paddle_tensors.fetch(out).view(np.uint32) == bits.astype(np.uint32) << 16).all()
assert "torch" not in sys.modules
"""
    run(tmp_path, KERNELS + REAL + body, interpret=False, block=("torch",))


@pytest.mark.gpu
def test_torch_tensors_with_paddle_blocked(tmp_path: Path) -> None:
    """Catches a way through torch's launches that needs Paddle, replaces Triton's driver, or leaves torch's current
    stream.
    """
    need_torch()
    body = """
import torch
from triton.runtime import driver
from detsample import frameworks

x, y = torch.arange(37, device="cuda"), torch.arange(37, device="cuda") * 2**40
out = torch.empty_like(x)
framework = frameworks.of(x)
stream = torch.cuda.Stream()
stream.wait_stream(torch.cuda.current_stream())
with torch.cuda.stream(stream), framework.launching(framework.device(x)):
    assert driver.active.get_current_stream(0) == stream.cuda_stream
    add[(3,)](framework.buffer(x), framework.buffer(y), framework.buffer(out), 1, 37, BLOCK=16)
    assert (framework.fetch(out) == np.arange(37) * (2**40 + 1)).all()
assert type(driver.active).__module__.startswith("triton."), type(driver.active)
assert "detsample.frameworks.paddle_driver" not in sys.modules
"""
    run(tmp_path, KERNELS + body, interpret=False, block=("paddle",))


@pytest.mark.gpu
@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("first", ["torch", "paddle"])
def test_both_frameworks_from_four_threads(tmp_path: Path, first: str) -> None:
    """Catches results or streams that the two frameworks mix up on a GPU, whichever launches first."""
    need_torch()
    body = f"""
import threading
import torch

make = {{"paddle": paddled, "torch": lambda array: torch.tensor(array, device="cuda")}}
wrong = []


def check(name, number, step):
    x, y = np.arange(37) + step, np.arange(37) * 2**33 + number
    a, b = make[name](x), make[name](y)
    out = added(a, b)
    if (frameworks.of(out).fetch(out) != x + y).any():
        wrong.append((name, number, step))


check("{first}", 0, 0)


def work(name, number):
    stream = torch.cuda.Stream() if name == "torch" else None
    with torch.cuda.stream(stream):
        for step in range(300):
            check(name, number, step)
            if name == "torch":
                if driver.active.get_current_stream(0) != torch.cuda.current_stream(0).cuda_stream:
                    wrong.append(("stream", number, step))


names = ["paddle", "torch", "paddle", "torch"]
threads = [threading.Thread(target=work, args=(name, number)) for number, name in enumerate(names)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not wrong, wrong[:5]
"""
    run(tmp_path, KERNELS + REAL + body, interpret=False)


@pytest.mark.gpu
@pytest.mark.usefixtures("gpu")
def test_work_goes_to_paddles_current_stream(tmp_path: Path) -> None:
    """Catches launches that stay on Paddle's usual stream inside a stream guard, or on the guard's stream after it."""
    body = """
usual = paddle.device.cuda.current_stream(0).cuda_stream
x, y = np.arange(1 << 20), np.arange(1 << 20) * 2**20
a, b = paddled(x), paddled(y)
added(a, b)
paddle.device.cuda.synchronize(0)
stream = paddle.device.cuda.Stream()
with paddle.device.cuda.stream_guard(stream):
    with paddle_tensors.launching(GPU):
        assert driver.active.get_current_stream(0) == stream.cuda_stream != usual
    out = added(a, b)
    # fetch waits for this stream, which CUDA's default stream does not wait for
    assert (paddle_tensors.fetch(out) == x + y).all()
with paddle_tensors.launching(GPU):
    assert driver.active.get_current_stream(0) == usual
assert (paddle_tensors.fetch(added(a, b)) == x + y).all()
"""
    run(tmp_path, KERNELS + REAL + body, interpret=False, block=("torch",))


@pytest.mark.gpu
@pytest.mark.usefixtures("gpu")
def test_a_launch_can_be_captured_in_a_graph(tmp_path: Path) -> None:
    """Catches a launch that synchronises, allocates or uses another stream, none of which a capture allows."""
    body = """
from paddle.device.cuda.graphs import CUDAGraph

x = paddled(np.arange(37))
out = paddled(np.zeros(37, np.int64))


def step():
    with paddle_tensors.launching(GPU):
        accumulate[(3,)](paddle_tensors.buffer(x), paddle_tensors.buffer(out), 37, BLOCK=16)


step()  # compiles and loads, which a capture must not do
assert (paddle_tensors.fetch(out) == np.arange(37)).all()
graph = CUDAGraph()
graph.capture_begin()
step()
step()
graph.capture_end()
assert (paddle_tensors.fetch(out) == np.arange(37)).all(), "a capture runs nothing"
for _ in range(3):
    graph.replay()
assert (paddle_tensors.fetch(out) == 7 * np.arange(37)).all()
"""
    run(tmp_path, KERNELS + REAL + body, interpret=False, block=("torch",))


CONTEXT = "from cuda_context_now import *\n"


@pytest.mark.gpu
@pytest.mark.usefixtures("gpu")
def test_the_current_context_of_a_thread_is_put_back(tmp_path: Path) -> None:
    """Catches a thread that had no CUDA context and has one after a launch, or works in another than Paddle's."""
    body = """
import threading

x, y = paddled(np.arange(37)), paddled(np.arange(37))
added(x, y)
seen = []


def work():  # a thread that CUDA has never seen
    before = current()
    with paddle_tensors.launching(GPU):
        inside = current()
    after = current()
    with paddle_tensors.launching(GPU):
        add[(3,)](*map(paddle_tensors.buffer, (x, y, z)), 1, 37, BLOCK=16)
    seen.append((before, inside, after, current()))


z = paddle_tensors.empty((37,), "int64", GPU)
here = current()
thread = threading.Thread(target=work)
thread.start()
thread.join()
before, inside, after, last = seen[0]
assert before is None and inside == here and after is None and last is None, (seen, here)
assert current() == here
assert (paddle_tensors.fetch(z) == np.arange(37) * 2).all()
"""
    run(tmp_path, KERNELS + REAL + CONTEXT + body, interpret=False, block=("torch",))


@pytest.mark.gpu
@pytest.mark.usefixtures("gpu")
def test_the_tensors_decide_the_device_and_the_callers_is_put_back(tmp_path: Path) -> None:
    """Catches a launch on the current device in place of the tensors', and a device or default place changed for the
    caller.
    """
    import paddle

    if paddle.device.cuda.device_count() < 2:
        pytest.skip("there is one GPU: two are not tested together here")
    body = """
paddle.device.set_device("gpu:0")
paddled(np.zeros(1))
x, y = np.arange(37), np.arange(37) * 2**40
for index in (1, 0, 1):
    a, b = (paddle.to_tensor(v, place=paddle.CUDAPlace(index)) for v in (x, y))
    paddled(np.zeros(1))
    before = current(), device(), paddle.device.get_device()
    out = added(a, b)
    assert paddle_tensors.device(out) == ("gpu", index)
    assert (paddle_tensors.fetch(out) == x + y).all()
    assert (current(), device(), paddle.device.get_device()) == before
"""
    run(tmp_path, KERNELS + REAL + CONTEXT + body, interpret=False, block=("torch",))
