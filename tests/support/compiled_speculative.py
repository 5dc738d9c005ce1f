"""Compiles the kernels of speculative decoding for GPUs that need not be there, as `compiled.py` does the others."""

from __future__ import annotations

import importlib
from typing import Any

from compiled import place
from compiled_sharded import KERNELS as OF_SHARDS

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
    "speculative.rows.expand": (
        "rows:i32 requests:i32 width:i32 extra:i32 given:i32 counts:*i32 count_stride:i32 count_scalar:i32 "
        "row_offsets:*i32 offset_stride:i32 parents:*i32 parent_row_stride:i32 parent_stride:i32 temperature:*fp64 "
        "temperature_stride:i32 top_k:*i32 top_k_stride:i32 top_p:*bf16 top_p_stride:i32 min_p:*fp16 min_p_stride:i32 "
        "seed:*i64 seed_stride:i32 position:*i32 position_stride:i32 position_low:i32 position_high:i32 "
        "row_owner:*i32 row_temperature:*fp32 row_top_k:*i64 row_top_p:*fp32 row_min_p:*fp32 row_seed:*i64 "
        "row_position:*i64",
        {"FLAT": True, "TREE": True},
    ),
    "speculative.match.match": (
        f"vocab:i32 {REQUEST} {DRAFTS} {DRAWN} token_ids:*i64 num_accepted:*i32 status:*i32 logprobs:*fp32",
        {"WIDTH": 8, "FLAT": True, "LOGPROBS": True},
    ),
    "speculative.tree.longest_path": (
        f"vocab:i32 {REQUEST} {DRAFTS} {DRAWN} parents:*i64 parent_row_stride:i32 parent_stride:i32 token_ids:*i64 "
        "num_accepted:*i32 nodes:*i32 status:*i32 logprobs:*fp32",
        {"WIDTH": 64, "FLAT": True, "LOGPROBS": True},
    ),
    "speculative.rejection.measure_target": (f"{ROW} row_status:*i32 {TEMPERATURE} {MEASURED}", {}),
    "speculative.rejection.measure_draft": (
        "rows:*{dtype} row_stride:i32 vocab:i32 peak:*fp32 mass:*i64",
        {"LOGITS": False},
    ),
    "speculative.rejection.accept": (
        f"{ROW} row_status:*i32 {TEMPERATURE} {MEASURED} {SEED} {VALUES} draft_rows_count:i32 {OF_DRAFT} {REQUEST} "
        f"{DRAFTS} token_ids:*i64 num_accepted:*i32 status:*i32 logprobs:*fp32 decisions:*i64",
        {"WIDTH": 8, "FLAT": True, "LOGITS": True, "LOGPROBS": True},
    ),
    "speculative.rejection.residual": (
        f"{ROW} {TEMPERATURE} {MEASURED} {SEED} {VALUES} {OF_DRAFT} decisions:*i64 parts:i32 spans:i32 "
        "part_score:*i64 part_token:*i32",
        {"LOGITS": True},
    ),
    "speculative.rejection.finish": (
        f"{TARGET} {TEMPERATURE} {MEASURED} decisions:*i64 parts:i32 part_score:*i64 part_token:*i32 width:i32 "
        "token_ids:*i64 num_accepted:*i32 logprobs:*fp32",
        {"PARTS": 16, "LOGPROBS": True},
    ),
}


def compiled(kernel: str, capability: int, dtype: str = "fp32", fusion: bool = False, aligned: bool = True) -> Any:
    """The compiled kernel for one architecture; of `aligned` these kernels know nothing."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    module, name = place(kernel)
    function = getattr(importlib.import_module(f"detsample.kernels.{module}"), name)
    text, constexprs = (KERNELS | OF_SHARDS)[kernel]
    signature = dict(item.split(":") for item in text.format(dtype=dtype).split()) | dict.fromkeys(
        constexprs, "constexpr"
    )
    assert list(signature) == function.arg_names, kernel
    source = ASTSource(function, signature, dict(constexprs))
    options = {"num_warps": 8 if name.startswith(("measure", "residual")) else 4, "enable_fp_fusion": fusion}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
