"""The guard that every interpreted launch runs under: it must see what a GPU would let pass."""

from __future__ import annotations

import numpy as np
import pytest
from guarded_memory import UNWRITTEN, guard
from kernel_path import GPU, prepare_interpreter

pytest.importorskip("triton", reason="Triton is not installed: no kernel runs")

import triton
from triton import language as tl
from triton.runtime.errors import InterpreterError

from detsample.frameworks import numpy_arrays
from detsample.frameworks.buffer import HostBuffer
from detsample.launching.workspace import allocate, layout

pytestmark = pytest.mark.skipif(GPU is not None, reason="the kernels run on a GPU")

CPU = ("cpu", 0)


@triton.jit
def copy(source, target, start, count, SIZE: tl.constexpr):
    """Copy `count` of SIZE elements from `start` on."""
    at = tl.arange(0, SIZE)
    tl.store(target + at, tl.load(source + start + at, mask=at < count), mask=at < count)


@triton.jit
def count_up(counter, at):
    """Add one somewhere."""
    tl.atomic_add(counter + at, 1)


def launch(kernel: object, *arguments: object, **options: object) -> None:
    prepare_interpreter()
    kernel[(1,)](*arguments, **options)


def test_what_is_in_bounds_is_done_and_counted() -> None:
    """Catches a guard that looks at nothing, or at lanes that are masked out."""
    source, target = np.arange(8, dtype=np.int32), np.zeros(3, np.int32)
    before = guard().checked
    launch(copy, HostBuffer(source), HostBuffer(target), 5, 3, SIZE=8)
    assert target.tolist() == [5, 6, 7]
    assert guard().checked - before == 6


@pytest.mark.parametrize("start", [-1, 6, 1 << 20])
def test_loads_out_of_bounds(start: int) -> None:
    """Catches a guard that allows one element too many, on either side."""
    buffers = HostBuffer(np.zeros(8, np.int32)), HostBuffer(np.zeros(3, np.int32))
    with pytest.raises(InterpreterError, match="copy loads 12 bytes that lie in no argument; nearest is"):
        launch(copy, *buffers, start, 3, SIZE=4)


def test_stores_and_updates_out_of_bounds() -> None:
    """Catches a guard of loads alone."""
    source, target = HostBuffer(np.zeros(8, np.int32)), HostBuffer(np.zeros(3, np.int32))
    with pytest.raises(InterpreterError, match="copy stores 16 bytes that lie in no argument"):
        launch(copy, source, target, 0, 4, SIZE=4)
    with pytest.raises(InterpreterError, match="count_up updates 4 bytes that lie in no argument"):
        launch(count_up, target, 3)


def test_rows_with_gaps_between_them() -> None:
    """Catches a guard that takes a strided argument for a contiguous one."""
    source, target = np.arange(20, dtype=np.int32).reshape(4, 5)[:, :2], np.zeros(2, np.int32)
    launch(copy, HostBuffer(source), HostBuffer(target), 15, 2, SIZE=2)
    assert target.tolist() == [15, 16]
    with pytest.raises(InterpreterError, match="copy loads 8 bytes that lie in no argument"):
        launch(copy, HostBuffer(source), HostBuffer(target), 16, 2, SIZE=2)


def test_areas_have_no_neighbours_and_are_not_written() -> None:
    """Catches areas that lie behind each other, where running from one into the next goes unnoticed."""
    prepare_interpreter()
    areas = allocate(numpy_arrays, CPU, layout({"one": ("int32", 4), "other": ("int32", 4)}))
    assert abs(areas["one"].data_ptr() - areas["other"].data_ptr()) > 64
    target = np.zeros(4, np.int32)
    launch(copy, areas["one"], HostBuffer(target), 0, 4, SIZE=4)
    assert set(target.view(np.uint8)) == {UNWRITTEN}
    with pytest.raises(InterpreterError, match="lie in no argument"):
        launch(copy, areas["one"], HostBuffer(target), 1, 4, SIZE=4)
