"""What the compiler makes of the kernels, for GPUs that need not be there: section 1 of the contract in PTX and
machine code.

Each kernel is compiled once for each architecture, in a process of its own (tests/support/compiling.py).
"""

from __future__ import annotations

import re
from typing import Any

import cases
import kernel_path
import numpy as np
import pytest
from compiled import KERNELS, PASSES, READING, ROUGH, TARGETS, code_lines, is_rough, offences
from compiling import Request, results
from kernel_path import assert_same
from levels import FULL

from detsample import reference

pytest.importorskip("triton", reason="Triton is not installed: nothing can be compiled")
pytestmark = pytest.mark.triton_contract

ALL = tuple(KERNELS) if FULL else READING
"""At the short level those that the tests of barriers have compiled anyway."""


def compile_all(
    capability: int,
    kernels: tuple[str, ...] = ALL,
    dtype: str = "fp32",
    fusion: bool = False,
    aligned: bool = True,
) -> dict[str, dict[str, Any]]:
    """For each kernel (all that the level has by default) its PTX, opcodes and, for one architecture, machine code."""
    return results([Request(name, capability, dtype, fusion, aligned) for name in kernels])


def on_targets(capabilities: tuple[int, ...]) -> list[Any]:
    """One parameter for each architecture, which one process tests: no kernel is compiled twice."""
    other = [pytest.mark.full("PTX of another architecture")]
    return [
        pytest.param(c, marks=[pytest.mark.xdist_group(f"sm_{c}"), *(other if c != 90 else [])], id=f"sm_{c}")
        for c in capabilities
    ]


