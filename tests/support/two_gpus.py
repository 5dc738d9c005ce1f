"""Calls for two GPUs in every order: no buffer or kernel kept for one may serve the other. A program of its own."""

from fake_framework import FRAMEWORK, HERE, Tensor

import detsample
from detsample.launching import launch
from detsample.sampler import on_gpu as engine

FRAMEWORK.multiprocessor_count = lambda device: (132, 20)[device[1]]
asked = []
empty = FRAMEWORK.empty


def noted(shape, dtype, device):
    asked.append(device)
    return empty(shape, dtype, device)


FRAMEWORK.empty = noted


def launches(index, dtype, B, V, top_k):
    HERE.address, HERE.launched = 1 << 40, []
    asked.clear()
    logits = Tensor(2**45, (B, V), (V, 1), dtype, index)
    seeds = Tensor(2**44, (B,), (1,), "int64", index)
    detsample.sample(logits, seeds, top_k=top_k, top_p=0.9, return_log_z=True, return_mask="bits")
    assert set(asked) == {("gpu", index)}, asked
    for _, stream, (name, device, _), *_ in HERE.launched:
        assert (stream, device) == (1000 + index, index), (name, stream, device)
    summarize = next(kind for _, _, (name, _, kind), *_ in HERE.launched if name == "summarize")
    assert ("'*" + {"float32": "fp32", "bfloat16": "bf16"}[dtype] + "'") in summarize[1], summarize[1]
    return HERE.launched


def forgetful(call):
    for cache in (launch._LOADED, launch._STEPS):
        cache.clear()
    for function in vars(engine).values():
        if hasattr(function, "cache_clear"):
            function.cache_clear()
    return launches(*call)


shapes = [(1, 64), (5, 64), (5, 3000), (2, 40000), (64, 7)]
calls = [(i, dtype, *shape, k) for i in (0, 1) for dtype in ("float32", "bfloat16") for shape in shapes for k in (0, 5)]
fresh = [forgetful(call) for call in calls]
for at in [*reversed(range(len(calls))), *range(len(calls)), *range(0, len(calls), 7)]:
    assert launches(*calls[at]) == fresh[at], calls[at]
different = {tuple(grid for grid, *_ in fresh[calls.index((i, "float32", 2, 40000, 0))]) for i in (0, 1)}
assert len(different) == 2, "GPUs of different sizes were to be given different grids"
