"""A GPU that is not there: Triton compiles, loads and launches as ever, and CUDA's driver does nothing.

A stand-in for libcuda is compiled with the machine's C compiler, so that Triton's own launchers, which are C, run with
real arguments; and torch's adapter is loaded a second time, taking tensors on the CPU for tensors on GPU 0. What a call
costs the host up to the driver's doorstep can so be measured anywhere. In a process of its own: nothing is put back.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

SOURCE = """
#include <stdint.h>
#define NOTHING(name) int name() { return 0; }
#define GIVES(name, type, value) int name(type *out) { *out = (type)(value); return 0; }
GIVES(cuCtxGetCurrent, void *, 1)
GIVES(cuCtxGetDevice, int, 0)
GIVES(cuDeviceGet, int, 0)
GIVES(cuDeviceGetAttribute, int, 232448)
GIVES(cuDeviceGetCount, int, 1)
GIVES(cuDevicePrimaryCtxRetain, void *, 1)
GIVES(cuDriverGetVersion, int, 13000)
GIVES(cuModuleGetFunction, void *, 1)
GIVES(cuModuleLoadData, void *, 1)
int cuFuncGetAttribute(int *out, int which, void *function) { *out = which ? 0 : 1024; return 0; }
int cuPointerGetAttribute(void *out, int which, uint64_t at) { *(uint64_t *)out = at; return 0; }
int cuGetErrorString(int code, const char **out) { *out = "none"; return 0; }
int64_t launches = 0;
int cuLaunchKernel() { launches++; return 0; }
int cuLaunchKernelEx() { launches++; return 0; }
NOTHING(cuInit) NOTHING(cuCtxSetCurrent) NOTHING(cuFuncSetAttribute) NOTHING(cuFuncSetCacheConfig)
NOTHING(cuModuleUnload) NOTHING(cuCtxGetLimit) NOTHING(cuCtxSetLimit) NOTHING(cuStreamIsCapturing)
NOTHING(cuOccupancyMaxActiveClusters) NOTHING(cuTensorMapEncodeTiled) NOTHING(cuTensorMapEncodeIm2col)
NOTHING(cuPointerGetAttributes) NOTHING(cuCtxPushCurrent_v2) NOTHING(cuCtxPopCurrent_v2)
"""

# What is asked of a tensor on a GPU costs as much when asked of one on the CPU.
PRETENDED = (
    ("x.is_cuda", "x.is_cpu"),
    ("x.get_device()", "-x.get_device() - 1"),
    ("torch.cuda.current_device()", "torch.get_num_threads() * 0"),
    ('torch.device("cuda", device[1])', 'torch.device("cpu")'),
    ("int(torch.cuda.get_device_properties(device[1]).multi_processor_count)", "132"),
    ("torch.cuda.get_device_capability(device[1])", "(9, 0)"),
    ("torch.cuda.device_count()", "1"),
)


def load_cuda() -> ctypes.CDLL:
    """Compile and load the stand-in, under the name that Triton will ask for."""
    folder = Path(tempfile.mkdtemp(prefix="detsample-fake-cuda-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "cuda.c").write_text(SOURCE)
    library = folder / "libcuda.so.1"
    options = ["-O2", "-w", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1"]
    subprocess.run(["cc", *options, str(folder / "cuda.c"), "-o", str(library)], check=True)
    os.environ["TRITON_LIBCUDA_PATH"] = str(folder)
    # Compiled against the stand-in, Triton's launchers are not those of this machine's cache.
    os.environ["TRITON_CACHE_DIR"] = os.environ.get("DETSAMPLE_FAKE_CACHE", str(folder / "cache"))
    return ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


def pretend_driver() -> None:
    """Make a driver of one H100 active."""
    from triton.backends.nvidia.driver import CudaDriver, CudaLauncher, CudaUtils
    from triton.runtime import driver

    class Driver(CudaDriver):
        def __init__(self) -> None:
            self.utils = CudaUtils()
            self.launcher_cls = CudaLauncher
            # On a GPU these are functions of torch's, most of them in C: nothing that takes long.
            self.get_current_device = lambda: 0
            self.get_current_stream = lambda device: 7
            self.get_device_capability = lambda device: (9, 0)

    driver.set_active(Driver())


def pretend_torch() -> Any:
    """Load torch's adapter with tensors on the CPU taken for tensors on a GPU, and have it found."""
    import detsample.frameworks as frameworks
    from detsample.frameworks import torch_tensors

    source = Path(torch_tensors.__file__).read_text()
    for real, pretended in PRETENDED:
        assert real in source, f"torch_tensors.py no longer says {real!r}"
        source = source.replace(real, pretended)
    module = ModuleType("detsample.frameworks.torch_tensors")
    sys.modules[module.__name__] = module
    exec(compile(source, torch_tensors.__file__, "exec"), vars(module))
    frameworks._BY_CLASS.clear()
    return module


def pretend() -> ctypes.CDLL:
    """All of it; the library returned counts its launches."""
    library = load_cuda()
    pretend_driver()
    pretend_torch()
    return library