@pytest.mark.parametrize("capability", on_targets(TARGETS))
def test_ptx_has_only_exactly_rounded_operations(capability: int) -> None:
    """Catches a launch, a Triton or a kernel that fuses, approximates, flushes subnormals or calls a math library."""
    kernels = compile_all(capability)
    found = {name: offences(kernel["ptx"], name) for name, kernel in kernels.items()}
    assert found, "nothing was compiled"
    assert {name: lines[:5] for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize("capability", on_targets((90,)))
def test_overlapping_kernels_wait_before_they_touch_memory(capability: int) -> None:
    """Catches a load that the compiler moved ahead of the wait for the kernel that writes what is loaded."""
    from detsample.kernels.sampling import dependent_launch as overlap

    if not overlap.SUPPORTED:
        pytest.skip("this Triton cannot wait inside a kernel: launches never overlap")
    names = PASSES if FULL else READING
    touches = re.compile(r"(LDG|STG|ATOMG?|RED|ACQBULK)\b")
    for name, kernel in compile_all(capability, names).items():
        lines = code_lines(kernel["ptx"])
        waits = next(at for at, text in enumerate(lines) if "griddepcontrol.wait" in text)
        first = next(at for at, text in enumerate(lines) if re.search(r"\b(ld|st|atom|red)\.global", text))
        assert waits < first, name
        code = [match[0] for text in kernel["sass"] or () if (match := touches.match(text))]
        assert code[:1] in ([], ["ACQBULK"]), (name, code[:3])


@pytest.mark.parametrize("capability", on_targets((90,)))
def test_every_fp32_operation_is_rounded_to_nearest(capability: int) -> None:
    """Catches `add.f32` without `.rn`, which ptxas may fuse, and any operation nobody has looked at yet."""
    known = re.compile(
        r"(add|sub|mul)\.rn\.f(32|64)|div\.rn\.f64|(min|max)(\.NaN)?\.f32|abs\.f32|neg\.f32|(mov|selp)\.f(32|64)"
        r"|setp\.\w+\.f(32|64)|(ld|st)\.[\w:.]+\.f(32|64)|cvt\.(f64\.f32|rn\.f32\.f64)"
        r"|cvt\.rn\.f(32|64)\.[su](32|64)|cvt\.rzi\.[su](32|64)\.f(32|64)"
    )
    found = {
        f"{name}: {opcode}"
        for name, kernel in compile_all(capability).items()
        for opcode in kernel["opcodes"]
        if re.search(r"\.f(16|32|64)\b", opcode) and not known.fullmatch(opcode)
        if not (is_rough(name) and ROUGH.fullmatch(opcode))
    }
    assert found == set()


@pytest.mark.full("compiled for another element type")
@pytest.mark.parametrize("capability", on_targets((90,)))
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_sixteen_bit_logits_are_only_widened(dtype: str, capability: int) -> None:
    """Catches 16-bit arithmetic: 16-bit floats are converted to fp32 or compared, and nothing else."""
    for name, kernel in compile_all(capability, READING, dtype).items():
        assert offences(kernel["ptx"], name) == [], name
        halves = {opcode for opcode in kernel["opcodes"] if re.search(r"\.b?f16", opcode)}
        assert all(re.fullmatch(r"cvt\.f32\.b?f16|setp\.\w+\.b?f16(x2)?", opcode) for opcode in halves), (name, halves)


@pytest.mark.full("compiled for another element type")
@pytest.mark.parametrize("capability", on_targets((90,)))
@pytest.mark.parametrize(("dtype", "width"), [("fp32", "v4.b32"), ("bf16", "v2.b32")])
def test_aligned_rows_are_loaded_a_quad_at_a_time(dtype: str, width: str, capability: int) -> None:
    """Catches the alignment of rows lost on its way through the compiler, which is told of it by ALIGNED alone; and one
    taken for granted, where a load faults.
    """
    names = READING
    vectors = re.compile(r"\bld\.global\S*?\.(v\d\.\w+)")
    for aligned, expected in ((True, {width}), (False, set())):
        for name, kernel in compile_all(capability, names, dtype, aligned=aligned).items():
            assert set(vectors.findall(kernel["ptx"])) == expected, (name, aligned)


# ---- the test can fail


@pytest.mark.full("compiled with fusion, to see that it is noticed")
@pytest.mark.parametrize("capability", on_targets((90,)))
def test_with_fusion_the_compiler_does_fuse(capability: int) -> None:
    """Catches a check that would also pass with fusion on: then `fma` appears wherever weights or bounds are
    computed.
    """
    for name, kernel in compile_all(capability, READING, fusion=True).items():
        assert any("fma.rn.f32" in line for line in offences(kernel["ptx"])), name
        if kernel["sass"] is not None:
            assert len(fused(kernel["sass"])) >= 4, name


@pytest.mark.parametrize(
    "line",
    [
        "fma.rn.f32 	%f1, %f2, %f3, %f4;", "@%p1 ex2.approx.ftz.f32 %f1, %f2;", "div.full.f32 %f1, %f2, %f3;",
        "{ mul.ftz.f32 %f1, %f2, %f3; }", "call.uni (retval0), __nv_expf, (param0);", "sqrt.rn.f32 %f1, %f2;",
        "mad.rn.f32 %f1, %f2, %f3, %f4;", "div.approx.f32 %f1, %f2, %f3;", ".extern .func (.param .b32 r) vprintf",
    ],
)  # fmt: skip
def test_offences_are_recognised(line: str) -> None:
    """Catches a pattern that matches nothing."""
    assert offences("\n\t" + line) == [line]


def test_what_is_no_offence() -> None:
    """Catches a pattern that matches integer arithmetic or debug information."""
    fine = 'mad.lo.s32 %r1, %r2, %r3, %r4;\n\t.file 1 "fma/sqrt.py"\nadd.rn.f32 %f1, %f2, %f3; // fma\n'
    fine += "\t.section .debug_str\nsqrt"
    assert offences(fine) == []


# ---- machine code


def fused(code: list[str]) -> list[str]:
    """The fp32 multiply-adds in machine code, but for those of fp64 division.

    `FFMA d, RZ, a, b` multiplies by zero: with it ptxas looks at the exponent of a quotient to find the rare
    operands of a division that need the slow way. What it yields decides a branch and is part of no result.
    """
    return [line for line in code if re.match(r"F(FMA|MAD)", line) and not re.match(r"FFMA\S* \w+, RZ, ", line)]


# Machine code that estimates, fuses in fp64, flushes subnormals or does not round to nearest.
UNUSUAL = re.compile(r"MUFU|DFMA|\S*\.FTZ|\S*\.R[MPZ] ")


def allowed_helpers(ptx: str) -> str:
    """A pattern of the approximate or fused instructions of which ptxas makes exact divisions, where there are any.

    `div.rn.f64` (IEEE-correct: a reciprocal's estimate, refined by fp64 FMAs and corrected) and division of integers,
    which is exact whatever the estimate it starts from.
    """
    allowed = []
    if "div.rn.f64" in ptx:
        allowed += [r"MUFU\.RCP64H ", r"DFMA(\.R[MPZ])? ", r"DMUL\.RP "]
    if re.search(r"\b(div|rem)\.[su](32|64)", ptx):
        allowed += [r"MUFU\.RCP ", r"F2I\.FTZ\.U32\.TRUNC\.NTZ ", r"I2F(\.U(32|64))?\.RP ", r"F2I\.U64\.TRUNC "]
    return "|".join(allowed) or r"(?!)"


@pytest.mark.parametrize("capability", on_targets((90,)))
def test_machine_code_fuses_and_approximates_nothing(capability: int) -> None:
    """Catches ptxas fusing what PTX kept apart, flushing subnormals, or using the special-function unit."""
    for name, kernel in compile_all(capability).items():
        code = kernel["sass"]
        if code is None:
            pytest.skip("this Triton came without cuobjdump")
        assert len(code) > 20, name
        rough = r"|MUFU\.EX2 " if is_rough(name) else ""
        helpers = re.compile(allowed_helpers("\n".join(code_lines(kernel["ptx"]))) + rough)
        suspects = [line for line in code if UNUSUAL.match(line) and not helpers.match(line)]
        assert suspects + fused(code) == [], name
        assert "div.rn.f64" in kernel["ptx"] or not [line for line in code if line.startswith("FFMA")], name


# ---- and what it means


def test_a_few_rows_equal_the_reference() -> None:
    """Catches a Triton in which an operation means something else: the kernels' bits, with the version installed."""
    rng = np.random.default_rng(33)
    for vocab in (31, 700):
        logits = cases.mixed(rng, 4, vocab)
        parameters = cases.parameters(rng, 4, vocab)
        wanted: dict[str, Any] = {"return_log_z": True, "return_mask": "csr"}
        found = kernel_path.sample(logits, **parameters, **wanted)
        assert_same(found, reference.sample(logits, **parameters, **wanted), parameters)
    flat = np.zeros((1, 1300), np.float32)
    for parameters in ({"top_k": 600}, {"top_p": 0.7}, {"min_p": 0.5}):
        found = kernel_path.sample(flat, 3, **parameters)
        assert_same(found, reference.sample(flat, 3, **parameters), parameters)
