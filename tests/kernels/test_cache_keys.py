"""Where kernels lie in Triton's cache on the disk: the same place in every process, whatever else that compiled."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from paths import ROOT, SUPPORT

pytest.importorskip("triton", reason="Triton is not installed: nothing is compiled")
pytestmark = pytest.mark.triton_contract




def run(program: str, *arguments: str) -> str:
    """What a program of tests/support prints, in a process in which kernels are not Python."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, str(SUPPORT / program), *arguments]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr
    return process.stdout


def keys(order: str) -> dict[str, Any]:
    """By kernel its key, and the names that stand for several constants, in a process that hashes in some order."""
    return dict(json.loads(run("cache_keys.py", order)))


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
    run("hashing_order.py")
