"""Compiles the kernels of sharded rows for GPUs that need not be there, as `compiled.py` does the others."""

from __future__ import annotations

from detsample.kernels.sampling.rows import PARAMETER_NAMES

POINTERS = {
    "temperature": "*fp32", "top_k": "*i64", "top_p": "*fp32", "min_p": "*fp32", "seed": "*i64", "position": "*i64"
}  # fmt: skip
PARAMETERS = " ".join(
    f"{name}:{POINTERS[name[:-4]] if name.endswith('_ptr') else 'i32'}" for name in PARAMETER_NAMES
)
LOGITS = "logits:*{dtype} row_stride:i32 columns:i32 start:i32"
COUNTS = "vocab:i32 rows:i32 ranks:i32 told:i32"
GIVEN = f"given:i32 {PARAMETERS}"
MERGE = {"RANKS": 2, "SLOTS": 64}

KERNELS = {
    "sharded.heads.tell_heads": (
        f"{LOGITS} told:i32 drawn_status:*i32 row_offsets:*i64 tokens:*i32 message:*i64", {"GIVEN": 1, "SLOTS": 64}
    ),
    "sharded.heads.copy_rows": (
        "logits:*{dtype} row_stride:i32 columns:i32 allowed:*i32 allowed_stride:i32 result:*{dtype} result_stride:i32",
        {"WORD": 32},
    ),
    "sharded.look.look": (
        f"{LOGITS} {COUNTS} {GIVEN} heads:*i64 state:*i64 message:*i64",
        {"SUM": True, "SEARCH": True, "DRAW": True, "TO_LAST": False, "SHIFTED": True, **MERGE},
    ),
    "sharded.look.look/last": (
        f"{LOGITS} {COUNTS} {GIVEN} heads:*i64 state:*i64 message:*i64",
        {"SUM": False, "SEARCH": False, "DRAW": True, "TO_LAST": True, "SHIFTED": False, **MERGE},
    ),
    "sharded.look.count_mask": ("mask:*i1 columns:i32 counts:*i32", {}),
    "sharded.settle.settle": (
        f"start:i32 {COUNTS} filter_order:i32 {GIVEN} heads:*i64 sums:*i64 best:*i64 parts:i32 state:*i64 message:*i64 "
        "records:*i64 maxima:*i32 token_ids:*i64 num_kept:*i32 row_statuses:*i32 logprobs:*fp32 log_z:*fp32",
        {"STAGE": 2, "WRITES": True, "SUMMED": True, "TOLD_BEST": True, "DRAW": True, **MERGE, "PARTS": 128},
    ),
    "sharded.settle.settle/begin": (
        f"start:i32 {COUNTS} filter_order:i32 {GIVEN} heads:*i64 sums:*i64 best:*i64 parts:i32 state:*i64 message:*i64 "
        "records:*i64 maxima:*i32 token_ids:*i64 num_kept:*i32 row_statuses:*i32 logprobs:*fp32 log_z:*fp32",
        {"STAGE": 0, "WRITES": False, "SUMMED": True, "TOLD_BEST": False, "DRAW": False, **MERGE, "PARTS": 128},
    ),
    "sharded.search.count_digits": (
        f"{LOGITS} {COUNTS} {GIVEN} heads:*i64 state:*i64 message:*i64",
        {"SHIFTED": False, **MERGE},
    ),
    "sharded.search.narrow": (
        "logits:*{dtype} row_stride:i32 columns:i32 rows:i32 ranks:i32 own_rank:i32 told_digits:*i64 state:*i64 "
        "message:*i64",
        {"LAST": True},
    ),
}  # fmt: skip
