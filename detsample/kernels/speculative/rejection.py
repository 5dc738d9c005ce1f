"""Drafted tokens that are accepted with probability p/q, and the draw from the residual (spec section 17).

    measure  (rows)              the largest logit and the sum of weights, of the rows of target and draft
    accept   (requests)          each drafted token against its coin: the accepted prefix, and the row behind it
    residual (requests x parts)  the best score in a part of that row
    finish   (requests)          the best of the parts, written behind the accepted tokens

Weights are integers, so sums of them are exact. p/q is never divided: two products of integers are compared.
"""

import triton
import triton.language as tl

from detsample.kernels.contract.fixed_point import fixed_point
from detsample.kernels.contract.gumbel import gumbel
from detsample.kernels.contract.mask_bits import kept_tokens
from detsample.kernels.contract.order import LAST_TOKEN
from detsample.kernels.contract.philox import philox, token_word
from detsample.kernels.contract.products import below, difference, ln_of_wide, product
from detsample.kernels.contract.weight import gap, weight
from detsample.kernels.sampling.draw import NO_SCORE, best_of, better_of
from detsample.kernels.sampling.outcome import log_probability, quiet_nan
from detsample.kernels.sampling.rows import (
    SEED_GIVEN,
    STATUS_PARAMETER,
    TEMPERATURE_GIVEN,
    fp32_from_bits,
    inverse_temperature,
    join_words,
    scalar_or_vector,
)
from detsample.kernels.speculative.rows import (
    STATUS_DRAFT_WEIGHTS,
    STATUS_LENGTH,
    STATUS_OFFSETS,
    drafted_length,
    foreign_tokens,
    rows_of_request,
)

COIN = tl.constexpr(3)  # the domains of section 7 of docs/contract/spec.md
RESIDUAL_HIGH = tl.constexpr(4)
RESIDUAL_LOW = tl.constexpr(5)

STRETCH = tl.constexpr(4096)  # how many tokens are added up at a time
SPAN = tl.constexpr(1024)  # how many tokens are drawn from at a time, which takes more registers
LARGEST_PROBABILITY = tl.constexpr(2.0)  # probabilities must be below this
ONE = tl.constexpr(1099511627776.0)  # 2^40

NO_DRAW = tl.constexpr(0)  # what is drawn from behind the accepted tokens of a request: nothing, or one of these
FROM_RESIDUAL = tl.constexpr(1)
FROM_TARGET = tl.constexpr(2)


@triton.jit
def load_row(row_values, token, vocab, other):
    """Values of one row as fp32, with -0 made +0; `other` behind the end of the row."""
    return tl.load(row_values + token, mask=token < vocab, other=other).to(tl.float32) + 0.0


@triton.jit
def row_scale(temperature, stride, bits, row, given):
    """One over the temperature, for each of `row`; 1 for greedy rows, which keep one token."""
    given = (given & TEMPERATURE_GIVEN) + (row & 0).to(tl.int32)  # a block if `row` is one, as masks must be
    return inverse_temperature(scalar_or_vector(temperature, stride, row, fp32_from_bits(bits), given))


@triton.jit
def row_seed(seeds, stride, low, high, row, given):
    """The seeds of rows, int64."""
    given = (given & SEED_GIVEN) + (row & 0).to(tl.int32)
    return scalar_or_vector(seeds, stride, row, join_words(low, high), given)


@triton.jit
def target_weight(x, scale, largest, kept):
    """The weights of kept tokens as int64, and 0 for all others."""
    return tl.where(kept, weight(gap(x, largest, scale)), 0)


@triton.jit
def draft_weight(x, largest, LOGITS: tl.constexpr):
    """The draft's weights of tokens as int64, from logits or from probabilities, in a row that is a distribution."""
    if LOGITS:
        result = tl.where(x == float("-inf"), 0, weight(largest - tl.where(x == float("-inf"), largest, x)))
    else:
        result = (x * ONE).to(tl.int64)
    return result


