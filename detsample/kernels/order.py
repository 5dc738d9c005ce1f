"""fp32 as int32 keys that sort alike (spec section 4): comparisons, equality and bisection on integers."""

import triton
import triton.language as tl

NAN_KEY = tl.constexpr(0x7FFFFFFF)
INF_KEY = tl.constexpr(0x7F800000)
MINUS_INF_KEY = tl.constexpr(-2139095041)  # the key of -inf: every finite value has a larger one
LOWEST_KEY = tl.constexpr(-2139095040)  # the key of -FLT_MAX
LAST_TOKEN = tl.constexpr(0x7FFFFFFF)  # a token id behind every token


@triton.jit
def key_of(x):
    """The int32 key of fp32 values. -0 and +0 have one key; a NaN, whatever its sign and payload, has the largest."""
    bits = (x + 0.0).to(tl.int32, bitcast=True)
    key = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return tl.where(x != x, NAN_KEY, key)


@triton.jit
def value_of(key):
    """The fp32 value of a key."""
    return (key ^ ((key >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def within(key, token, boundary_key, boundary_token):
    """Whether tokens belong to the prefix of the order that ends at the boundary token, itself included."""
    return (key > boundary_key) | ((key == boundary_key) & (token <= boundary_token))
