"""A small kernel run in the interpreter on tensors of one framework: for programs of test_frameworks.py."""

# ruff: noqa: F403, F405

from small_kernels import *

from detsample import frameworks


def check(x, y):
    framework = frameworks.of(x)
    out = framework.empty((37,), framework.dtype_name(x), ("cpu", 0))
    with framework.launching(framework.device(x)):
        add[(3,)](framework.buffer(x), framework.buffer(y), framework.buffer(out), 1, 37, BLOCK=16)
    assert (framework.fetch(out) == framework.as_array(x) + framework.as_array(y)).all()


x, y = np.arange(37) * 2**40, np.arange(37)