@triton.jit(
    do_not_specialize=["row_stride", "vocab", "words", "row_given", "temperature_stride", "temperature_bits"]
)
def measure_target(
    logits, row_stride, vocab, mask, words, row_status, row_given, temperature, temperature_stride, temperature_bits,
    peak, mass,
):  # fmt: skip
    """Finds, for each row of the target, its largest logit and the sum of the weights of its kept tokens
    (spec section 17).

    Grid (rows).
    """
    row = tl.program_id(0).to(tl.int64)
    row_logits = logits + row * row_stride
    row_mask = mask + row * words
    valid = tl.load(row_status + row) == 0
    scale = row_scale(temperature, temperature_stride, temperature_bits, row, row_given)
    end = tl.where(valid, vocab, 0)
    top = tl.full([STRETCH], float("-inf"), tl.float32)
    for start in range(0, end, STRETCH):
        token = start + tl.arange(0, STRETCH)
        # The largest logit of those that can be drawn is always kept; a larger one may be forbidden.
        x = load_row(row_logits, token, vocab, float("-inf"))
        top = tl.maximum(top, tl.where(kept_tokens(row_mask, token, token < vocab), x, float("-inf")))
    largest = tl.max(top, axis=0)
    sums = tl.full([STRETCH], 0, tl.int64)
    for start in range(0, end, STRETCH):
        token = start + tl.arange(0, STRETCH)
        x = load_row(row_logits, token, vocab, float("-inf"))
        sums += target_weight(x, scale, largest, kept_tokens(row_mask, token, token < vocab))
    tl.store(peak + row, largest)
    tl.store(mass + row, tl.sum(sums, axis=0))


@triton.jit(do_not_specialize=["row_stride", "vocab"])
def measure_draft(rows, row_stride, vocab, peak, mass, LOGITS: tl.constexpr):
    """Finds, for each row of the draft, its largest logit (not for probabilities) and the sum of its weights, which is
    -1 if the row is no distribution (spec section 17).

    Grid (rows of the draft).
    """
    row = tl.program_id(0).to(tl.int64)
    values = rows + row * row_stride
    top = tl.full([STRETCH], float("-inf"), tl.float32)
    bad = tl.full([STRETCH], 0, tl.int32)
    none = float("-inf") if LOGITS else 0.0
    for start in range(0, vocab, STRETCH):
        x = load_row(values, start + tl.arange(0, STRETCH), vocab, none)
        if LOGITS:
            bad |= ((x != x) | (x == float("inf"))).to(tl.int32)
        else:
            bad |= ((x >= 0.0) & (x < LARGEST_PROBABILITY)).to(tl.int32) ^ 1
        top = tl.maximum(top, x)
    largest = tl.max(top, axis=0)
    good = tl.max(bad, axis=0) == 0
    if LOGITS:
        good = good & (largest > float("-inf"))
    sums = tl.full([STRETCH], 0, tl.int64)
    for start in range(0, tl.where(good, vocab, 0), STRETCH):
        x = load_row(values, start + tl.arange(0, STRETCH), vocab, none)
        sums += draft_weight(x, largest, LOGITS)
    total = tl.sum(sums, axis=0)
    tl.store(peak + row, largest)
    tl.store(mass + row, tl.where(good & (total > 0), total, -1))


@triton.jit
def is_accepted(coin_high, coin_low, token_weight, mass, draft_token_weight, draft_mass):
    """coin * v * mass < 2^64 * w * draft_mass, exactly, for a coin of two uint32 words and int64 sums and weights."""
    coin = (coin_high.to(tl.uint64) << 32) | coin_low.to(tl.uint64)
    high, low = product(draft_token_weight.to(tl.uint64), mass.to(tl.uint64))
    # floor(coin * (high, low) / 2^64), which is below the right side exactly where the product is.
    upper_high, upper_low = product(coin, high)
    carried, _ = product(coin, low)
    sum_low = upper_low + carried
    sum_high = upper_high + (sum_low < carried).to(tl.uint64)
    right_high, right_low = product(token_weight.to(tl.uint64), draft_mass.to(tl.uint64))
    return below(sum_high, sum_low, right_high, right_low)


