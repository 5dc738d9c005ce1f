"""The current CUDA context of a thread: for programs of test_paddle_driver.py."""

import ctypes

cuda = ctypes.CDLL("libcuda.so.1")


def current():
    context = ctypes.c_void_p()
    assert cuda.cuCtxGetCurrent(ctypes.byref(context)) == 0
    return context.value


def device():
    index = ctypes.c_int()
    assert cuda.cuCtxGetDevice(ctypes.byref(index)) == 0
    return index.value
