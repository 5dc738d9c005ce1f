"""The benchmark's own kernel, which only a GPU runs."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="Triton is not installed: nothing is compiled")
pytestmark = pytest.mark.triton_contract

COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from detsample.bench.floor import CUTS, largest

for dtype in ("fp32", "bf16"):
    signature = {"logits": f"*{dtype}", **dict.fromkeys(("row_stride", "vocab", "part_tokens"), "i32")}
    signature |= {"result": "*fp32", "BLOCK": "constexpr"}
    block, warps, _ = CUTS[0]
    attributes = {(0,): [["tt.divisibility", 16]], (3,): [["tt.divisibility", 16]]}
    source = ASTSource(largest, signature, {"BLOCK": block}, attributes)
    kernel = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps})
    ptx = kernel.asm["ptx"]
    assert "ld.global.v4.b32" in ptx, ptx
    assert "max.f32" in ptx
"""


def test_the_floor_compiles_and_reads_16_bytes_at_a_time() -> None:
    """Catches a floor that does not compile, or one that is slow, beside which anything looks fast."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", COMPILE]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr[-3000:]