@triton.jit(
    do_not_specialize=[
        "row_stride", "vocab", "words", "row_given", "temperature_stride", "temperature_bits",
        "seed_stride", "seed_low", "seed_high", "draft_values_stride", "draft_rows_count",
        "rows", "width", "extra", "given", "count_stride", "count_scalar", "offset_stride",
        "draft_row_stride", "draft_stride",
    ]
)  # fmt: skip
def accept(
    logits, row_stride, vocab, mask, words, row_status, row_given, temperature, temperature_stride, temperature_bits,
    peak, mass, seeds, seed_stride, seed_low, seed_high, positions,
    draft_values, draft_values_stride, draft_rows_count, draft_peak, draft_mass,
    rows, width, extra, given, counts, count_stride, count_scalar, row_offsets, offset_stride, row_owner,
    drafts, draft_row_stride, draft_stride,
    token_ids, num_accepted, status, logprobs, decisions,
    WIDTH: tl.constexpr, FLAT: tl.constexpr, LOGITS: tl.constexpr, LOGPROBS: tl.constexpr,
):  # fmt: skip
    """Tests each drafted token against its coin, and writes the accepted tokens of each request (spec section 17).

    Grid (requests). `decisions` gets, for each request, what to draw from behind the accepted tokens, the row, and the
    draft's row.
    """
    request = tl.program_id(0).to(tl.int64)
    slot = tl.arange(0, WIDTH)
    first, count, reason = rows_of_request(
        request, width, rows, extra, given, counts, count_stride, count_scalar, row_offsets, offset_stride,
        row_owner, slot, FLAT,
    )  # fmt: skip
    drafted = slot < tl.where(reason == STATUS_LENGTH, 0, count - 1)
    at = request * draft_row_stride + slot.to(tl.int64) * draft_stride
    draft = tl.load(drafts + at, mask=drafted, other=0).to(tl.int64)
    length = drafted_length(draft, drafted, slot)
    foreign = foreign_tokens(draft, slot < length, vocab)
    draft_first = request * (width - 1)
    if FLAT:
        draft_first = first - request
        inside = (draft_first >= 0) & (draft_first + count - 1 <= draft_rows_count)
        reason = tl.where((reason == 0) & (inside == 0), STATUS_OFFSETS, reason)
    reason |= foreign

    mine = slot < tl.where(reason == 0, length + 1, 0)
    tested = slot < tl.where(reason == 0, length, 0)
    row = first + slot
    draft_row = draft_first + slot
    position = tl.load(positions + row, mask=mine, other=0)
    why = tl.load(row_status + row, mask=mine, other=0) | tl.where(position < 0, STATUS_PARAMETER, 0)
    of_draft = tl.load(draft_mass + draft_row, mask=tested, other=1)
    why |= tl.where(of_draft < 0, STATUS_DRAFT_WEIGHTS, 0)
    fine = tested & (why == 0)
    read = tl.where(fine, row, 0)
    seed = row_seed(seeds, seed_stride, seed_low, seed_high, read, row_given)
    coin_high, coin_low, _, _ = philox(seed, (row & 0).to(tl.uint32), position, COIN)
    scale = row_scale(temperature, temperature_stride, temperature_bits, read, row_given)
    largest = tl.load(peak + row, mask=fine, other=0.0)
    total = tl.load(mass + row, mask=fine, other=1)
    x = tl.load(logits + row * row_stride + draft, mask=fine, other=0.0).to(tl.float32) + 0.0
    kept = kept_tokens(mask + row * words, draft, fine)
    q = tl.load(draft_values + draft_row * draft_values_stride + draft, mask=fine, other=0.0).to(tl.float32) + 0.0
    q_largest = tl.load(draft_peak + draft_row, mask=fine, other=0.0)
    of_token = draft_weight(q, q_largest, LOGITS)
    heads = is_accepted(coin_high, coin_low, target_weight(x, scale, largest, kept), total, of_token, of_draft)
    accepted = tl.min(tl.where(fine & heads, WIDTH, slot), axis=0)
    reason |= tl.sum(tl.where(slot == accepted, why, 0), axis=0)

    said = mine & (slot < accepted)
    at = request * width + slot
    tl.store(token_ids + at, tl.where(said, draft, -1), mask=slot < width)
    if LOGPROBS:
        logprob = log_probability(gap(x, largest, scale), total)
        tl.store(logprobs + at, tl.where(said, logprob, quiet_nan()), mask=slot < width)
    tl.store(num_accepted + request, accepted)
    tl.store(status + request, reason)
    # A rejected token that the draft could not draw: nothing of the target is used up, and there may be no residual.
    possible = tl.sum(tl.where((slot == accepted) & tested, of_token, 0), axis=0) > 0
    kind = tl.where(possible, FROM_RESIDUAL, FROM_TARGET)
    tl.store(decisions + request * 3, tl.where(reason == 0, kind, NO_DRAW).to(tl.int64))
    tl.store(decisions + request * 3 + 1, first + accepted)
    tl.store(decisions + request * 3 + 2, draft_first + accepted)


@triton.jit
def residual_gumbel(seed, token, position):
    """The exact noise of tokens in the draw behind the accepted ones, as int64 in units of 2^-32."""
    high = token_word(seed, token, position, RESIDUAL_HIGH)
    low = token_word(seed, token, position, RESIDUAL_LOW)
    return gumbel(high, low)


@triton.jit
def residual_level(w, mass, v, draft_mass):
    """For each token, the logarithm of w * draft_mass - v * mass in units of 2^-32, and whether that number is above 0.
    """
    target_high, target_low = product(w.to(tl.uint64), draft_mass.to(tl.uint64))
    draft_high, draft_low = product(v.to(tl.uint64), mass.to(tl.uint64))
    some = below(draft_high, draft_low, target_high, target_low)
    high, low = difference(target_high, target_low, draft_high, draft_low)
    return ln_of_wide(tl.where(some, high, 0), tl.where(some, low, 1)), some


