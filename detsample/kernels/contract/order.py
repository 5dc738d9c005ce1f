"""fp32 numbers as int32 keys that sort in the same order (spec section 4), so that comparisons and bisections are of
integers.
"""

import triton
import triton.language as tl

NAN_KEY = tl.constexpr(0x7FFFFFFF)
INF_KEY = tl.constexpr(0x7F800000)
MINUS_INF_KEY = tl.constexpr(-2139095041)  # the key of -inf: every finite value has a larger one
LOWEST_KEY = tl.constexpr(-2139095040)  # the key of -FLT_MAX
LAST_TOKEN = tl.constexpr(0x7FFFFFFF)  # a token id behind every token


@triton.jit
def key_of(x):
    """The int32 keys of fp32 values. -0 and +0 have the same key. A NaN has the largest key, whatever its sign and
    payload.
    """
    bits = (x + 0.0).to(tl.int32, bitcast=True)
    key = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return tl.where(x != x, NAN_KEY, key)


@triton.jit
def value_of(key):
    """The fp32 value of a key."""
    return (key ^ ((key >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def within(key, token, boundary_key, boundary_token):
    """Whether tokens belong to the prefix of the order that ends with the boundary token, which is included."""
    return (key > boundary_key) | ((key == boundary_key) & (token <= boundary_token))
