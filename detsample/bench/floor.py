"""The floor: a kernel that reads every logit once and keeps a maximum, at the best of several cuts."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl

CUTS = tuple((block, warps, each) for block, warps in ((1024, 4), (2048, 4), (4096, 8)) for each in (4, 8, 16))
"""Tokens a step, warps a program, programs a multiprocessor."""


@triton.jit
def largest(logits, row_stride, vocab, part_tokens, result, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    logits += row * (row_stride // 16) * 16
    most = tl.full([BLOCK], float("-inf"), tl.float32)
    for start in range(part * part_tokens, tl.minimum((part + 1) * part_tokens, vocab), BLOCK):
        token = start + tl.arange(0, BLOCK)
        if start + BLOCK <= vocab:
            x = tl.load(logits + token).to(tl.float32)
        else:
            x = tl.load(logits + token, mask=token < vocab, other=float("-inf")).to(tl.float32)
        most = tl.maximum(most, x)
    tl.store(result + row * tl.num_programs(1) + part, tl.max(most, axis=0))


def calls(inputs: list[Any], multiprocessors: int) -> list[list[Callable[[], Any]]]:
    """For each cut one call an input, which is a torch tensor [B, V] with a row stride divisible by 16."""
    rows, vocab = inputs[0].shape
    found: list[list[Callable[[], Any]]] = []
    for block, warps, each in CUTS:
        parts = max(1, min(triton.cdiv(vocab, block), each * multiprocessors // rows))
        part_tokens = triton.cdiv(triton.cdiv(vocab, parts), block) * block
        grid = (rows, triton.cdiv(vocab, part_tokens))
        result = torch.empty(grid, device=inputs[0].device)
        sizes = (vocab, part_tokens, result)
        start = functools.partial(largest[grid], BLOCK=block, num_warps=warps)
        found.append([functools.partial(start, x, x.stride(0), *sizes) for x in inputs])
    return found
