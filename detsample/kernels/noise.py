"""The noise and the derived seeds on their own: `gumbel_noise` and `fold_in` (spec section 7)."""

import triton
import triton.language as tl

from detsample.kernels.contract.gumbel import token_gumbel
from detsample.kernels.contract.philox import FOLD_IN, philox
from detsample.kernels.sampling.rows import POSITION_GIVEN, SEED_GIVEN, join_words, scalar_or_vector

BLOCK = tl.constexpr(256)


@triton.jit(
    do_not_specialize=[
        "columns", "token_row_stride", "token_stride", "given", "seed_ptr", "seed_stride", "seed_low", "seed_high",
        "position_ptr", "position_stride", "position_low", "position_high",
    ]
)  # fmt: skip
def noise(
    columns, tokens, token_row_stride, token_stride, given, seed_ptr, seed_stride, seed_low, seed_high,
    position_ptr, position_stride, position_low, position_high, result,
):  # fmt: skip
    """Writes the Gumbel noise of tokens as float64 (spec section 7). Grid (rows, blocks, blocks)."""
    row = tl.program_id(0).to(tl.int64)
    # A row's blocks are on two axes: one alone holds 65,535.
    block = tl.program_id(1).to(tl.int64) + tl.program_id(2).to(tl.int64) * tl.num_programs(1)
    column = block * BLOCK + tl.arange(0, BLOCK)
    seed = scalar_or_vector(seed_ptr, seed_stride, row, join_words(seed_low, seed_high), given & SEED_GIVEN)
    position = scalar_or_vector(
        position_ptr, position_stride, row, join_words(position_low, position_high), given & POSITION_GIVEN
    )
    inside = column < columns
    token = tl.load(tokens + row * token_row_stride + column * token_stride, mask=inside, other=0)
    units = token_gumbel(seed, token.to(tl.int64), position)
    tl.store(result + row * columns + column, units.to(tl.float64) * 2.3283064365386963e-10, mask=inside)


@triton.jit(
    do_not_specialize=[
        "count", "given", "seed_ptr", "seed_stride", "seed_low", "seed_high",
        "index_ptr", "index_stride", "index_low", "index_high",
    ]
)  # fmt: skip
def folded_seeds(
    count, given, seed_ptr, seed_stride, seed_low, seed_high, index_ptr, index_stride, index_low, index_high, result
):  # fmt: skip
    """Writes `fold_in(seed, index)` for each pair of a seed and an index (spec section 7). Grid (blocks)."""
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < count
    row = tl.where(inside, place, 0)
    given = given + (row & 0).to(tl.int32)  # one for each: the mask of a block of pointers is a block
    seed = scalar_or_vector(seed_ptr, seed_stride, row, join_words(seed_low, seed_high), given & SEED_GIVEN)
    index = scalar_or_vector(index_ptr, index_stride, row, join_words(index_low, index_high), given & POSITION_GIVEN)
    zero = (row & 0).to(tl.uint32)
    low, high, _, _ = philox(seed, zero, index, FOLD_IN)
    tl.store(result + place, join_words(low, high), mask=inside)
