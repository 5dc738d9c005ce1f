"""Compiles the kernels for GPUs that need not be there: what the emitted code contains is part of the contract."""

import importlib
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

TARGETS = (80, 89, 90, 100, 120)

PARAMETERS = (
    "temperature_ptr:*fp32 temperature_stride:i32 temperature_bits:i32 "
    "top_k_ptr:*i64 top_k_stride:i32 top_k_scalar:i32 "
    "top_p_ptr:*fp32 top_p_stride:i32 top_p_bits:i32 min_p_ptr:*fp32 min_p_stride:i32 min_p_bits:i32 "
    "seed_ptr:*i64 seed_stride:i32 seed_low:i32 seed_high:i32 "
    "position_ptr:*i64 position_stride:i32 position_low:i32 position_high:i32"
)
SUMS = "records:*i64 sums:*i64 missed:*i32"
GROUPS = "group_bound:*fp32 part_key:*i32 part_counts:*i32 row_pivots:*fp32 part_rungs:*fp32"
MASK = "mask_stride:i32 AS_BITS:constexpr ALIGNED:constexpr ALLOWED:constexpr"
RESULTS = "token_ids:*i64 num_kept:*i32 status:*i32 logprobs:*fp32 log_z:*fp32"
ROW = "logits:*{dtype} row_stride:i32 vocab:i32"
DRAWN = "logits:*{dtype} row_stride:i32 allowed:*u32 allowed_stride:i32 vocab:i32"
CUT = DRAWN + " quads:i32 segment_tiles:i32"
STRETCHES = DRAWN + " quads:i32 stretch_tiles:i32 stretches:i32"
CUT_STRETCHES = DRAWN + " quads:i32 stretch_tiles:i32 parts:i32 stretches:i32"
MAXIMA = "records:*i64 group_key:*i32 pitch:i32 quads:i32 segment_tiles:i32"
SETS = "kept:*i32 words:i32 parts:i32 listed:i32"
TEMPERATURE = "temperature_ptr:*fp32 temperature_stride:i32 temperature_bits:i32"

CONSTANTS = {"SPAN": 128, "BITS": 4}

