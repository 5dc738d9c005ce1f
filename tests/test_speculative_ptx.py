"""What the compiler makes of the kernels of speculative decoding: nothing fused, approximated or flushed, as
tests/test_ptx_contract.py asks of the others, and that they compile at all, which Triton's interpreter does not tell.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_ptx_contract import offences

pytest.importorskip("triton", reason="Triton is not installed: nothing can be compiled")
pytestmark = pytest.mark.triton_contract

TESTS = Path(__file__).resolve().parent
TARGETS = (80, 90, 120)  # the oldest, the newest and one between

REQUEST = (
    "rows:i32 width:i32 extra:i32 given:i32 counts:*i64 count_stride:i32 count_scalar:i32 row_offsets:*i64 "
    "offset_stride:i32 row_owner:*i32"
)
DRAFTS = "drafts:*i64 draft_row_stride:i32 draft_stride:i32"
DRAWN = "drawn:*i64 drawn_status:*i32 drawn_logprobs:*fp32"
TEMPERATURE = "row_given:i32 temperature:*fp32 temperature_stride:i32 temperature_bits:i32"
SEED = "seeds:*i64 seed_stride:i32 seed_low:i32 seed_high:i32 positions:*i64"
TARGET = "logits:*{dtype} row_stride:i32"
ROW = f"{TARGET} vocab:i32 mask:*i32 words:i32"
VALUES = "draft_values:*{dtype} draft_values_stride:i32"
MEASURED, OF_DRAFT = "peak:*fp32 mass:*i64", "draft_peak:*fp32 draft_mass:*i64"

KERNELS = {
    "speculative_rows.expand": (
        "rows:i32 requests:i32 width:i32 extra:i32 given:i32 counts:*i32 count_stride:i32 count_scalar:i32 "
        "row_offsets:*i32 offset_stride:i32 parents:*i32 parent_row_stride:i32 parent_stride:i32 temperature:*fp64 "
        "temperature_stride:i32 top_k:*i32 top_k_stride:i32 top_p:*bf16 top_p_stride:i32 min_p:*fp16 min_p_stride:i32 "
        "seed:*i64 seed_stride:i32 position:*i32 position_stride:i32 position_low:i32 position_high:i32 "
        "row_owner:*i32 row_temperature:*fp32 row_top_k:*i64 row_top_p:*fp32 row_min_p:*fp32 row_seed:*i64 "
        "row_position:*i64",
        {"FLAT": True, "TREE": True},
    ),
    "speculative_match.match": (
        f"vocab:i32 {REQUEST} {DRAFTS} {DRAWN} token_ids:*i64 num_accepted:*i32 status:*i32 logprobs:*fp32",
        {"WIDTH": 8, "FLAT": True, "LOGPROBS": True},
    ),
    "speculative_tree.longest_path": (
        f"vocab:i32 {REQUEST} {DRAFTS} {DRAWN} parents:*i64 parent_row_stride:i32 parent_stride:i32 token_ids:*i64 "
        "num_accepted:*i32 nodes:*i32 status:*i32 logprobs:*fp32",
        {"WIDTH": 64, "FLAT": True, "LOGPROBS": True},
    ),
    "speculative_rejection.measure_target": (f"{ROW} row_status:*i32 {TEMPERATURE} {MEASURED}", {}),
    "speculative_rejection.measure_draft": (
        "rows:*{dtype} row_stride:i32 vocab:i32 peak:*fp32 mass:*i64",
        {"LOGITS": False},
    ),
    "speculative_rejection.judge": (
        f"{ROW} row_status:*i32 {TEMPERATURE} {MEASURED} {SEED} {VALUES} draft_rows_count:i32 {OF_DRAFT} {REQUEST} "
        f"{DRAFTS} token_ids:*i64 num_accepted:*i32 status:*i32 logprobs:*fp32 decisions:*i64",
        {"WIDTH": 8, "FLAT": True, "LOGITS": True, "LOGPROBS": True},
    ),
    "speculative_rejection.residual": (
        f"{ROW} {TEMPERATURE} {MEASURED} {SEED} {VALUES} {OF_DRAFT} decisions:*i64 parts:i32 spans:i32 "
        "part_score:*i64 part_token:*i32",
        {"LOGITS": True},
    ),
    "speculative_rejection.finish": (
        f"{TARGET} {TEMPERATURE} {MEASURED} decisions:*i64 parts:i32 part_score:*i64 part_token:*i32 width:i32 "
        "token_ids:*i64 num_accepted:*i32 logprobs:*fp32",
        {"PARTS": 16, "LOGPROBS": True},
    ),
}

COMPILE = """
import json
import sys

sys.path.insert(0, sys.argv[1])
import test_speculative_ptx as here

for name in here.KERNELS:
    print(json.dumps([name, here.ptx(name, *json.loads(sys.argv[2]))]))
"""


def ptx(kernel: str, capability: int, dtype: str, fusion: bool) -> str:
    """The PTX of one kernel for one architecture."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    module, name = kernel.split(".")
    function = getattr(importlib.import_module(f"detsample.kernels.{module}"), name)
    text, constexprs = KERNELS[kernel]
    signature = dict(item.split(":") for item in text.format(dtype=dtype).split()) | dict.fromkeys(
        constexprs, "constexpr"
    )
    assert list(signature) == function.arg_names, kernel
    source = ASTSource(function, signature, dict(constexprs))
    options = {"num_warps": 8 if name.startswith(("measure", "residual")) else 4, "enable_fp_fusion": fusion}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options).asm["ptx"]


def compile_all(capability: int, dtype: str = "fp32", fusion: bool = False) -> dict[str, str]:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", COMPILE, str(TESTS), json.dumps([capability, dtype, fusion])]
    done = subprocess.run(command, env=environment, cwd=TESTS, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return dict(json.loads(line) for line in done.stdout.splitlines() if line.startswith("["))


@pytest.fixture(autouse=True)
def _fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What is tested was compiled now, from these sources."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


@pytest.mark.parametrize("capability", TARGETS)
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
    assert any("fma.rn.f32" in line for line in offences(compile_all(90, fusion=True)["speculative_rejection.judge"]))
