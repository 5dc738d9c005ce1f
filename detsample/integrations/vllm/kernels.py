"""The kernel behind a draw: one launch in place of the three that a framework needs for it."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["rows", "slots", "pitch"])
def _settle(token_ids, status, invalid, ring, draws, rows, slots, pitch, WIDTH: tl.constexpr):
    number = tl.load(draws)
    tokens = ring + number % slots * pitch
    index = tl.arange(0, WIDTH)
    inside = index < rows
    tl.store(tokens + index, tl.maximum(tl.load(token_ids + index, mask=inside), 0), mask=inside)
    bits = tl.load(status + index, mask=inside, other=0)
    tl.store(invalid + index, tl.load(invalid + index, mask=inside) | bits, mask=inside & (bits != 0))
    tl.debug_barrier()  # every lane has read the number
    tl.store(draws, number + 1)


def settle_tokens(token_ids: Any, status: Any, invalid: Any, ring: Any, draws: Any) -> None:
    """Write a draw's tokens as vLLM takes them, 0 in place of -1, and collect the status bits of its rows.

    Which slot of the ring they go to is read on the device, so that one CUDA graph serves all of them.

    Parameters
    ----------
    token_ids : [R] int64
    status : [R] int32
    invalid : [>= R] int32
        Gets the bits of `status` as well.
    ring : [S, >= R] int32 or int64
        Slot ``draws % S`` is written to.
    draws : [1] int64
        How many draws there were; one more when this is over. All five start on 16 bytes, so that there is one kernel
        for a type of tokens.
    """
    slots, pitch = ring.shape
    _settle[(1,)](
        token_ids, status, invalid, ring, draws, len(token_ids), slots, pitch, WIDTH=triton.next_power_of_2(pitch)
    )