KERNELS = {
    "sampling.summarize.summarize": (
        f"{CUT} segments:i32 segments_of_part:i32 parts:i32 stretches:i32 segments_of_stretch:i32 "
        f"want:i32 filter_order:i32 given:i32 {PARAMETERS} {SUMS} group_key:*i32 pitch:i32 {GROUPS} "
        "ALIGNED:constexpr OVERLAP:constexpr ALLOWED:constexpr",
        4,
    ),
    "sampling.settle.settle": (
        f"{CUT} segments_of_part:i32 groups:i32 parts:i32 stretches:i32 stretch_tiles:i32 want:i32 every_row:i32 "
        f"{SUMS} group_key:*i32 pitch:i32 {GROUPS} scratch_code:*i64 {RESULTS} OVERLAP:constexpr "
        "ALLOWED:constexpr",
        8,
    ),
    "sampling.sum_weights.sum_weights": (
        f"{CUT_STRETCHES} rows:i32 attempt:i32 every_row:i32 {SUMS} list_token:*i32 pitch:i32 "
        "group_bound:*fp32 ALIGNED:constexpr OVERLAP:constexpr ALLOWED:constexpr",
        4,
    ),
    "sampling.finish.finish": (
        f"{STRETCHES} want:i32 records:*i64 sums:*i64 list_token:*i32 pitch:i32 group_bound:*fp32 "
        f"scratch_code:*i64 {RESULTS} ALIGNED:constexpr OVERLAP:constexpr ALLOWED:constexpr",
        16,
    ),
    "sampling.masks.dense_mask/bools": (f"{DRAWN} {MAXIMA} mask:*i1 {MASK}", 4),
    "sampling.masks.dense_mask/bits": (f"{DRAWN} {MAXIMA} mask:*i32 {MASK}", 4),
    "sampling.masks.csr_offsets": ("rows:i32 num_kept:*i32 row_offsets:*i64", 4),
    "sampling.masks.csr_counts": (f"{DRAWN} {MAXIMA} span_counts:*i32 ALIGNED:constexpr ALLOWED:constexpr", 4),
    "sampling.masks.csr_tokens": (
        f"{DRAWN} {MAXIMA} span_counts:*i32 row_offsets:*i64 kept:*i32 ALIGNED:constexpr ALLOWED:constexpr", 4
    ),
    "sampling.masks.csr_tail": ("rows:i32 capacity:i32 row_offsets:*i64 kept:*i32", 4),
    "observation.survey": (f"{ROW} {SETS} part_places:*i64 part_kept_key:*i32", 4),
    "observation.weigh": (
        f"{ROW} {SETS} given:i32 {TEMPERATURE} token_ids:*i64 part_places:*i64 part_kept_key:*i32 part_sums:*i64",
        8,
    ),
    "observation.tell": (
        f"{ROW} {SETS} top_n:i32 given:i32 {TEMPERATURE} token_ids:*i64 part_places:*i64 part_kept_key:*i32 "
        "part_sums:*i64 logprobs:*fp32 raw_logprobs:*fp32 rank:*i32 entropy:*fp32 top_token_ids:*i32 "
        "top_logprobs:*fp32",
        4,
    ),
    "margin.margin": (
        f"{ROW} filter_order:i32 given:i32 {PARAMETERS} token_ids:*i64 status:*i32 result:*fp32 "
        "SPAN:constexpr BITS:constexpr",
        8,
    ),
    "noise.noise": (
        "columns:i32 tokens:*i64 token_row_stride:i32 token_stride:i32 given:i32 "
        "seed_ptr:*i64 seed_stride:i32 seed_low:i32 seed_high:i32 position_ptr:*i64 position_stride:i32 "
        "position_low:i32 position_high:i32 result:*fp64",
        4,
    ),
    "noise.folded_seeds": (
        "count:i32 given:i32 seed_ptr:*i64 seed_stride:i32 seed_low:i32 seed_high:i32 index_ptr:*i64 "
        "index_stride:i32 "
        "index_low:i32 index_high:i32 result:*i64",
        4,
    ),
    "processing.process": (
        "logits:*{dtype} row_stride:i32 vocab:i32 rows:i32 width:i32 how:i32 offsets_given:i32 row_offsets:*i64 "
        "drafts:*i64 draft_row_stride:i32 parents:*i64 parent_row_stride:i32 given:i32 "
        + " ".join(f"{n}:*fp32 {n}_stride:i32 {n}_bits:i32" for n in ("repetition", "frequency", "presence"))
        + " min_length:*i64 length_stride:i32 length_scalar:i32 "
        + " ".join(
            f"{n}:*i64 {n}_starts:*i64 {n}_ends:*i64 {n}_stride:i32 {n}_width:i32 {n}_size:i32"
            + (" bias_values:*fp32" if n == "bias" else "")
            for n in ("prompt", "output", "bias", "banned", "stop", "only")
        )
        + " bad_words:*i64 words_stride:i32 bad_count:i32 longest:i32 "
        "marks:*i32 chosen:*i32 path:*i64 matched:*i64 TREE:constexpr",
        16,
    ),
    "contract.probability.log_probabilities": ("vocab:i32 probabilities:*fp32 row_stride:i32 result:*fp32", 4),
}

ALLOWED = (*(f"{name}.{name}" for name in ("summarize", "settle", "sum_weights", "finish")), "masks.csr_counts")
KERNELS |= {f"sampling.{name}/allowed": KERNELS[f"sampling.{name}"] for name in ALLOWED}


def place(kernel: str) -> tuple[str, str]:
    """A kernel's module, below `detsample.kernels`, and its name there; what follows a slash is a variant of it."""
    module, _, name = kernel.partition("/")[0].rpartition(".")
    return module, name


