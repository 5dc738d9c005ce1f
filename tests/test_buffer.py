"""Buffers in Triton's hands: its interpreter over NumPy arrays, and the specialisation of real launches."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from detsample.launching.buffer import Buffer, HostBuffer

ROOT = Path(__file__).resolve().parents[1]

KERNELS = """
import numpy as np
import triton
import triton.language as tl
from detsample.launching.buffer import Buffer, HostBuffer


@triton.jit
def add(x, y, out, step, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    a = tl.load(x + i * step, mask=i < n)
    b = tl.load(y + i, mask=i < n)
    tl.store(out + i, a + b, mask=i < n)


@triton.jit
def widen(x, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i, mask=i < n).to(tl.float32), mask=i < n)


@triton.jit
def is_zero(x, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i, mask=i < n) == 0, mask=i < n)
"""


BLOCK = """
import importlib.abc
import sys


class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)


sys.meta_path.insert(0, Block())
"""


def run(tmp_path: Path, body: str, *, interpret: bool, block: tuple[str, ...] = ()) -> str:
    """Run code in a process of its own, with packages blocked from import, and return what it prints.

    Triton reads TRITON_INTERPRET once, where a kernel is defined, and wants a kernel to be in a file.
    """
    script = tmp_path / "script.py"
    script.write_text(BLOCK.format(blocked=block) + body)
    env = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [env.get("PYTHONPATH")])])
    if interpret:
        env["TRITON_INTERPRET"] = "1"
    command = [sys.executable, str(script)]
    done = subprocess.run(
        command, env=env, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(autouse=True)
def _triton() -> None:
    pytest.importorskip("triton", reason="Triton is not installed: nothing here can run")


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "int32", "int64", "uint8"])
def test_the_interpreter_reads_and_writes_arrays_in_place(tmp_path: Path, dtype: str) -> None:
    run(
        tmp_path,
        KERNELS
        + f"""
x = (np.arange(37) * 3).astype("{dtype}")
if x.dtype == np.int64:
    x += 2**62 + 1
y = np.arange(37).astype(x.dtype)
out = np.zeros(64, x.dtype)
add[(3,)](HostBuffer(x), HostBuffer(y), HostBuffer(out[11:]), 1, 37, BLOCK=16)
assert (out[11:48] == x + y).all()
assert (out[:11] == 0).all() and (out[48:] == 0).all()
add[(3,)](HostBuffer(x), HostBuffer(y), HostBuffer(x), 1, 37, BLOCK=16)
assert (x == out[11:48]).all()
""",
        interpret=True,
    )


def test_the_interpreter_follows_strides_backwards_too(tmp_path: Path) -> None:
    run(
        tmp_path,
        KERNELS
        + """
wide = np.arange(40, dtype=np.float32)
x, y, out = wide[::-2], np.ones(20, np.float32), np.zeros(20, np.float32)
add[(2,)](HostBuffer(x), HostBuffer(y), HostBuffer(out), HostBuffer(x).stride()[0], 20, BLOCK=16)
assert (out == x + 1).all()
""",
        interpret=True,
    )


def test_the_interpreter_widens_bfloat16_given_as_bits(tmp_path: Path) -> None:
    run(
        tmp_path,
        KERNELS
        + """
bits = np.random.default_rng(1).integers(0, 0x7f80, 37).astype(np.uint16)
out = np.zeros(37, np.float32)
widen[(3,)](HostBuffer(bits, "bfloat16"), HostBuffer(out), 37, BLOCK=16)
assert (out.view(np.uint32) == bits.astype(np.uint32) << 16).all()
""",
        interpret=True,
    )


def test_the_interpreter_widens_bfloat16_of_ml_dtypes(tmp_path: Path) -> None:
    pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    run(
        tmp_path,
        KERNELS
        + """
assert "ml_dtypes" not in sys.modules, "the library must not import ml_dtypes"
import ml_dtypes
x = np.array([1.5, -3, 1e30, 0], ml_dtypes.bfloat16)
out = np.zeros(4, np.float32)
widen[(1,)](HostBuffer(x), HostBuffer(out), 4, BLOCK=16)
assert (out == x.astype(np.float32)).all()
""",
        interpret=True,
    )


def test_the_interpreter_reads_and_writes_bools(tmp_path: Path) -> None:
    run(
        tmp_path,
        KERNELS
        + """
x = np.arange(37) % 3 == 0
out = np.zeros(37, bool)
is_zero[(3,)](HostBuffer(x), HostBuffer(out), 37, BLOCK=16)
assert (out == ~x).all()
""",
        interpret=True,
    )


LAUNCH = """
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
"""


@pytest.mark.parametrize(
    ("dtype", "ir"),
    [
        ("float32", "f32"),
        ("bfloat16", "bf16"),
        ("float16", "f16"),
        ("float64", "f64"),
        ("int32", "i32"),
        ("int64", "i64"),
        ("uint8", "i8"),
        ("bool", "i1"),
    ],
)
def test_a_launch_specialises_on_type_and_alignment(tmp_path: Path, dtype: str, ir: str) -> None:
    run(
        tmp_path,
        KERNELS
        + LAUNCH
        + f"""
out = Buffer(4096, "bool", None)
aligned, kernel = launched(Buffer(1024, "{dtype}", None), out)
assert "!tt.ptr<{ir}>" in aligned and "tt.divisibility = 16" in aligned, aligned
again, same = launched(Buffer(2048, "{dtype}", None), out)
assert same is kernel, "another address of the same alignment must not compile again"
loose, other = launched(Buffer(1032, "{dtype}", None), out)
assert "!tt.ptr<{ir}>" in loose and "tt.divisibility" not in loose and other is not kernel, loose
empty, same = launched(Buffer(None, "{dtype}", None), out)
assert same is kernel
""",
        interpret=False,
    )


def test_a_buffer_keeps_its_owner_and_an_empty_one_has_address_zero() -> None:
    owner = np.zeros(3)
    references = sys.getrefcount(owner)
    buffer = Buffer(64, "float64", owner)
    assert sys.getrefcount(owner) == references + 1
    assert (buffer.data_ptr(), buffer.dtype, Buffer(None, "int64", None).data_ptr()) == (64, "float64", 0)


@pytest.mark.parametrize(
    ("array", "dtype", "message"),
    [
        (np.zeros(2, ">f4"), None, r"array must be in native byte order, got dtype '>f4'"),
        (np.zeros(2, np.float32), "bfloat16", r"dtype must be that of the array \(float32\), got 'bfloat16'"),
        (np.zeros(2, np.uint16), "float16", r"dtype must be that of the array \(uint16\), got 'float16'"),
    ],
)
def test_a_host_buffer_refuses_what_a_kernel_would_misread(
    array: np.ndarray, dtype: str | None, message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        HostBuffer(array, dtype)


def test_a_host_buffer_refuses_to_copy_from_elsewhere() -> None:
    with pytest.raises(ValueError, match="source must be the same memory"):
        HostBuffer(np.zeros(3)).copy_(HostBuffer(np.zeros(3)))
