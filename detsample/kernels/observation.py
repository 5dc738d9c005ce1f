"""What a trainer asks of a draw besides the token (spec section 12), in three launches that come after the draw:

    survey (rows x parts)   the first tokens of each part in order, and its largest kept logit
    weigh  (rows x parts)   sums of weights and of weighted gaps, and how many tokens come before the row's token
    tell   (rows)           adds these up: log probabilities, rank, entropy, the first tokens of the row

A part is `PART` tokens. The sums are of integers, so the parts can be added in any order.
"""

import triton
import triton.language as tl

from detsample.kernels.contract.fixed_point import from_units
from detsample.kernels.contract.logarithm import ln_of_weight
from detsample.kernels.contract.mask_bits import kept_tokens
from detsample.kernels.contract.order import INF_KEY, MINUS_INF_KEY, key_of, value_of
from detsample.kernels.contract.weight import GAP_UNITS, LARGEST_GAP, gap, weight
from detsample.kernels.sampling.candidates import NO_CODE, code_of, key_of_code, token_of_code
from detsample.kernels.sampling.outcome import log_probability, quiet_nan
from detsample.kernels.sampling.rows import TEMPERATURE_GIVEN, fp32_from_bits, inverse_temperature, scalar_or_vector

PART = tl.constexpr(2048)
MOST_PARTS = tl.constexpr(1024)
MERGED = tl.constexpr(4096)  # how many candidates are looked at at a time

RAW_MASS = tl.constexpr(0)  # the int64 words that a part leaves: the weight of all tokens at temperature 1
KEPT_MASS = tl.constexpr(1)  # the weight of the kept tokens
KEPT_GAPS = tl.constexpr(2)  # the sum of the weights of the kept tokens times their gaps
BEFORE = tl.constexpr(3)  # how many tokens come before the row's token
PART_SUMS = tl.constexpr(4)  # how many words these are


@triton.jit
def place_of(key, token):
    """The token's place in the order as one int64, larger for what comes first; NO_CODE for an excluded token."""
    return tl.where(key == MINUS_INF_KEY, NO_CODE, code_of(key, token))


@triton.jit
def load_part(row_logits, row_kept, part, vocab):
    """One part of a row: its token ids, its logits as fp32 with -inf behind the end of the row, and whether each token
    is kept.
    """
    token = part * PART + tl.arange(0, PART)
    inside = token < vocab
    x = tl.load(row_logits + token, mask=inside, other=float("-inf")).to(tl.float32)
    return token, x, kept_tokens(row_kept, token, inside) & (x > float("-inf"))


@triton.jit(do_not_specialize=["row_stride", "vocab", "words", "parts", "listed"])
def survey(logits, row_stride, vocab, kept, words, parts, listed, part_places, part_kept_key):
    """Finds, for each part of a row, its first `listed` tokens in order and the key of its largest kept logit.

    Grid (rows, parts).
    """
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    token, x, inside = load_part(logits + row * row_stride, kept + row * words, part, vocab)
    key = key_of(x)
    tl.store(part_kept_key + row * parts + part, tl.max(tl.where(inside, key, MINUS_INF_KEY), axis=0))
    place = place_of(key, token)
    at = part_places + (row * parts + part) * listed
    for n in range(listed):
        first = tl.max(place, axis=0)
        tl.store(at + n, first)
        place = tl.where(place == first, NO_CODE, place)


@triton.jit
def largest_kept(part_kept_key, row, parts):
    """The key of a row's largest kept logit; MINUS_INF_KEY if the row keeps no token."""
    part = tl.arange(0, MOST_PARTS)
    keys = tl.load(part_kept_key + row * parts + part, mask=part < parts, other=MINUS_INF_KEY)
    return tl.max(keys, axis=0)


@triton.jit
def first_key(part_places, row, parts, listed):
    """The key of the row's first token, which is its largest logit; MINUS_INF_KEY if every logit is -inf."""
    part = tl.arange(0, MOST_PARTS)
    places = tl.load(part_places + (row * parts + part) * listed, mask=part < parts, other=NO_CODE)
    top = tl.max(places, axis=0)
    return tl.where(top == NO_CODE, MINUS_INF_KEY, key_of_code(top))


