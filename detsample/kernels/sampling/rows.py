"""A row's parameters, its record and its sums (spec sections 2 and 3).

A parameter is a scalar or a vector, and one compiled kernel serves both. `given` has one bit for each parameter, which
is set if it is a vector. The scalar's bits are passed beside the vector's pointer, and a masked load takes the one or
the other. Vectors may be strided, as [B, 1] views are.

The record holds what later kernels need to know of a row, in fifteen int64 words. The sums are what the programs of a
row add up together.
"""

import triton
import triton.language as tl

from detsample.kernels.contract.fraction import ceil_product
from detsample.kernels.contract.order import INF_KEY

PARAMETER_NAMES = (
    "temperature_ptr", "temperature_stride", "temperature_bits", "top_k_ptr", "top_k_stride", "top_k_scalar",
    "top_p_ptr", "top_p_stride", "top_p_bits", "min_p_ptr", "min_p_stride", "min_p_bits",
    "seed_ptr", "seed_stride", "seed_low", "seed_high", "position_ptr", "position_stride", "position_low",
    "position_high",
)  # fmt: skip
"""What kernels call the arguments that hold a call's parameters, in the order in which they take them."""

TEMPERATURE_GIVEN = tl.constexpr(1)
TOP_K_GIVEN = tl.constexpr(2)
TOP_P_GIVEN = tl.constexpr(4)
MIN_P_GIVEN = tl.constexpr(8)
SEED_GIVEN = tl.constexpr(16)
POSITION_GIVEN = tl.constexpr(32)

WANT_TOKEN = tl.constexpr(1)
WANT_LOGPROBS = tl.constexpr(2)
WANT_LOG_Z = tl.constexpr(4)
WANT_KEPT = tl.constexpr(8)  # anything of the kept set but the token that is drawn from it

STATUS_NAN = tl.constexpr(1)
STATUS_INF = tl.constexpr(2)
STATUS_EMPTY = tl.constexpr(4)
STATUS_PARAMETER = tl.constexpr(8)

RECORD = tl.constexpr(15)  # int64 words in a row's record. These are the words:
SEED = tl.constexpr(0)
POSITION = tl.constexpr(1)
TOP_K = tl.constexpr(2)  # 0 if top-k is off; 1 in greedy rows
MIN_WEIGHT = tl.constexpr(3)  # the threshold of min-p on weights; 0 if min-p is off
FLOATS = tl.constexpr(4)  # 1 / temperature in the low half and top_p in the high half, as bits
STATUS = tl.constexpr(5)  # the status of the parameters, then of the row; PENDING while the row is not finished
BOUNDARY = tl.constexpr(6)  # the key of the last kept token in the high half, its id in the low half
MODE = tl.constexpr(7)  # what is known of the row and what is to be done: the bits below
TOP_KEY = tl.constexpr(8)  # the key of the largest logit
COUNT = tl.constexpr(9)  # how many tokens can be drawn; if the row is DRAWN, how many are kept
KEPT = tl.constexpr(10)  # the kept weight, if the row is DRAWN; 0 stands for the weight of all tokens
WINNER = tl.constexpr(11)  # the token, if the row is DRAWN
INTERVAL = tl.constexpr(12)  # the first key of the first interval in the low half, its end in the high half;
# the words behind it have the intervals of later attempts, or NO_INTERVAL

GREEDY = tl.constexpr(1)  # the bits of MODE: the row is greedy
BOUNDED = tl.constexpr(2)  # `group_bound` holds bounds of the scores of all tokens
BOUNDED_FROM = tl.constexpr(4)  # `group_bound` is to hold bounds for what min-p keeps, or from the first interval on
NEEDS_TOTAL = tl.constexpr(8)  # the weight of all tokens is to be summed
NEEDS_MINIMUM = tl.constexpr(16)  # the weight of what min-p keeps is to be summed; the last key that it keeps is known
IN_DOUBT = tl.constexpr(32)  # what lies around the first interval is to be measured
DRAWN = tl.constexpr(64)  # the token is known, and only logarithms of sums are left
MIN_P_FIRST = tl.constexpr(128)  # top-p takes its share of what top-k and min-p keep, and min-p is on
JOINT = tl.constexpr(256)  # top-p takes its share of all tokens, and top-k is on
BY_SHARE = tl.constexpr(512)  # top-p takes its share of all tokens
AIMED = tl.constexpr(1024)  # the boundary may lie among thousands of tokens, and `aim_row` says where to look

ORDER_MIN_P_FIRST = tl.constexpr(1)  # the values of `filter_order` other than 0, which is top-k first
ORDER_JOINT = tl.constexpr(2)

