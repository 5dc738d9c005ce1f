"""Checks that what a kernel calls is hashed before it."""

import triton.runtime.jit as jit

from detsample.kernels.sampling.summarize import summarize
from detsample.launching import cache_keys

hashed, key = [], jit.JITFunction.cache_key


def noted(function):
    if function.hash is None:
        hashed.append(function)
    return key.fget(function)


jit.JITFunction.cache_key = property(noted)
cache_keys.settle(summarize)
assert summarize in hashed, hashed
assert len(hashed) > 10, hashed
for place, function in enumerate(hashed):
    called = [function.fn.__globals__.get(name) for name in function.fn.__code__.co_names]
    for other in called:
        if isinstance(other, jit.JITFunction) and function.fn.__module__.startswith("detsample"):
            assert hashed.index(other) < place, (function, other)
