"""Paddle tensors on a GPU and a launch for each: for programs of test_paddle_driver.py."""

# ruff: noqa: F401, F403, F405

import paddle
from small_kernels import *
from triton.runtime import driver

from detsample import frameworks
from detsample.frameworks import paddle_tensors

GPU = ("gpu", 0)


@triton.jit
def accumulate(x, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(out + i, mask=i < n) + tl.load(x + i, mask=i < n), mask=i < n)


def paddled(array):
    return paddle.to_tensor(array, place=paddle.CUDAPlace(0))


def added(x, y):
    framework = frameworks.of(x)
    n = framework.shape(y)[0]
    out = framework.empty((n,), framework.dtype_name(y), framework.device(y))
    step = framework.strides(x)[0]
    with framework.launching(framework.device(x)):
        add[(-(-n // 16),)](*map(framework.buffer, (x, y, out)), step, n, BLOCK=16)
    return out
