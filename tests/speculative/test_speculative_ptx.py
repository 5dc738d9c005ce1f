"""What the compiler makes of the kernels of speculative decoding: nothing fused, approximated or flushed, and that they
compile at all, which the interpreter does not tell. test_ptx_contract.py asks the same of the others.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from compiled import TARGETS, offences
from compiled_speculative import KERNELS
from paths import SUPPORT

pytest.importorskip("triton", reason="Triton is not installed: nothing can be compiled")
pytestmark = pytest.mark.triton_contract

COMPILE = """
import json
import sys

sys.path.insert(0, sys.argv[1])
import compiled_speculative as here

for name in here.KERNELS:
    print(json.dumps([name, here.ptx(name, *json.loads(sys.argv[2]))]))
"""


def compile_all(capability: int, dtype: str = "fp32", fusion: bool = False) -> dict[str, str]:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", COMPILE, str(SUPPORT), json.dumps([capability, dtype, fusion])]
    done = subprocess.run(command, env=environment, cwd=SUPPORT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return dict(json.loads(line) for line in done.stdout.splitlines() if line.startswith("["))


@pytest.fixture(autouse=True)
def _fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What is tested was compiled now, from these sources."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


@pytest.mark.parametrize("capability", TARGETS, ids=lambda capability: f"sm_{capability}")
def test_ptx_has_only_exactly_rounded_operations(capability: int) -> None:
    """Catches a kernel that does not compile for an architecture, fuses, approximates or flushes subnormals."""
    found = compile_all(capability)
    assert set(found) == set(KERNELS)
    lines = {name: offences(text) for name, text in found.items()}
    assert {name: some[:5] for name, some in lines.items() if some} == {}


def test_sixteen_bit_values_are_only_widened() -> None:
    """Catches 16-bit arithmetic on logits or draft probabilities."""
    for name, text in compile_all(90, "bf16").items():
        halves = set(re.findall(r"^\s+(?:@!?%\w+\s+)?(\S*\.b?f16\S*)", text, re.MULTILINE))
        assert offences(text) == [], name
        assert all(re.fullmatch(r"cvt\.f32\.b?f16|setp\.\w+\.b?f16", opcode) for opcode in halves), (name, halves)


def test_with_fusion_the_compiler_does_fuse() -> None:
    """Catches a check that sees nothing: with fusion on, weights are computed by multiply-adds."""
    assert any("fma.rn.f32" in line for line in offences(compile_all(90, fusion=True)["speculative_rejection.accept"]))
