"""What only a GPU shows: graphs, streams, large tensors, two frameworks at once.

DETSAMPLE_TEST_FRAMEWORK says whose tensors. Inputs are made on the host and, within graphs, changed by a kernel of
our own, so that none of Paddle's kernels takes part.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import cases
import kernel_path
import mixed_digest
import numpy as np
import pytest
import speculative_cases
import speculative_path
from kernel_path import GPU, OUTPUTS, assert_same, on_device, only_rows, to_array

import detsample
from detsample import frameworks, reference, speculative

triton = pytest.importorskip("triton", reason="Triton is not installed: no kernel runs")
tl = pytest.importorskip("triton.language")
pytestmark = pytest.mark.gpu

F32 = np.float32
WANTED: dict[str, Any] = {"return_logprobs": True, "return_log_z": True}


def test_a_plan_draws_what_sample_draws() -> None:
    """Catches a plan that keeps values where it should keep addresses."""
    rng = np.random.default_rng(17)
    logits = [on_device(rng.standard_normal((3, 5000), dtype=F32)) for _ in range(2)]
    position, top_p = on_device(np.arange(3)), on_device(np.array([0.9, 1, 0.5], F32))
    draw = detsample.plan(logits[0], 5, position=position, top_p=top_p, return_log_z=True, return_mask="bits")
    for step in range(4):
        x = logits[step % 2]
        expected = detsample.sample(
            x, 5, position=on_device(np.arange(3) + step), top_p=top_p, return_log_z=True, return_mask="bits"
        )
        assert_same(to_array(draw(x)), to_array(expected), step)
        add_in_place(position, 1)


@triton.jit
def advance(numbers, count, step, BLOCK: tl.constexpr):
    """Adds `step` to int64 numbers in place."""
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    number = tl.load(numbers + place, mask=place < count)
    tl.store(numbers + place, number + step, mask=place < count)


def add_in_place(tensor: Any, step: int) -> None:
    """Change a tensor of seeds or positions without another's kernels, on its framework's current stream."""
    framework = frameworks.of(tensor)
    count = framework.shape(tensor)[0]
    with framework.launching(framework.device(tensor)):
        advance[(-(-count // 64),)](framework.buffer(tensor), count, step, BLOCK=64)


class Torch:
    """torch's graphs and streams."""

    def synchronize(self) -> None:
        import torch

        torch.cuda.synchronize()

    @contextmanager
    def on_new_stream(self) -> Iterator[Any]:
        import torch

        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            yield stream

    def captured(self, call: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        import torch

        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = call()
        return out, graph.replay


class Paddle:
    """Paddle's graphs and streams."""

    def synchronize(self) -> None:
        import paddle

        paddle.device.cuda.synchronize(0)

    @contextmanager
    def on_new_stream(self) -> Iterator[Any]:
        import paddle

        stream = paddle.device.cuda.Stream()
        with paddle.device.cuda.stream_guard(stream):
            yield stream

    def captured(self, call: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        from paddle.device.cuda.graphs import CUDAGraph

        graph = CUDAGraph()
        graph.capture_begin()
        out = call()
        graph.capture_end()
        return out, graph.replay


@pytest.fixture
def gpu() -> Torch | Paddle:
    """Graphs and streams of the framework under test."""
    return Paddle() if GPU == "paddle" else Torch()


def tensors(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Arrays as tensors on the GPU."""
    return {name: on_device(array) for name, array in arrays.items()}


def batch(B: int, V: int, seed: int = 0) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Rows and parameters of every kind."""
    rng = np.random.default_rng(seed)
    return cases.mixed(rng, B, V), cases.parameters(rng, B, V)


# ---- graphs


@pytest.mark.parametrize("kind", [None, "bool", "bits"])
def test_a_graph_replays_with_seeds_and_positions_changed_in_place(gpu: Torch | Paddle, kind: str | None) -> None:
    """Catches seeds, positions or anything else of a call that is read on the host and baked into the graph."""
    logits, params = batch(37, 3000)
    params["position"] = np.abs(params["position"]) % 2**40
    x, given = on_device(logits), tensors(params)

    def call() -> Any:
        return detsample.sample(x, **given, **WANTED, return_mask=kind)

    to_array(call())  # compiles and loads, which a capture must not do
    gpu.synchronize()
    out, replay = gpu.captured(call)
    for step in range(4):
        replay()
        gpu.synchronize()
        expected = reference.sample(logits, **params, **WANTED, return_mask=kind)
        assert_same(to_array(out), expected, step)
        add_in_place(given["topp_seed"], 2**33 + 1)
        add_in_place(given["position"], 1)
        with np.errstate(over="ignore"):
            params["topp_seed"] = params["topp_seed"] + np.int64(2**33 + 1)
        params["position"] = params["position"] + 1


def test_a_graph_of_several_steps(gpu: Torch | Paddle) -> None:
    """Catches workspaces of calls within one graph that overlap in time: a decoding loop, positions advanced inside."""
    logits, params = batch(8, 2000, seed=1)
    params["position"] = np.arange(8)
    x, given = on_device(logits), tensors(params)

    def loop() -> list[Any]:
        outs = []
        for _ in range(5):
            outs.append(detsample.sample(x, **given, **WANTED))
            add_in_place(given["position"], 1)
        return outs

    loop()
    gpu.synchronize()
    outs, replay = gpu.captured(loop)
    for start in (5, 10):
        replay()
        gpu.synchronize()
        for step, out in enumerate(outs):
            params["position"] = np.arange(8) + start + step
            assert_same(to_array(out), reference.sample(logits, **params, **WANTED), (start, step))


@pytest.mark.parametrize("method", ["match", "rejection"])
def test_a_graph_of_verification(gpu: Torch | Paddle, method: str) -> None:
    """Catches a draft, a length or a position of a request that is read on the host and baked into the graph."""
    B, K, V = 9, 4, 2000
    rng = np.random.default_rng(11)
    logits, params = batch(B * (K + 1), V, seed=11)
    logits = logits.reshape(B, K + 1, V)
    how = {name: value[:B] for name, value in params.items() if name not in ("topp_seed", "position")}
    seeds, position = params["topp_seed"][:B], np.arange(B)
    if method == "rejection":
        how["draft_logits"] = rng.standard_normal((B, K, V), dtype=F32)
    lengths = rng.integers(0, K + 1, B)
    # Judged by a pass of the plain method: a part of the drafts is what the target draws.
    plain = {name: value for name, value in how.items() if name != "draft_logits"} | {"position": position}
    drafts = speculative_cases.agreeing_drafts(
        rng, lambda d: reference.verify(logits, d, lengths, seeds, **plain), rng.integers(0, V, (B, K)), lengths
    )
    given = [on_device(value) for value in (logits, drafts, lengths, seeds)]
    at, tensor_how = on_device(position), tensors(how)

    def call() -> Any:
        return speculative.verify(*given, position=at, method=method, **tensor_how)

    speculative_path.arrays(call())
    gpu.synchronize()
    out, replay = gpu.captured(call)
    for step in range(3):
        replay()
        gpu.synchronize()
        expected = reference.verify(logits, drafts, lengths, seeds, position=position + step, method=method, **how)
        speculative_path.assert_same(speculative_path.arrays(out), expected, step)
        add_in_place(at, 1)


@pytest.mark.skipif(GPU != "torch", reason="only torch can say what was allocated")
@pytest.mark.parametrize("rows", [1, 64, 256])
def test_working_memory_is_small(rows: int) -> None:
    """Catches working memory beyond 2% of fp32 logits and 1 MiB, and anything of size B x V made on the way."""
    import torch

    vocab = 129_280 if rows == 256 else 151_936
    x = torch.randn(rows, vocab, device="cuda")
    seeds = torch.arange(rows, device="cuda")
    top_p = torch.full((rows,), 0.9, device="cuda")
    detsample.sample(x, seeds, top_p=top_p)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    detsample.sample(x, seeds, top_p=top_p)
    assert torch.cuda.max_memory_allocated() - before <= 0.02 * 4 * rows * vocab + 2**20


@pytest.mark.skipif(GPU != "torch", reason="only torch can say that something waits for the device")
def test_nothing_waits_for_the_device() -> None:
    """Catches a hidden synchronisation: a scalar read back, a size fetched, a pageable copy."""
    import torch

    logits, params = batch(16, 3000)
    x, given = on_device(logits), tensors(params)
    tokens = on_device(np.arange(100))
    scalars: dict[str, Any] = {"topp_seed": 1, "top_k": 50, "top_p": 0.9, "temperature": 0.7, "position": 3}
    scalars["shared_noise"] = True  # one number for all rows: nothing is left to fetch from a vector
    calls: list[Callable[[], Any]] = [
        lambda: detsample.sample(x, **given, **WANTED, return_mask="bits"),
        lambda: detsample.sample(x, **scalars, **WANTED, return_mask="csr"),
        lambda: detsample.mask(x, top_p=0.5, kind="bool"),
        lambda: detsample.gumbel_noise(given["topp_seed"], given["position"], tokens),
        lambda: detsample.fold_in(given["topp_seed"], 3),
    ]
    for call in calls:
        call()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for call in calls:
            call()
    finally:
        torch.cuda.set_sync_debug_mode("default")


# ---- streams and threads


def test_several_streams(gpu: Torch | Paddle) -> None:
    """Catches memory shared between calls in flight at once, and launches that miss the current stream."""
    batches = [batch(64, 20_000, seed) for seed in range(6)]
    inputs = [(on_device(logits), tensors(params)) for logits, params in batches]
    gpu.synchronize()
    outs, streams = [], []
    for _ in range(3):
        for x, given in inputs:
            with gpu.on_new_stream() as stream:
                outs.append(detsample.sample(x, **given, **WANTED, return_mask="bits"))
                streams.append(stream)
    gpu.synchronize()
    expected = [reference.sample(logits, **params, **WANTED, return_mask="bits") for logits, params in batches]
    for at, out in enumerate(outs):
        assert_same(to_array(out), expected[at % 6], at)


def test_several_threads() -> None:
    """Catches state of the process that a call changes: the active driver, the current device, a cache."""
    batches = [batch(20, 5000, seed) for seed in range(4)]
    expected = [reference.sample(logits, **params, **WANTED) for logits, params in batches]
    failures: list[BaseException] = []

    def work(number: int) -> None:
        logits, params = batches[number]
        try:
            for _ in range(10):
                assert_same(kernel_path.sample(logits, **params, **WANTED), expected[number], number)
        except BaseException as error:  # a thread's failure is the test's
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_two_frameworks_in_one_process() -> None:
    """Catches a driver or a compiled kernel of one framework that serves the other with its own stream or device."""
    torch = pytest.importorskip("torch", reason="torch is not installed beside Paddle")
    paddle = pytest.importorskip("paddle", reason="Paddle is not installed beside torch")
    if not torch.cuda.is_available() or not paddle.device.is_compiled_with_cuda():
        pytest.skip("one of torch and Paddle sees no GPU")
    logits, params = batch(33, 3000)
    expected = reference.sample(logits, **params, **WANTED, return_mask="bits")
    make: dict[str, Callable[[np.ndarray], Any]] = {
        "torch": lambda array: torch.tensor(array, device="cuda"),
        "paddle": lambda array: paddle.to_tensor(array, place=paddle.CUDAPlace(0)),
    }
    for name in ("paddle", "torch", "torch", "paddle", "torch"):
        given = {key: make[name](value) for key, value in params.items()}
        out = detsample.sample(make[name](logits), **given, **WANTED, return_mask="bits")
        assert_same(to_array(out), expected, name)


# ---- sizes and cuts


def rows_of(framework: Any, out: Any, first: int, last: int) -> SimpleNamespace:
    """Some neighbouring rows of an output, without bringing the others to the host."""
    return SimpleNamespace(**{name: framework.fetch(getattr(out, name)[first:last]) for name in OUTPUTS})


@pytest.mark.full("takes gigabytes of the GPU's memory")
@pytest.mark.parametrize("kind", ["bool", "bits"])
def test_more_than_two_to_the_31_elements(kind: str) -> None:
    """Catches 32-bit offsets: rows at both ends, and where element 2^31 lies, equal the reference's."""
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed: NumPy has no bfloat16")
    B, V = 20_000, 151_936
    rng = np.random.default_rng(31)
    few = (rng.standard_normal((16, V), dtype=F32) * 2).astype(ml_dtypes.bfloat16)
    params = cases.parameters(rng, B, V)
    logits = np.concatenate([few] * (B // 16))
    out = detsample.sample(on_device(logits), **tensors(params), **WANTED, return_mask=kind)
    framework = frameworks.of(out.token_ids)
    crossing = 2**31 // V
    for first in (0, crossing - 2, 2 * (crossing // 2) + 6, B - 6):
        rows = slice(first, first + 6)
        expected = reference.sample(logits[rows], **only_rows(params, rows), **WANTED, return_mask=kind)
        assert_same(rows_of(framework, out, first, first + 6), expected, first)


@pytest.mark.parametrize("vocab", [5000, 151_936])
def test_no_tuning_shows(vocab: int) -> None:
    """Catches a result that depends on the number of warps, programs or segments, or on one kernel's end before the
    next.
    """
    from detsample.sampler.on_gpu import FEW_ROWS_TUNING, Tuning

    logits, params = batch(40, vocab, seed=3)
    wanted = WANTED | {"return_mask": "bits"}
    expected = reference.sample(logits, **params, **wanted)
    cuts = [Tuning(warps=(warps,) * 4) for warps in (1, 4, 16)]
    kernel_path.compile_beforehand(
        [partial(kernel_path.sample, logits, **params, **wanted, tuning=cut) for cut in cuts]
    )
    cuts += [FEW_ROWS_TUNING, Tuning(overlap=())]
    cuts += [Tuning(parts=parts, segment_tiles=tiles) for parts in (1, 3, 128) for tiles in (1, 2, 7)]
    for cut in cuts:
        assert_same(kernel_path.sample(logits, **params, **wanted, tuning=cut), expected, cut)


def test_the_interpreter_has_the_bits_of_the_gpu() -> None:
    """Catches a compiler, or an interpreter, to which an operation of the same source means something else; without the
    reference in between.
    """
    command = [sys.executable, "-W", "ignore", mixed_digest.__file__]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    interpreted = json.loads(done.stdout.splitlines()[-1])
    compiled = mixed_digest.digests()
    assert list(interpreted) == list(compiled)
    assert {what for what, digest in compiled.items() if interpreted[what] != digest} == set()


def test_batch_sizes_from_1_to_4096() -> None:
    """Catches another path, grid or number of parts for another batch size."""
    B, V = 4096, 32_000
    rng = np.random.default_rng(9)
    logits = np.concatenate([cases.mixed(rng, 64, V)] * (B // 64))
    params = cases.parameters(rng, B, V)
    whole = kernel_path.sample(logits, **params, **WANTED, return_mask="bits")
    few = sorted(rng.choice(B, 24, replace=False).tolist())
    expected = reference.sample(logits[few], **only_rows(params, few), **WANTED, return_mask="bits")
    assert_same(SimpleNamespace(**{name: getattr(whole, name)[few] for name in OUTPUTS}), expected)
    for size in (1, 2, 3, 7, 31, 64, 65, 132, 133, 500, 1000, 2049, 4095):
        start = int(rng.integers(0, B - size + 1))
        rows = slice(start, start + size)
        part = kernel_path.sample(logits[rows].copy(), **only_rows(params, rows), **WANTED, return_mask="bits")
        assert_same(part, SimpleNamespace(**{name: getattr(whole, name)[rows] for name in OUTPUTS}), size)


def test_repeats_are_equal() -> None:
    """Catches a race: a result that depends on the order in which programs arrive."""
    logits, params = batch(256, 50_000, seed=5)
    params["top_k"][::2] = 5000
    params["top_p"][1::2] = 0.95
    wanted = WANTED | {"return_mask": "bits"}
    first = kernel_path.sample(logits, **params, **wanted)
    for repeat in range(30):
        assert_same(kernel_path.sample(logits, **params, **wanted), first, repeat)
