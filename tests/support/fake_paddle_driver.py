"""Paddle and torch with drivers that take notes, and a launch: for programs of test_paddle_driver.py."""

# ruff: noqa: E402, F401, F403, F405, RUF012

import sys
import threading
from types import ModuleType, SimpleNamespace

import triton
from small_kernels import *

paddle = sys.modules["paddle"] = ModuleType("paddle")
streams = threading.local()
paddle.device = SimpleNamespace(cuda=SimpleNamespace(
    current_stream=lambda index: SimpleNamespace(cuda_stream=getattr(streams, "now", 1000) + index),
    get_device_capability=lambda index: (9, 0),
))

from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from detsample.frameworks import paddle_driver


class Utils:
    loaded = []

    def get_device_properties(self, device):
        return {"max_shared_mem": 227 * 1024}

    def load_binary(self, name, kernel, shared, device):
        Utils.loaded.append((name, device))
        handles = (1, 2000 + device, 0, 0)
        return handles if triton.__version__.startswith("3.3") else (*handles, 1024)

    def unload_module(self, module):
        pass


class Launcher:
    calls = []

    def __init__(self, source, metadata):
        pass

    def __call__(self, x, y, z, stream, function, *args):
        Launcher.calls.append((stream, function))


class Guard:
    def __init__(self, index):
        pass

    def __enter__(self):
        pass

    def __exit__(self, *_):
        pass


class Torchs:
    utils = Utils()
    launcher_cls = Launcher

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 7000 + device

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)


paddle_driver.CudaUtils, paddle_driver.CudaLauncher, paddle_driver.Current = Utils, Launcher, Guard
x, out = Buffer(1024, "float32", None), Buffer(4096, "bool", None)


def launch():
    return is_zero[(1,)](x, out, 37, BLOCK=16)
