"""What the compiler makes of the kernels of sharded rows: nothing fused, approximated or flushed; and they compile."""

from __future__ import annotations

import pytest
from compiled import TARGETS, offences
from compiled_sharded import KERNELS
from compiling import Request, results
from levels import only

pytest.importorskip("triton", reason="Triton is not installed: nothing can be compiled")
pytestmark = pytest.mark.triton_contract


@pytest.mark.parametrize(
    "capability", only(lambda c: c == 90, TARGETS, "PTX of another architecture"), ids=lambda c: f"sm_{c}"
)
def test_ptx_has_only_exactly_rounded_operations(capability: int) -> None:
    """Catches a kernel that does not compile for an architecture, fuses, approximates or flushes subnormals."""
    found = results([Request(name, capability) for name in KERNELS])
    lines = {name: offences(result["ptx"]) for name, result in found.items()}
    assert {name: some[:5] for name, some in lines.items() if some} == {}