@triton.jit
def load_token(token_ids, row, row_logits, vocab):
    """The row's token, whether it is an id of the vocabulary, and its logit, which is -inf if it is not."""
    token = tl.load(token_ids + row)
    inside = (token >= 0) & (token < vocab)
    token = tl.where(inside, token, 0).to(tl.int32)
    return token, inside, tl.load(row_logits + token, mask=inside, other=float("-inf")).to(tl.float32)


@triton.jit
def load_temperature(pointer, stride, row, bits, given):
    """The temperature of a row, from the scalar's bits or from the vector."""
    return scalar_or_vector(pointer, stride, row, fp32_from_bits(bits), given & TEMPERATURE_GIVEN)


@triton.jit(
    do_not_specialize=[
        "row_stride", "vocab", "words", "parts", "listed", "given",
        "temperature_ptr", "temperature_stride", "temperature_bits",
    ]
)  # fmt: skip
def weigh(
    logits, row_stride, vocab, kept, words, parts, listed, given, temperature_ptr, temperature_stride, temperature_bits,
    token_ids, part_places, part_kept_key, part_sums,
):  # fmt: skip
    """Sums, for each part of a row: the weights of all tokens at temperature 1, the weights of the kept tokens, these
    weights times their gaps, and how many tokens come before the row's token.

    Grid (rows, parts). Weights and gaps are those of sections 4 and 5 of the contract; the largest logits come from
    `survey`.
    """
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    row_logits = logits + row * row_stride
    token, x, inside = load_part(row_logits, kept + row * words, part, vocab)
    own, _, own_x = load_token(token_ids, row, row_logits, vocab)
    scale = inverse_temperature(
        load_temperature(temperature_ptr, temperature_stride, row, temperature_bits, given)
    )
    drawable = x > float("-inf")
    top = value_of(first_key(part_places, row, parts, listed))
    raw_gap = tl.where(drawable, top - x, 0.0)
    largest = value_of(largest_kept(part_kept_key, row, parts))
    a = tl.where(inside, gap(x, largest, scale), 0.0)
    w = tl.where(inside, weight(a), 0)
    # A weighted gap is largest at gap 1: 2^61.6 before the shift, and a sum of 2^21 of them 2^61.6 after it.
    fine_gap = (tl.minimum(a, LARGEST_GAP) * GAP_UNITS).to(tl.uint32).to(tl.int64) >> 4
    before = place_of(key_of(x), token) > place_of(key_of(own_x), own)
    sums = part_sums + (row * parts + part) * PART_SUMS
    tl.store(sums + RAW_MASS, tl.sum(tl.where(drawable, weight(raw_gap), 0), axis=0))
    tl.store(sums + KEPT_MASS, tl.sum(w, axis=0))
    tl.store(sums + KEPT_GAPS, tl.sum((w * fine_gap) >> 21, axis=0))
    tl.store(sums + BEFORE, tl.sum(before.to(tl.int32), axis=0).to(tl.int64))


@triton.jit
def add_parts(part_sums, row, parts, SUM: tl.constexpr):
    """One of the four sums of `weigh`, over all parts of a row."""
    part = tl.arange(0, MOST_PARTS)
    return tl.sum(tl.load(part_sums + (row * parts + part) * PART_SUMS + SUM, mask=part < parts, other=0), axis=0)


@triton.jit
def mean_gap(gaps, mass):
    """floor(gaps * 2^30 / mass). It is computed by long division, because the product has more than 64 bits."""
    quotient = gaps // mass
    rest = gaps - quotient * mass
    for _ in range(30):
        rest = rest * 2
        one = (rest >= mass).to(tl.int64)
        quotient = quotient * 2 + one
        rest = rest - one * mass
    return quotient