PENDING = tl.constexpr(1 << 16)

SUMS = tl.constexpr(25)  # int64 sums of a row, which the programs of `sum_weights` add to. These are the sums:
TOTAL = tl.constexpr(0)  # the weight of all tokens
MINIMUM = tl.constexpr(1)  # the weight of the tokens that min-p keeps
MINIMUM_COUNT = tl.constexpr(2)  # the number of the tokens that min-p keeps
AROUND = tl.constexpr(3)  # from here on, MEASURES sums for each interval, in the order of the next six names
MEASURES = tl.constexpr(6)
ABOVE = tl.constexpr(0)  # the weight of the tokens above the interval
ABOVE_COUNT = tl.constexpr(1)  # the number of the tokens above the interval
REACHED = tl.constexpr(2)  # the weight of the tokens above or in the interval
REACHED_COUNT = tl.constexpr(3)  # the number of the tokens above or in the interval
LISTED = tl.constexpr(4)  # how many places in the list are taken
ARRIVED = tl.constexpr(5)  # how many programs have added their share
SELECTED = tl.constexpr(21)  # the number of groups that `settle` has selected
FILLED = tl.constexpr(22)  # the number of candidates, used by `settle` and by both stages of `finish`

RETRIES = tl.constexpr(2)  # how often `sum_weights` is launched again
COUNTERS = tl.constexpr(4)  # how many numbers stand before the lists of rows for `sum_weights`: the length of each list
NO_INTERVAL = tl.constexpr(-1)  # no float has the key -1

WEIGHT_ONE = tl.constexpr(1 << 40)
QUIET_NAN = tl.constexpr(0x7FC00000)


@triton.jit
def scalar_or_vector(pointer, stride, row, scalar, given):
    """One parameter of one row: the element of the vector if it is `given`, else the scalar. `scalar` has the type that
    the vector's elements are converted to.
    """
    loaded = tl.load(pointer + row * stride, mask=given != 0, other=0)
    return tl.where(given != 0, loaded.to(scalar.dtype), scalar)


@triton.jit
def fp32_from_bits(bits):
    """The fp32 number that has these 32 bits."""
    return bits.to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def join_words(low, high):
    """The int64 whose low and high halves are these 32-bit words."""
    return (high.to(tl.int64) << 32) | (low.to(tl.int64) & 0xFFFFFFFF)


@triton.jit
def row_parameters(
    row, given, temperature_ptr, temperature_stride, temperature_bits,
    top_k_ptr, top_k_stride, top_k_scalar,
    top_p_ptr, top_p_stride, top_p_bits, min_p_ptr, min_p_stride, min_p_bits,
    seed_ptr, seed_stride, seed_low, seed_high, position_ptr, position_stride, position_low, position_high,
):  # fmt: skip
    """The parameters of one row as the caller gave them: (temperature, top_k, top_p, min_p, seed, position)."""
    temperature = scalar_or_vector(
        temperature_ptr, temperature_stride, row, fp32_from_bits(temperature_bits), given & TEMPERATURE_GIVEN
    )
    top_k = scalar_or_vector(top_k_ptr, top_k_stride, row, top_k_scalar.to(tl.int64), given & TOP_K_GIVEN)
    top_p = scalar_or_vector(top_p_ptr, top_p_stride, row, fp32_from_bits(top_p_bits), given & TOP_P_GIVEN)
    min_p = scalar_or_vector(min_p_ptr, min_p_stride, row, fp32_from_bits(min_p_bits), given & MIN_P_GIVEN)
    seed = scalar_or_vector(seed_ptr, seed_stride, row, join_words(seed_low, seed_high), given & SEED_GIVEN)
    position = scalar_or_vector(
        position_ptr, position_stride, row, join_words(position_low, position_high), given & POSITION_GIVEN
    )
    return temperature, top_k, top_p, min_p, seed, position


@triton.jit
def inverse_temperature(temperature):
    """min(1 / temperature, FLT_MAX), correctly rounded to fp32 (spec section 4); 1 for greedy rows, which do not use
    it.

    The division is made in fp64, because Triton 3.3 compiles `div_rn` of fp32 to an instruction that flushes subnormal
    numbers. Rounding twice gives the same fp32: a quotient of two 24-bit numbers that is not exactly halfway between
    two fp32 numbers is never within 2^-50 of such a point.
    """
    safe = tl.where(temperature > 0.0, temperature, 1.0).to(tl.float64)
    return tl.minimum((1.0 / safe).to(tl.float32), 3.4028234663852886e38)


