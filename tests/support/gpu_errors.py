"""How far the contract's functions are from real ones, over every input there is, on a GPU.

The weight function is evaluated at all 2^32 fp32 numbers, the noise at all 2^32 high words (each with a random
low word), and both are compared with fp64. The bounds of docs/contract/spec.md are asserted.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from detsample.kernels.contract.gumbel import gumbel
from detsample.kernels.contract.weight import weight

BLOCK = tl.constexpr(1024)
CHUNK = 1 << 26


@triton.jit
def weights_of_bits(first, result):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    gap = (first + place).to(tl.uint32).to(tl.float32, bitcast=True)
    tl.store(result + place, weight(gap))


@triton.jit
def noise_of_words(first, low, result):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    tl.store(result + place, gumbel((first + place).to(tl.uint32), tl.load(low + place).to(tl.uint32)))


def weight_errors(torch: Any) -> dict[str, float]:
    """The largest error of W over every fp32 gap of at least 0, as a share of what section 5 allows; and
    whether W is monotone.
    """
    found = torch.empty(CHUNK, dtype=torch.int64, device="cuda")
    worst, previous, monotone, inputs = 0.0, 1 << 40, True, 0
    for first in range(0, 0x7F800000, CHUNK):
        count = min(CHUNK, 0x7F800001 - first)
        weights_of_bits[(CHUNK // BLOCK.value,)](first, found, num_warps=4, enable_fp_fusion=False)
        bits = torch.arange(first, first + count, device="cuda", dtype=torch.int64)
        real = torch.exp(-bits.to(torch.int32).view(torch.float32).double()) * 2.0**40
        error = (found[:count].double() - real).abs() / (real * 2.0**-22 + 0.5)
        worst = max(worst, float(error.max()))
        steps = torch.diff(found[:count], prepend=torch.tensor([previous], device="cuda"))
        monotone &= bool((steps <= 0).all())
        previous, inputs = int(found[count - 1]), inputs + count
    return {"inputs": inputs, "share of the bound": worst, "monotone": float(monotone)}


def noise_errors(torch: Any) -> dict[str, float]:
    """The largest and smallest error of G over every high word, in units of 2^-32."""
    found = torch.empty(CHUNK, dtype=torch.int64, device="cuda")
    least, most = 0.0, 0.0
    for first in range(0, 1 << 32, CHUNK):
        low = torch.randint(0, 1 << 32, (CHUNK,), device="cuda", dtype=torch.int64)
        noise_of_words[(CHUNK // BLOCK.value,)](first, low, found, num_warps=4, enable_fp_fusion=False)
        high = torch.arange(first, first + CHUNK, device="cuda", dtype=torch.int64)
        small = high < (1 << 31)
        # The half nearer to 0 of u and 1 - u, so that fp64 has it to 53 bits.
        upper = torch.where(small, high, (1 << 32) - 1 - high).double()
        lower = torch.where(small, low, (1 << 32) - 1 - low).double()
        near = upper * 2.0**-32 + (lower + 0.5) * 2.0**-64
        real = torch.where(small, -torch.log(-torch.log1p(-near)), -torch.log(-torch.log(near)))
        error = found.double() - real * 2.0**32
        least, most = min(least, float(error.min())), max(most, float(error.max()))
    return {"inputs": float(1 << 32), "least": least, "most": most}


def errors() -> dict[str, dict[str, float]]:
    """Both, asserted against the bounds of docs/contract/spec.md."""
    import torch

    report = {"weight": weight_errors(torch), "noise, units of 2^-32": noise_errors(torch)}
    assert report["weight"]["share of the bound"] <= 1, report
    assert report["weight"]["monotone"], report
    noise = report["noise, units of 2^-32"]
    assert -8 <= noise["least"] <= noise["most"] <= 8, report
    return report
