"""A kernel that shows the integers inside rejection: products of two words, their logarithm, and the acceptance."""

import triton
import triton.language as tl

from detsample.kernels.contract.products import difference, ln_of_wide, product
from detsample.kernels.speculative.rejection import is_accepted, residual_gumbel


@triton.jit
def integers(
    a, b, coin, w, mass, v, draft_mass, high, low, less_high, less_low, ln, noise, verdict, SIZE: tl.constexpr
):
    at = tl.arange(0, SIZE)
    x, y, c = (tl.load(a + at).to(tl.uint64), tl.load(b + at).to(tl.uint64), tl.load(coin + at).to(tl.uint64))
    product_high, product_low = product(x, y)
    tl.store(high + at, product_high.to(tl.int64))
    tl.store(low + at, product_low.to(tl.int64))
    below_high, below_low = difference(product_high, product_low, x >> 1, y)
    tl.store(less_high + at, below_high.to(tl.int64))
    tl.store(less_low + at, below_low.to(tl.int64))
    some = (product_high | product_low) != 0
    tl.store(ln + at, ln_of_wide(product_high >> 1, tl.where(some, product_low, 1) | 1))
    accepted = is_accepted(
        (c >> 32).to(tl.uint32), (c & 0xFFFFFFFF).to(tl.uint32), tl.load(w + at), tl.load(mass + at),
        tl.load(v + at), tl.load(draft_mass + at),
    )  # fmt: skip
    tl.store(verdict + at, accepted.to(tl.int32))
    tl.store(noise + at, residual_gumbel(tl.load(a), at, tl.load(coin + 1) & 0x7FFFFFFFFFFFFFFF))
