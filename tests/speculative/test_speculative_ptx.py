"""What the compiler makes of the kernels of speculative decoding: nothing fused, approximated or flushed, and that they
compile at all, which the interpreter does not tell. test_ptx_contract.py asks the same of the others.
"""

from __future__ import annotations

import re

import pytest
from compiled import TARGETS, offences
from compiled_speculative import KERNELS
from compiling import Request, results
from levels import FULL, only

pytest.importorskip("triton", reason="Triton is not installed: nothing can be compiled")
pytestmark = pytest.mark.triton_contract

NAMES = tuple(KERNELS) if FULL else ("speculative.match.match", "speculative.rejection.finish")


def compile_all(capability: int, dtype: str = "fp32", fusion: bool = False) -> dict[str, str]:
    """The PTX of each kernel."""
    found = results([Request(name, capability, dtype, fusion) for name in NAMES])
    return {name: result["ptx"] for name, result in found.items()}


@pytest.mark.parametrize(
    "capability", only(lambda c: c == 90, TARGETS, "PTX of another architecture"), ids=lambda c: f"sm_{c}"
)
def test_ptx_has_only_exactly_rounded_operations(capability: int) -> None:
    """Catches a kernel that does not compile for an architecture, fuses, approximates or flushes subnormals."""
    found = compile_all(capability)
    lines = {name: offences(text) for name, text in found.items()}
    assert {name: some[:5] for name, some in lines.items() if some} == {}


@pytest.mark.full("compiled for another element type")
def test_sixteen_bit_values_are_only_widened() -> None:
    """Catches 16-bit arithmetic on logits or draft probabilities."""
    for name, text in compile_all(90, "bf16").items():
        halves = set(re.findall(r"^\s+(?:@!?%\w+\s+)?(\S*\.b?f16\S*)", text, re.MULTILINE))
        assert offences(text) == [], name
        assert all(re.fullmatch(r"cvt\.f32\.b?f16|setp\.\w+\.b?f16", opcode) for opcode in halves), (name, halves)


@pytest.mark.full("compiled with fusion, to see that it is noticed")
def test_with_fusion_the_compiler_does_fuse() -> None:
    """Catches a check that sees nothing: with fusion on, weights are computed by multiply-adds."""
    assert any("fma.rn.f32" in line for line in offences(compile_all(90, fusion=True)["speculative.rejection.accept"]))
