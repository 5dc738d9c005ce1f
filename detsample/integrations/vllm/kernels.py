"""The kernel behind a draw: one launch in place of the three that a framework needs for it."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from detsample.frameworks import torch_tensors
from detsample.kernels.sampling.dependent_launch import can_overlap, wait_for_earlier


@triton.jit(do_not_specialize=["rows", "slots", "pitch"])
def _settle(token_ids, status, invalid, ring, draws, rows, slots, pitch, WIDTH: tl.constexpr, OVERLAP: tl.constexpr):
    wait_for_earlier(OVERLAP)
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

    They go to slot ``draws % S`` of the ring [S, >= R], and `draws` [1] counts on: the slot is found on the device, so
    that one CUDA graph serves all of them. All five start on 16 bytes, so that a type of tokens has one kernel. On a
    GPU that can, its program starts while the draw's last kernel ends, and waits for it.
    """
    slots, pitch = ring.shape
    early = {"launch_pdl": True} if can_overlap(torch_tensors.compute_capability(torch_tensors.device(ring))) else {}
    _settle[(1,)](
        token_ids, status, invalid, ring, draws, len(token_ids), slots, pitch,
        WIDTH=triton.next_power_of_2(pitch), OVERLAP=bool(early), **early,
    )  # fmt: skip
