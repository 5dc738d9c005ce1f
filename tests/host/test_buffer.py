"""Buffers in Triton's hands: its interpreter over NumPy arrays, and the specialisation of real launches."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from own_process import KERNELS, run

from detsample.frameworks.buffer import Buffer, HostBuffer

QUICK = ("torch", "paddle")
"""Blocked from import: Triton would import torch, which takes seconds."""


@pytest.fixture(autouse=True)
def _triton() -> None:
    pytest.importorskip("triton", reason="Triton is not installed: nothing here can run")


@pytest.mark.full("more element types", every=6)
@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "int32", "int64", "uint8"])
def test_the_interpreter_reads_and_writes_arrays_in_place(tmp_path: Path, dtype: str) -> None:
    """Catches a host buffer that hands the interpreter a copy, the wrong start or another element type, so that results
    are lost, land elsewhere or lose bits beyond 2^53.
    """
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
        block=QUICK,
    )


def test_the_interpreter_follows_strides_backwards_too(tmp_path: Path) -> None:
    """Catches a host buffer whose address is not its first element's where strides are negative."""
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
        block=QUICK,
    )


def test_the_interpreter_widens_bfloat16_given_as_bits(tmp_path: Path) -> None:
    """Catches uint16 that stands for bfloat16 (Paddle's way) being loaded as integers."""
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
        block=QUICK,
    )


def test_the_interpreter_widens_bfloat16_of_ml_dtypes(tmp_path: Path) -> None:
    """Catches a bfloat16 array of ml_dtypes that is refused or misread, and a library that imports ml_dtypes itself."""
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
        block=QUICK,
    )


def test_the_interpreter_reads_and_writes_bools(tmp_path: Path) -> None:
    """Catches bools taken for bits or for integers of another size, in what is loaded or in what is stored."""
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
        block=QUICK,
    )


LAUNCH = "from fake_launcher import *\n"


@pytest.mark.full("more element types", every=8)
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
    """Catches a kernel compiled for another element type, for an alignment that the address does not have, or once more
    for every address.
    """
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
        block=QUICK,
    )


def test_a_buffer_keeps_its_owner_and_an_empty_one_has_address_zero() -> None:
    """Catches memory that is freed while a buffer still points to it, and an address of None passed to a launch."""
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
    """Catches bytes in foreign order, or a type that is not the array's, being read as if they were right."""
    with pytest.raises(TypeError, match=message):
        HostBuffer(array, dtype)


def test_a_host_buffer_refuses_to_copy_from_elsewhere() -> None:
    """Catches a copy between two host buffers that does nothing and says nothing."""
    with pytest.raises(ValueError, match="source must be the same memory"):
        HostBuffer(np.zeros(3)).copy_(HostBuffer(np.zeros(3)))
