"""Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011; spec section 7)."""

import triton
import triton.language as tl

MULTIPLIER_0 = tl.constexpr(0xD2511F53)
MULTIPLIER_1 = tl.constexpr(0xCD9E8D57)
WEYL_0 = tl.constexpr(0x9E3779B9)
WEYL_1 = tl.constexpr(0xBB67AE85)

TOKEN_HIGH = tl.constexpr(0)  # the domains of section 7
TOKEN_LOW = tl.constexpr(1)
FOLD_IN = tl.constexpr(2)


@triton.jit
def low_word(value):
    """The low 32 bits of a 64-bit integer, as uint32."""
    return (value & 0xFFFFFFFF).to(tl.uint32)


@triton.jit
def high_word(value):
    """The high 32 bits of a 64-bit integer, as uint32."""
    return ((value >> 32) & 0xFFFFFFFF).to(tl.uint32)


@triton.jit
def philox(seed, c0, position, DOMAIN: tl.constexpr):
    """Four uint32 words: Philox4x32-10 of the counter (c0, position low, position high, DOMAIN) under the key `seed`.

    `c0` may be a block while seed and position are scalars. The first two rounds then cost half, because what depends
    on scalars alone stays scalar.
    """
    k0 = low_word(seed)
    k1 = high_word(seed)
    c1 = low_word(position)
    c2 = high_word(position)
    c3 = (c2 & 0) + DOMAIN  # a constant of c2's type and shape
    c3 = c3.to(tl.uint32)
    for _ in tl.static_range(10):
        product0 = c0.to(tl.uint64) * MULTIPLIER_0
        product1 = c2.to(tl.uint64) * MULTIPLIER_1
        c0 = (product1 >> 32).to(tl.uint32) ^ c1 ^ k0
        c1 = product1.to(tl.uint32)
        c2 = (product0 >> 32).to(tl.uint32) ^ c3 ^ k1
        c3 = product0.to(tl.uint32)
        k0 = (k0 + WEYL_0).to(tl.uint32)
        k1 = (k1 + WEYL_1).to(tl.uint32)
    return c0, c1, c2, c3


@triton.jit
def token_word(seed, token, position, DOMAIN: tl.constexpr):
    """For each token, the word that belongs to it: word `token & 3` of the counter with c0 = `token >> 2`."""
    w0, w1, w2, w3 = philox(seed, (token >> 2).to(tl.uint32), position, DOMAIN)
    which = token & 3
    return tl.where(which < 2, tl.where(which == 0, w0, w1), tl.where(which == 2, w2, w3))
