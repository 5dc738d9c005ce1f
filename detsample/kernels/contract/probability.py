"""Turns probabilities into logits, element by element: ``L(p)`` of docs/fastdeploy.md, by the logarithm of spec section
7.
"""

import triton
import triton.language as tl

from detsample.kernels.contract.fixed_point import from_units
from detsample.kernels.contract.logarithm import LN2_Q48, split_log

BLOCK = tl.constexpr(1024)


@triton.jit
def log_probability_of(p):
    """L(p) of fp32 probabilities: ln p by the contract's integer logarithm, rounded to fp32 once."""
    bits = p.to(tl.int32, bitcast=True)
    exponent = ((bits >> 23) & 0xFF).to(tl.int64)
    significand = ((bits & 0x7FFFFF) | tl.where(exponent > 0, 0x800000, 0)).to(tl.int64)
    leading, rest = split_log(tl.maximum(significand, 1).to(tl.uint64))
    units = (((leading + tl.maximum(exponent, 1) - 150) * LN2_Q48) >> 16) + rest
    result = from_units(units)
    result = tl.where(p == 0, float("-inf"), result)
    result = tl.where(p == float("inf"), p, result)
    return tl.where(p >= 0, result, float("nan"))


@triton.jit(do_not_specialize=["vocab", "row_stride"])
def log_probabilities(vocab, probabilities, row_stride, result):
    """Writes `L(p)` of every probability. Grid (rows, blocks of BLOCK tokens)."""
    row = tl.program_id(0).to(tl.int64)
    token = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = token < vocab
    p = tl.load(probabilities + row * row_stride + token, mask=inside, other=0.0).to(tl.float32)
    tl.store(result + row * vocab + token, log_probability_of(p), mask=inside)