@triton.jit
def minimum_weight(min_p):
    """min_p as a threshold on weights, at most the largest weight; 0 where min-p is off (spec section 6)."""
    inside = (min_p > 0.0) & (min_p < 1.0)
    product = ceil_product(tl.where(inside, min_p, 0.5), tl.full([], 1 << 40, tl.int64))
    return tl.where(inside, product, tl.where(min_p >= 1.0, WEIGHT_ONE, 0))


@triton.jit
def order_mode(filter_order, top_k, top_p, min_weight):
    """The bits of MODE that say of whose weight top-p takes its share, where that is not simply what top-k keeps."""
    min_p_first = (filter_order == ORDER_MIN_P_FIRST) & (min_weight > 0) & (top_p < 1.0)
    joint = (filter_order == ORDER_JOINT) & (top_k > 0) & (top_p > 0.0) & (top_p < 1.0)
    return tl.where(min_p_first, MIN_P_FIRST, 0) | tl.where(joint, JOINT, 0)


@triton.jit
def parameter_status(temperature, top_p, min_p, position):
    """STATUS_PARAMETER if a parameter of the row is not valid, else 0 (spec section 3)."""
    valid = (temperature >= 0.0) & (temperature < float("inf")) & (top_p == top_p) & (min_p == min_p) & (position >= 0)
    return tl.where(valid, 0, STATUS_PARAMETER)


@triton.jit
def read_field(records, row, FIELD: tl.constexpr):
    """One int64 word of a row's record."""
    return tl.load(records + row * RECORD + FIELD)


@triton.jit
def read_floats(records, row):
    """(1 / temperature, top_p) of a row's record."""
    both = tl.load(records + row * RECORD + FLOATS)
    return fp32_from_bits(both), fp32_from_bits(both >> 32)


@triton.jit
def is_likely(records, row, top_p):
    """Whether bounds of all scores probably decide the draw of a row whose boundary is in doubt. A share p of the
    weight holds the row's best score with the probability p, so it is worth it from a half on.
    """
    return (read_field(records, row, TOP_K) == 0) & (top_p >= 0.5)


@triton.jit
def write_boundary(records, row, key, token):
    """Writes a row's boundary, the key and the id of its last kept token, into its record."""
    tl.store(records + row * RECORD + BOUNDARY, join_words(token, key))


@triton.jit
def read_boundary(records, row):
    """(key, token id) of a row's last kept token, from its record."""
    both = tl.load(records + row * RECORD + BOUNDARY)
    return (both >> 32).to(tl.int32), both.to(tl.int32)


@triton.jit
def read_interval(records, row, attempt):
    """(first key, end) of the interval of one attempt, from the row's record; the end itself does not belong to it."""
    both = tl.load(records + row * RECORD + INTERVAL + attempt)
    return both.to(tl.int32), (both >> 32).to(tl.int32)


@triton.jit
def is_bounded_from(records, row, mode):
    """Whether bounds are wanted of the scores of what min-p keeps, or of what lies from the first interval on: of the
    latter only if the interval has an end, since else all that may be kept is listed.
    """
    _first, end = read_interval(records, row, 0)
    return ((mode & BOUNDED_FROM) != 0) & (((mode & NEEDS_MINIMUM) != 0) | (end < INF_KEY))


@triton.jit
def end_of(high_key, top_key):
    """The end of an interval of keys, as int64. It is at most one more than the row's largest key, since no larger key
    occurs.
    """
    return tl.minimum(high_key.to(tl.int64), top_key.to(tl.int64) + 1)


@triton.jit
def last_attempt(records, row):
    """The number of the attempt whose interval counts."""
    attempt = tl.full([], 0, tl.int32)
    for retry in tl.static_range(RETRIES):
        attempt += (tl.load(records + row * RECORD + INTERVAL + 1 + retry) != NO_INTERVAL).to(tl.int32)
    return attempt


@triton.jit
def list_row(missed, row, rows, attempt):
    """Puts a row on the list of those that an attempt of `sum_weights` looks at."""
    place = tl.atomic_add(missed + attempt, 1, sem="relaxed")
    tl.store(missed + COUNTERS + attempt * rows + place, row.to(tl.int32))


@triton.jit
def read_sum(sums, row, which):
    """One of a row's sums. It is read from L2, because programs on other multiprocessors have added to it."""
    return tl.load(sums + row * SUMS + which, cache_modifier=".cg")


@triton.jit
def add_to_sum(sums, row, which, value):
    """Adds to one of a row's sums. Other programs may add to it at the same time."""
    tl.atomic_add(sums + row * SUMS + which, value.to(tl.int64), sem="relaxed")
