"""A compiler and a launcher that take notes, for small kernels: for programs of test_buffer.py."""

# ruff: noqa: F403, F405

from small_kernels import *
from triton.backends.compiler import GPUTarget
from triton.runtime import driver


class Utils:
    def get_device_properties(self, device):
        return {"max_shared_mem": 227 * 1024}

    def load_binary(self, name, kernel, shared, device):
        return (1, 2, 0, 0) if triton.__version__.startswith("3.3") else (1, 2, 0, 0, 1024)

    def unload_module(self, module):
        pass


class Launcher:
    def __init__(self, source, metadata):
        pass

    def __call__(self, *args):
        Launcher.args = args


class Driver:
    utils = Utils()
    launcher_cls = Launcher

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)


driver.set_active(Driver())


def launched(x, out):
    kernel = is_zero[(1,)](x, out, 37, BLOCK=16)
    assert any(argument is x for argument in (*Launcher.args, *Launcher.args[-1:]))
    line = next(line for line in kernel.asm["ttir"].splitlines() if "tt.func" in line)
    return line.split("(", 1)[1].split(", %")[0], kernel
