"""What a row ends with: its results, its status and, for masks, its boundary (spec sections 3, 6 and 9)."""

import triton
import triton.language as tl

from detsample.kernels.contract.fixed_point import fixed_point, from_units
from detsample.kernels.contract.logarithm import ln_of_weight
from detsample.kernels.contract.weight import gap
from detsample.kernels.sampling.rows import QUIET_NAN, RECORD, STATUS, fp32_from_bits, write_boundary


@triton.jit
def quiet_nan():
    """The fp32 NaN whose bits are 0x7fc00000, which the contract names for results that do not exist."""
    return fp32_from_bits(tl.full([], QUIET_NAN, tl.int32))


@triton.jit
def log_probability(a, kept_weight):
    """The token's log probability in the kept set: -(a + ln(kept weight / 2^40)), in natural units (spec section 9)."""
    return from_units(-(fixed_point(a) + ln_of_weight(kept_weight)))


@triton.jit
def log_kept_mass(kept_weight, total_weight):
    """log_z: ln(kept weight / weight of all tokens), at most 0 (spec section 9)."""
    return from_units(tl.minimum(ln_of_weight(kept_weight) - ln_of_weight(total_weight), 0))


@triton.jit
def write_outcome(records, token_ids, num_kept, status, logprobs, log_z, row, reason, token, count, logprob, mass):
    """Writes the results of a row and marks it as finished, so that later kernels leave it alone."""
    tl.store(token_ids + row, token.to(tl.int64))
    tl.store(num_kept + row, count.to(tl.int32))
    tl.store(status + row, reason.to(tl.int32))
    tl.store(logprobs + row, logprob)
    tl.store(log_z + row, mass)
    tl.store(records + row * RECORD + STATUS, reason.to(tl.int64))


@triton.jit
def write_invalid(records, token_ids, num_kept, status, logprobs, log_z, row, reason):
    """Writes the results of an invalid row: token -1, nothing kept, NaN, and the status that says why."""
    nan = quiet_nan()
    none = tl.full([], -1, tl.int32)
    count = tl.full([], 0, tl.int32)
    write_outcome(records, token_ids, num_kept, status, logprobs, log_z, row, reason, none, count, nan, nan)
    write_boundary(records, row, tl.full([], 0x7FFFFFFF, tl.int32), none)


@triton.jit
def write_drawn(
    row_logits, records, token_ids, num_kept, status, logprobs, log_z,
    row, token, count, scale, largest, kept_weight, total_weight,
):  # fmt: skip
    """Writes the results of a valid row, from its token and the weights of the kept set and of all tokens."""
    x = tl.load(row_logits[0] + tl.maximum(token, 0)).to(tl.float32)
    logprob = log_probability(gap(x, largest, scale), kept_weight)
    mass = log_kept_mass(kept_weight, total_weight)
    valid = tl.full([], 0, tl.int32)
    write_outcome(records, token_ids, num_kept, status, logprobs, log_z, row, valid, token, count, logprob, mass)
