"""Where kernels lie in Triton's cache on the disk: the same place in every process, whatever else that compiled."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from paths import SUPPORT

pytest.importorskip("triton", reason="Triton is not installed: nothing is compiled")
pytestmark = pytest.mark.triton_contract

KEYS = """
import importlib
import json
import random
import sys

sys.path.insert(0, sys.argv[1])
from compiled import KERNELS
from detsample.launching.cache_keys import settle

names = sorted(KERNELS)
random.Random(sys.argv[2]).shuffle(names)
found = {}
for name in names:
    module, function = name.split("/")[0].split(".")
    kernel = getattr(importlib.import_module(f"detsample.kernels.{module}"), function)
    settle(kernel)
    values = {}
    for (constant, _), (value, _) in kernel.used_global_vals.items():
        values.setdefault(constant, set()).add(str(value))
    found[name] = [kernel.cache_key, sorted(constant for constant, seen in values.items() if len(seen) > 1)]
print(json.dumps(found))
"""

ORDER = """
import triton.runtime.jit as jit

from detsample.kernels.scan import scan
from detsample.launching import cache_keys

hashed, key = [], jit.JITFunction.cache_key


def noted(function):
    if function.hash is None:
        hashed.append(function)
    return key.fget(function)


jit.JITFunction.cache_key = property(noted)
cache_keys.settle(scan)
assert scan in hashed and len(hashed) > 10, hashed
for place, function in enumerate(hashed):
    called = [function.fn.__globals__.get(name) for name in function.fn.__code__.co_names]
    for other in called:
        if isinstance(other, jit.JITFunction) and function.fn.__module__.startswith("detsample"):
            assert hashed.index(other) < place, (function, other)
"""


def run(program: str, *arguments: str) -> str:
    """What a process prints in which kernels are not Python."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", program, *arguments]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr
    return process.stdout


def keys(order: str) -> dict[str, Any]:
    """By kernel its key, and the names that stand for several constants, in a process that hashes in some order."""
    return dict(json.loads(run(KEYS, str(SUPPORT), order)))


def test_keys_do_not_depend_on_what_was_compiled_before() -> None:
    """Catches a warmup whose processes compile for another place in the cache: up to Triton 3.6 constants count only
    where the function that mentions them was hashed before.
    """
    one = keys("1")
    assert one == keys("2") == keys("3")
    assert len({key for key, _ in one.values()}) == len({name.split("/")[0] for name in one})


def test_no_two_constants_of_a_kernel_share_a_name() -> None:
    """Catches constants that Triton sorts by the address of their module, another one in every process."""
    assert {name: twice for name, (_, twice) in keys("1").items() if twice} == {}


def test_what_a_kernel_calls_is_hashed_before_it() -> None:
    """Catches the same with a Triton whose keys do not show it."""
    run(ORDER)