def compiled(
    kernel: str,
    capability: int,
    dtype: str = "fp32",
    fusion: bool = False,
    aligned: bool = True,
) -> Any:
    """The compiled kernel for one architecture; `asm` holds its "ptx" and "cubin". Nothing is said of any pointer."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from detsample.kernels.sampling.dependent_launch import can_overlap

    module, name = place(kernel)
    function = getattr(importlib.import_module(f"detsample.kernels.{module}"), name)
    text, warps = KERNELS[kernel]
    signature = dict(item.split(":") for item in text.format(dtype=dtype).split())
    waits = can_overlap(capability)
    constants = CONSTANTS | {"OVERLAP": waits, "ALIGNED": aligned, "AS_BITS": kernel.endswith("/bits")}
    constants |= {"ALLOWED": kernel.endswith("/allowed"), "TREE": True}
    constexprs = {name: value for name, value in constants.items() if name in signature}
    source = ASTSource(function, signature, constexprs)
    options = {"num_warps": warps, "enable_fp_fusion": fusion}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def instructions(ptx: str) -> set[str]:
    """The opcodes with their modifiers that occur in PTX text."""
    # First on its line, or behind a brace or a guard; neither a directive nor a label.
    opcode = r"^[\s{]*(?:@!?%\w+\s+)?([a-z][A-Za-z0-9_.:]*)(?=[\s;])"
    return set(re.findall(opcode, ptx, flags=re.MULTILINE))


def machine_code(cubin: bytes) -> list[str] | None:
    """The instructions in a cubin, one a line, guards left out; None where Triton came without cuobjdump."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    if not tool.exists():
        return None
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(tool), "-sass", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    return re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][^;]*?)\s*;", text, flags=re.MULTILINE)


# Approximations and fused operations. `div.rn`, of fp32 or fp64, is correctly rounded; `div.full` and
# `div.approx` are not.
FORBIDDEN = re.compile(
    r"\bfma\b|\bmad\.\w*\.?f\d|approx|\.ftz|\bdiv\.full|sqrt|\bex2|\blg2|\brcp\b|\bsin\b|\bcos\b|tanh"
)
# Any call: libdevice is linked in before PTX is written, so a call of it would be inlined or appear as one.
CALLS = re.compile(r"\bcall(\.uni)?\b|\.extern\s+\.func|__nv_")


def code_lines(ptx: str) -> list[str]:
    """The lines of PTX that are code: debug information names files and functions, which may be called anything."""
    text = re.split(r"\.section\s+\.debug", ptx)[0]
    lines = (line.split("//")[0] for line in text.splitlines())
    return [line for line in lines if not re.match(r"\s*\.(file|loc)\b", line)]


PASSES = (
    "sampling.summarize.summarize", "sampling.settle.settle", "sampling.sum_weights.sum_weights",
    "sampling.finish.finish",
)  # fmt: skip
"""The kernels of a draw, in the order in which they are launched."""
READING = (PASSES[0], PASSES[2])
"""Those that read every logit."""
GUESSING = ("sampling.summarize.summarize", "sampling.settle.settle", "sampling.sum_weights.sum_weights")
"""Kernels that compute rough weights by hardware's exp2. On these hang speed, and what their proven error decides."""
ROUGH = re.compile(r"ex2\.approx\.ftz\.f32")


def is_rough(name: str) -> bool:
    """Whether a kernel is one of `GUESSING`, also as it is compiled for sets of allowed tokens."""
    return name.partition("/")[0] in GUESSING


def offences(ptx: str, name: str = "") -> list[str]:
    """The lines of PTX that the contract does not allow, in the kernel of this name."""
    found = [line.strip() for line in code_lines(ptx) if FORBIDDEN.search(line) or CALLS.search(line)]
    return [line for line in found if not (is_rough(name) and ROUGH.match(line))]
