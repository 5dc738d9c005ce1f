"""Compiles the kernels of sharded rows for GPUs that need not be there, as `compiled.py` does the others."""

from __future__ import annotations

from detsample.kernels.sampling.rows import PARAMETER_NAMES

POINTERS = {
    "temperature": "*fp32", "top_k": "*i64", "top_p": "*fp32", "min_p": "*fp32", "seed": "*i64", "position": "*i64"
}  # fmt: skip
PARAMETERS = " ".join(
    f"{name}:{POINTERS[name[:-4]] if name.endswith('_ptr') else 'i32'}" for name in PARAMETER_NAMES
)
LOGITS = "logits:*{dtype} row_stride:i32 allowed:*u32 allowed_stride:i32 columns:i32"
COUNTS = "start:i32 vocab:i32 rows:i32 ranks:i32 told:i32"
GIVEN = f"given:i32 {PARAMETERS}"
MERGE = {"RANKS": 2, "SLOTS": 64}
RESULTS = "token_ids:*i64 num_kept:*i32 {status}:*i32 logprobs:*fp32 log_z:*fp32"

KERNELS = {
    "sharded.heads.tell_heads": (
        f"{LOGITS} start:i32 told:i32 drawn_status:*i32 row_offsets:*i64 tokens:*i32 message:*i64",
        {"GIVEN": 1, "ALLOWED": False, "SLOTS": 64},
    ),
    "sharded.look.look": (
        f"{LOGITS} {COUNTS} {GIVEN} heads:*i64 message:*i64",
        {"SUM": True, "DRAW": True, "SHIFTED": True, "ALLOWED": True, **MERGE},
    ),
    "sharded.look.count_mask": ("mask:*i1 columns:i32 counts:*i32", {}),
    "sharded.settle.settle": (
        f"{COUNTS} filter_order:i32 {GIVEN} heads:*i64 sums:*i64 parts:i32 records:*i64 maxima:*i32 "
        + RESULTS.format(status="row_statuses"),
        {"SUMMED": True, "TOLD_BEST": True, "DRAW": True, **MERGE, "PARTS": 128},
    ),
    "sharded.exchange.copy_rows": (
        f"{LOGITS} rows:i32 each:i32 result:*{{dtype}} result_stride:i32 result_start:i32", {"ALLOWED": True}
    ),
    "sharded.exchange.tell_drawn": (f"{RESULTS.format(status='status')} records:*i64 each:i32 message:*i64", {}),
    "sharded.exchange.take_drawn": (
        f"told:*i64 start:i32 rows:i32 each:i32 records:*i64 maxima:*i32 {RESULTS.format(status='status')}", {}
    ),
}  # fmt: skip