@triton.jit(
    do_not_specialize=[
        "row_stride", "vocab", "words", "row_given", "temperature_stride", "temperature_bits",
        "seed_stride", "seed_low", "seed_high", "draft_values_stride", "parts", "spans",
    ]
)  # fmt: skip
def residual(
    logits, row_stride, vocab, mask, words, row_given, temperature, temperature_stride, temperature_bits,
    peak, mass, seeds, seed_stride, seed_low, seed_high, positions,
    draft_values, draft_values_stride, draft_peak, draft_mass, decisions,
    parts, spans, part_score, part_token, LOGITS: tl.constexpr,
):  # fmt: skip
    """Finds the best score, and its token, in one part of the row behind a request's accepted tokens
    (spec section 17).

    Grid (requests, parts). A part is `spans` spans of SPAN tokens.
    """
    request = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    kind = tl.load(decisions + request * 3)
    draws = kind != NO_DRAW
    row = tl.where(draws, tl.load(decisions + request * 3 + 1), 0)
    takes_draft = kind == FROM_RESIDUAL
    draft_row = tl.where(takes_draft, tl.load(decisions + request * 3 + 2), 0)
    seed = row_seed(seeds, seed_stride, seed_low, seed_high, row, row_given)
    position = tl.load(positions + row, mask=draws, other=0)
    scale = row_scale(temperature, temperature_stride, temperature_bits, row, row_given)
    largest = tl.load(peak + row, mask=draws, other=0.0)
    total = tl.load(mass + row, mask=draws, other=1)
    q_largest = tl.load(draft_peak + draft_row, mask=takes_draft, other=0.0)
    draft_total = tl.load(draft_mass + draft_row, mask=takes_draft, other=1)
    best = tl.full([], NO_SCORE, tl.int64)
    winner = tl.full([], LAST_TOKEN, tl.int32)
    start = part * spans * SPAN
    end = tl.where(draws, tl.minimum(start + spans * SPAN, vocab), 0)
    for at in range(start, end, SPAN):
        token = at + tl.arange(0, SPAN)
        wanted = kept_tokens(mask + row * words, token, token < vocab)
        a = gap(load_row(logits + row * row_stride, token, vocab, float("-inf")), largest, scale)
        level = -fixed_point(a)
        if takes_draft:
            q = load_row(draft_values + draft_row * draft_values_stride, token, vocab, float("-inf") if LOGITS else 0.0)
            w = tl.where(wanted, weight(a), 0)
            level, wanted = residual_level(w, total, draft_weight(q, q_largest, LOGITS), draft_total)
        if tl.max(wanted.to(tl.int32), axis=0) > 0:
            score = level + residual_gumbel(seed, token, position)
            top, where = best_of(tl.where(wanted, score, NO_SCORE), token)
            best, winner = better_of(best, winner, top, where)
    tl.store(part_score + request * parts + part, best)
    tl.store(part_token + request * parts + part, winner)


@triton.jit(
    do_not_specialize=["row_stride", "row_given", "temperature_stride", "temperature_bits", "parts", "width"]
)
def finish(
    logits, row_stride, row_given, temperature, temperature_stride, temperature_bits, peak, mass, decisions,
    parts, part_score, part_token, width, token_ids, num_accepted, logprobs,
    PARTS: tl.constexpr, LOGPROBS: tl.constexpr,
):  # fmt: skip
    """Writes the token behind the accepted ones, which has the best score of all parts. Grid (requests)."""
    request = tl.program_id(0).to(tl.int64)
    draws = tl.load(decisions + request * 3) != NO_DRAW  # then there are rows to read, and there is a winner
    part = tl.arange(0, PARTS)
    score = tl.load(part_score + request * parts + part, mask=part < parts, other=NO_SCORE)
    token = tl.load(part_token + request * parts + part, mask=part < parts, other=LAST_TOKEN)
    _, winner = best_of(score, token)
    at = request * width + tl.load(num_accepted + request)
    tl.store(token_ids + at, winner.to(tl.int64), mask=draws)
    if LOGPROBS:
        row = tl.where(draws, tl.load(decisions + request * 3 + 1), 0)
        x = tl.load(logits + row * row_stride + winner, mask=draws, other=0.0).to(tl.float32) + 0.0
        scale = row_scale(temperature, temperature_stride, temperature_bits, row, row_given)
        a = gap(x, tl.load(peak + row, mask=draws, other=0.0), scale)
        total = tl.load(mass + row, mask=draws, other=1)
        tl.store(logprobs + at, log_probability(a, total), mask=draws)
