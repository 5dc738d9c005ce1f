"""Kernel 4, a fixed number of programs: another interval, for the rows where the one before missed the boundary or held
too many tokens.

The missed rows stand in a list, and their tiles are shared out among all programs: the time is proportional to their
number, and next to none where there are none. Launched RETRIES times; what is missed then is searched for by `wide`.
"""

import triton
import triton.language as tl

from detsample.kernels.measure import measure
from detsample.kernels.overlap import wait_for_earlier
from detsample.kernels.rows import RETRIES
from detsample.kernels.tiles import TILE, logits_of_row

TASK = tl.constexpr(2)  # tiles a program takes at a time, at least

NOT_SPECIALIZED = ["row_stride", "vocab", "rows", "attempt", "pitch"]


@triton.jit(do_not_specialize=NOT_SPECIALIZED, do_not_specialize_on_alignment=["logits"])
def retry(
    logits, row_stride, vocab, rows, attempt, records, sums, missed, list_token, pitch, row_pivots,
    ALIGNED: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    wait_for_earlier(OVERLAP)
    tiles = (vocab + TILE - 1) // TILE
    rows_missed = tl.load(missed + attempt - 1)
    # Adding to sums and judging costs as much as several tiles: where rows are many, a program takes more at a time.
    each = tl.maximum(tl.cdiv(rows_missed.to(tl.int64) * tiles, tl.num_programs(0)), TASK).to(tl.int32)
    tasks = tl.cdiv(tiles, each)
    todo = rows_missed * tasks.to(tl.int64)
    for task in range(tl.program_id(0).to(tl.int64), todo, tl.num_programs(0)):
        row = tl.load(missed + RETRIES + (attempt - 1) * rows + task // tasks).to(tl.int64)
        first_tile = (task % tasks).to(tl.int32) * each
        row_logits = logits_of_row(logits, row, row_stride, ALIGNED)
        measure(
            row_logits, vocab, first_tile, tl.minimum(first_tile + each, tiles), tasks,
            records, sums, missed, row_pivots, list_token + row * pitch, row, rows, attempt,
        )  # fmt: skip