@triton.jit
def write_first(part_places, candidates, row, top_n, top_key, total, good, top_token_ids, top_logprobs):
    """Writes the first `top_n` tokens of a row, chosen from the first tokens of its parts, and their raw log
    probabilities.
    """
    no_logprob = tl.where(good, float("-inf"), quiet_nan())
    last = tl.full([], 0x7FFFFFFFFFFFFFFF, tl.int64)
    for n in range(top_n):
        first = tl.full([MERGED], NO_CODE, tl.int64)
        for start in range(0, candidates, MERGED):
            at = start + tl.arange(0, MERGED)
            places = tl.load(part_places + row * candidates + at, mask=at < candidates, other=NO_CODE)
            first = tl.maximum(first, tl.where(places < last, places, NO_CODE))
        last = tl.max(first, axis=0)
        there = good & (last != NO_CODE)
        key = tl.where(there, key_of_code(last), top_key)
        token = token_of_code(last)
        logprob = log_probability(value_of(top_key) - value_of(key), total)
        tl.store(top_token_ids + row * top_n + n, tl.where(there, token, -1))
        tl.store(top_logprobs + row * top_n + n, tl.where(there, logprob, no_logprob))


@triton.jit(
    do_not_specialize=[
        "row_stride", "vocab", "words", "parts", "listed", "top_n", "given",
        "temperature_ptr", "temperature_stride", "temperature_bits",
    ]
)  # fmt: skip
def tell(
    logits, row_stride, vocab, kept, words, parts, listed, top_n, given,
    temperature_ptr, temperature_stride, temperature_bits,
    token_ids, part_places, part_kept_key, part_sums,
    logprobs, raw_logprobs, rank, entropy, top_token_ids, top_logprobs,
):  # fmt: skip
    """Adds up the sums of a row's parts and writes its results: log probabilities, rank, entropy and first tokens
    (spec section 12).

    Grid (rows). A row with NaN, +inf, no kept token or an invalid temperature gets NaN and -1.
    """
    row = tl.program_id(0).to(tl.int64)
    row_logits = logits + row * row_stride
    temperature = load_temperature(temperature_ptr, temperature_stride, row, temperature_bits, given)
    scale = inverse_temperature(temperature)
    top_key = first_key(part_places, row, parts, listed)
    kept_key = largest_kept(part_kept_key, row, parts)
    valid = (top_key < INF_KEY) & (temperature >= 0.0) & (temperature < float("inf"))
    good = valid & (kept_key > MINUS_INF_KEY)
    # What is not good has no sums to speak of: it is computed as a row of one token, and not used.
    top_key = tl.where(good, top_key, 0)
    kept_key = tl.where(good, kept_key, 0)
    total = tl.where(good, add_parts(part_sums, row, parts, RAW_MASS), 1 << 40)
    mass = tl.where(good, add_parts(part_sums, row, parts, KEPT_MASS), 1 << 40)
    gaps = tl.where(good, add_parts(part_sums, row, parts, KEPT_GAPS), 0)

    token, inside, x = load_token(token_ids, row, row_logits, vocab)
    drawable = good & inside & (x > float("-inf"))
    member = drawable & kept_tokens(kept + row * words, token, drawable)
    nan = quiet_nan()
    none = tl.where(good & inside, float("-inf"), nan)

    raw_gap = tl.where(drawable, value_of(top_key) - x, 0.0)
    tl.store(raw_logprobs + row, tl.where(drawable, log_probability(raw_gap, total), none))
    a = tl.where(member, gap(x, value_of(kept_key), scale), 0.0)
    tl.store(logprobs + row, tl.where(member, log_probability(a, mass), none))
    before = add_parts(part_sums, row, parts, BEFORE).to(tl.int32)
    tl.store(rank + row, tl.where(drawable, before, -1))
    tl.store(entropy + row, tl.where(good, from_units(ln_of_weight(mass) + mean_gap(gaps, mass)), nan))
    write_first(part_places, parts * listed, row, top_n, top_key, total, good, top_token_ids, top_logprobs)
