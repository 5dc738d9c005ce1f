"""Counts what a call does in Python: a loop over rows shows in the count, however short it is."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from types import FrameType, ModuleType
from typing import Any, NamedTuple

import numpy as np

# What makes Python's numbers of an array or a tensor, or brings it to the host.
LISTING = ("tolist", "item", "tobytes", "__iter__", "cpu", "numpy")


class Steps(NamedTuple):
    """The same for any number of equal rows, or something goes through them one by one."""

    taken: int
    """Instructions of Python's in the modules' own code."""
    listed: int
    """Elements of arrays and tensors that these made Python's numbers of, or fetched."""


def steps(call: Callable[[], Any], *modules: ModuleType) -> Steps:
    """Make a call, and count what the modules' code does in it.

    Kernels are left out: Triton's interpreter goes through them once a program.
    """
    folders = tuple(os.path.dirname(module.__file__ or "") + os.sep for module in modules)
    taken = listed = 0

    def inside(frame: FrameType | None) -> bool:
        file = frame.f_code.co_filename if frame else ""
        return file.startswith(folders) and f"{os.sep}kernels{os.sep}" not in file

    def step(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal taken
        taken += event == "opcode"
        return step

    def enter(frame: FrameType, *_: Any) -> Any:
        if not inside(frame):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return step

    def look(frame: FrameType, event: str, what: Any) -> None:
        nonlocal listed
        if event == "c_call" and what.__name__ in LISTING and inside(frame):
            listed += int(np.prod(getattr(what.__self__, "shape", ())))
        elif event == "call" and frame.f_code.co_name in LISTING and inside(frame.f_back):
            listed += 1

    before = sys.gettrace(), sys.getprofile()
    sys.settrace(enter)
    sys.setprofile(look)
    try:
        call()
    finally:
        sys.settrace(before[0])
        sys.setprofile(before[1])
    return Steps(taken, listed)
