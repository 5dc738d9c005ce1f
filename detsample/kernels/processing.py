"""What requests ask to be done to logits before a draw, in place, one program a row (docs/processing.md).

Only tokens that a row's lists name are looked at: those it has, those with a bias, those forbidden. A token may be
named often, and its logit must change once. So the row has a word for each token of the vocabulary, of which only the
words of named tokens are ever touched: they are set to zero, then every mention adds to its token's word, and whoever
comes first to collect the word changes the logit. What is added is integers, so the order does not matter.
"""

import triton
import triton.language as tl

from detsample.kernels.sampling.rows import fp32_from_bits, scalar_or_vector

COUNT = tl.constexpr((1 << 26) - 1)  # how often the token occurs, for frequency and presence
REPEATED = tl.constexpr(1 << 26)
BIASED = tl.constexpr(1 << 27)
FORBIDDEN = tl.constexpr(1 << 28)
ALONE = tl.constexpr(1 << 29)  # one of the only tokens that are allowed
COLLECTED = tl.constexpr(1 << 30)

REPETITION_GIVEN = tl.constexpr(1)  # bits of `given`: which parameters are vectors
FREQUENCY_GIVEN = tl.constexpr(2)
PRESENCE_GIVEN = tl.constexpr(4)
LENGTH_GIVEN = tl.constexpr(8)

RECIPROCAL = tl.constexpr(1)  # bits of `how`, the fields of `Convention` in detsample/processing/arguments.py
OUTPUT_REPEATS = tl.constexpr(2)
PROMPT_COUNTS = tl.constexpr(4)
PRESENCE_FIRST = tl.constexpr(8)
SUMMED = tl.constexpr(16)
PROMPT_IN_WORDS = tl.constexpr(32)

BLOCK = tl.constexpr(1024)  # how many mentions are looked at together
WORDS = tl.constexpr(64)  # how many bad words are


@triton.jit
def list_of(ids, request, starts, ends, stride, width, size):
    """A request's list, its length and its place: a row of a table, or what lies between its start and its end."""
    first = request * stride
    length = tl.full([], width, tl.int32)
    if width < 0:
        first = tl.minimum(tl.maximum(tl.load(starts + request).to(tl.int64), 0), size)
        end = tl.minimum(tl.maximum(tl.load(ends + request).to(tl.int64), first), size)
        length = (end - first).to(tl.int32)
    return ids + first, length, first


@triton.jit
def without_padding(ids, length, width):
    """The length of a list without the negative numbers at its end, which a row of a table has as padding."""
    last = tl.zeros([BLOCK], tl.int32)
    if width >= 0:
        for start in range(0, length, BLOCK):
            place = start + tl.arange(0, BLOCK)
            last = tl.maximum(last, tl.where(tl.load(ids + place, mask=place < length, other=-1) >= 0, place + 1, 0))
        length = tl.max(last, axis=0)
    return length


@triton.jit
def entry(token, ids, begin, length, place, vocab):
    """`token`, but where a list that begins at `begin` has the place, the list's token, or -1 for what is none."""
    if length > 0:  # most lists are empty
        here = (place >= begin) & (place < begin + length)
        found = tl.load(ids + (place - begin), mask=here, other=-1).to(tl.int64)
        token = tl.where(here, tl.where((found >= 0) & (found < vocab), found, -1).to(tl.int32), token)
    return token


@triton.jit
def walk(path, drafts, parents, slot, width, TREE: tl.constexpr):
    """Writes the drafted tokens that a row comes behind, the nearest first, and returns how many there are."""
    node = slot
    depth = slot * 0
    for _ in range(width):
        if (node > 0) & (node < width):
            place = node if TREE else node - 1
            node = tl.load(parents + node).to(tl.int32) if TREE else place
            tl.store(path + depth, tl.load(drafts + place).to(tl.int64))
            depth += 1
    return depth


@triton.jit
def token_back(back, path, depth, output, output_length, prompt, prompt_length):
    """The token so many places back, from 1, in what a row comes behind; -2 before its beginning."""
    token = tl.full([], -2, tl.int64)
    if back <= depth:
        token = tl.load(path + back - 1)
    elif back <= depth + output_length:
        token = tl.load(output + output_length + depth - back).to(tl.int64)
    elif back <= depth + output_length + prompt_length:
        token = tl.load(prompt + prompt_length + output_length + depth - back).to(tl.int64)
    return token


@triton.jit
def match_words(matched, bad_words, words, longest, path, depth, output, output_length, prompt, prompt_length):
    """Writes for each bad word its last token, if the tokens before it are the last ones of the row, or else -1."""
    for start in range(0, words, WORDS):
        word = start + tl.arange(0, WORDS)
        inside = word < words
        first = bad_words + word * longest
        length = tl.zeros([WORDS], tl.int32)
        for place in range(longest):
            length = tl.where(tl.load(first + place, mask=inside, other=-1) >= 0, place + 1, length)
        same = length > 0
        for back in range(1, longest):
            token = token_back(back, path, depth, output, output_length, prompt, prompt_length)
            wanted = tl.load(first + length - 1 - back, mask=inside & (back < length), other=-1).to(tl.int64)
            same = same & ((back >= length) | (wanted == token))
        last = tl.load(first + length - 1, mask=inside & same, other=-1).to(tl.int64)
        tl.store(matched + word, last, mask=inside)


@triton.jit
def changed(x, word, bias, r, f, p, how):
    """The logits of tokens, which are not forbidden: every operation is of fp32 and rounded once."""
    count = word & COUNT
    times = count.to(tl.float32)
    biased = (word & BIASED) != 0
    if (how & SUMMED) != 0:
        total = tl.zeros_like(x)
        for one in range(tl.max(count, axis=0)):
            total = tl.where(one < count, total + f, total)
        x = tl.where(count > 0, x + (-total - p), x)
    else:
        x = tl.where(biased, x + bias, x)
    # Divided in fp64, as in rows.py: Triton 3.3 would flush subnormals. Rounding twice gives the same fp32.
    wide = r.to(tl.float64)
    if (how & RECIPROCAL) != 0:
        repeated = tl.where(x > 0.0, x * (1.0 / wide).to(tl.float32), x * r)
    else:
        repeated = tl.where(x > 0.0, (x.to(tl.float64) / wide).to(tl.float32), x * r)
    x = tl.where(((word & REPEATED) != 0) | (count > 0), repeated, x)
    if (how & SUMMED) != 0:
        x = tl.where(biased, x + bias, x)
    elif (how & PRESENCE_FIRST) != 0:
        x = tl.where(count > 0, (x - p) - f * times, x)
    else:
        x = tl.where(count > 0, (x - f * times) - p, x)
    return x


NOT_SPECIALIZED = [
    "row_stride", "vocab", "rows", "width", "how", "offsets_given", "draft_row_stride", "parent_row_stride", "given",
    "repetition_stride", "repetition_bits", "frequency_stride", "frequency_bits", "presence_stride", "presence_bits",
    "length_stride", "length_scalar", "prompt_stride", "prompt_width", "prompt_size", "output_stride", "output_width",
    "output_size", "bias_stride", "bias_width", "bias_size", "banned_stride", "banned_width", "banned_size",
    "stop_stride", "stop_width", "stop_size", "only_stride", "only_width", "only_size", "words_stride", "bad_count",
    "longest",
]  # fmt: skip


@triton.jit(do_not_specialize=NOT_SPECIALIZED, do_not_specialize_on_alignment=["logits"])
def process(
    logits, row_stride, vocab, rows, width, how, offsets_given, row_offsets,
    drafts, draft_row_stride, parents, parent_row_stride, given,
    repetition, repetition_stride, repetition_bits, frequency, frequency_stride, frequency_bits,
    presence, presence_stride, presence_bits, min_length, length_stride, length_scalar,
    prompt, prompt_starts, prompt_ends, prompt_stride, prompt_width, prompt_size,
    output, output_starts, output_ends, output_stride, output_width, output_size,
    bias, bias_starts, bias_ends, bias_stride, bias_width, bias_size, bias_values,
    banned, banned_starts, banned_ends, banned_stride, banned_width, banned_size,
    stop, stop_starts, stop_ends, stop_stride, stop_width, stop_size,
    only, only_starts, only_ends, only_stride, only_width, only_size,
    bad_words, words_stride, bad_count, longest,
    marks, chosen, path, matched, TREE: tl.constexpr,
):  # fmt: skip
    """Changes the logits of one row as its request asks (docs/processing.md).

    Grid (requests, rows of a request).
    """
    request = tl.program_id(0).to(tl.int64)
    slot = tl.program_id(1)
    row = request * width + slot
    exists = row < rows
    if offsets_given != 0:
        row = tl.load(row_offsets + request).to(tl.int64) + slot
        exists = (row >= 0) & (row < rows) & (row < tl.load(row_offsets + request + 1).to(tl.int64))
    if exists:
        r, f = fp32_from_bits(repetition_bits), fp32_from_bits(frequency_bits)
        r = scalar_or_vector(repetition, repetition_stride, request, r, given & REPETITION_GIVEN)
        f = scalar_or_vector(frequency, frequency_stride, request, f, given & FREQUENCY_GIVEN)
        p = scalar_or_vector(presence, presence_stride, request, fp32_from_bits(presence_bits), given & PRESENCE_GIVEN)
        least = scalar_or_vector(min_length, length_stride, request, length_scalar.to(tl.int64), given & LENGTH_GIVEN)
        prompt, prompt_length, _ = list_of(
            prompt, request, prompt_starts, prompt_ends, prompt_stride, prompt_width, prompt_size
        )
        output, output_length, _ = list_of(
            output, request, output_starts, output_ends, output_stride, output_width, output_size
        )
        bias, bias_length, first = list_of(bias, request, bias_starts, bias_ends, bias_stride, bias_width, bias_size)
        bias_values += first
        banned, banned_length, _ = list_of(
            banned, request, banned_starts, banned_ends, banned_stride, banned_width, banned_size
        )
        stop, stop_length, _ = list_of(stop, request, stop_starts, stop_ends, stop_stride, stop_width, stop_size)
        only, only_length, _ = list_of(only, request, only_starts, only_ends, only_stride, only_width, only_size)
        if (stop_length > 0) | (bad_count > 0):
            output_length = without_padding(output, output_length, output_width)
        only_length = without_padding(only, only_length, only_width)
        row_logits = logits + row * row_stride
        marks += row * vocab
        chosen += row * vocab
        path += row * width
        matched += row * bad_count
        depth = walk(
            path, drafts + request * draft_row_stride, parents + request * parent_row_stride, slot, width, TREE
        )
        stop_length = tl.where(depth + output_length < least, stop_length, 0)
        if bad_count > 0:
            tl.debug_barrier()
            in_prompt = tl.where((how & PROMPT_IN_WORDS) != 0, prompt_length, 0)
            in_prompt = without_padding(prompt, in_prompt, prompt_width)
            bad_words += request * words_stride
            match_words(matched, bad_words, bad_count, longest, path, depth, output, output_length, prompt, in_prompt)
        # All lists as one: where each of them begins.
        output_begin = prompt_length
        path_begin = output_begin + output_length
        bias_begin = path_begin + depth
        only_begin = bias_begin + bias_length
        banned_begin = only_begin + only_length
        stop_begin = banned_begin + banned_length
        matched_begin = stop_begin + stop_length
        total = matched_begin + bad_count
        # Where what is counted, and what is repeated, begins: with the prompt or behind it.
        counted_begin = tl.where((how & PROMPT_COUNTS) != 0, 0, output_begin)
        repeated_begin = tl.where((how & OUTPUT_REPEATS) != 0, output_begin, 0)
        if only_length > 0:
            for start in range(0, vocab, BLOCK):
                place = start + tl.arange(0, BLOCK)
                tl.store(marks + place, tl.zeros([BLOCK], tl.int32), mask=place < vocab)
        tl.debug_barrier()  # the path and the matches are written
        for phase in range(3):
            for start in range(0, total, BLOCK):
                place = start + tl.arange(0, BLOCK)
                token = entry(tl.full([BLOCK], -1, tl.int32), prompt, 0, prompt_length, place, vocab)
                token = entry(token, output, output_begin, output_length, place, vocab)
                token = entry(token, path, path_begin, depth, place, vocab)
                token = entry(token, bias, bias_begin, bias_length, place, vocab)
                token = entry(token, only, only_begin, only_length, place, vocab)
                token = entry(token, banned, banned_begin, banned_length, place, vocab)
                token = entry(token, stop, stop_begin, stop_length, place, vocab)
                token = entry(token, matched, matched_begin, bad_count, place, vocab)
                named = token >= 0
                biased = named & (place >= bias_begin) & (place < only_begin)
                if phase == 0:
                    tl.store(marks + token, tl.zeros([BLOCK], tl.int32), mask=named)
                    tl.store(chosen + token, tl.zeros([BLOCK], tl.int32), mask=biased)
                elif phase == 1:
                    counted = named & (place >= counted_begin) & (place < bias_begin)
                    flag = tl.where(place >= banned_begin, FORBIDDEN, tl.where(place >= only_begin, ALONE, BIASED))
                    flag = tl.where(place < bias_begin, tl.where(place >= repeated_begin, REPEATED, 0), flag)
                    # What is counted is repeated as well, in all conventions.
                    tl.atomic_add(marks + token, place * 0 + 1, mask=counted, sem="relaxed")
                    tl.atomic_or(marks + token, flag, mask=named & (counted == 0) & (flag != 0), sem="relaxed")
                    tl.atomic_max(chosen + token, place - bias_begin, mask=biased, sem="relaxed")
                else:
                    x = tl.load(row_logits + token, mask=named, other=0.0).to(tl.float32)  # at once with the word
                    word = tl.atomic_or(marks + token, token * 0 + COLLECTED, mask=named, sem="relaxed")
                    mine = named & ((word & COLLECTED) == 0)
                    word = tl.where(mine, word, 0)
                    has_bias = mine & ((word & BIASED) != 0)
                    which = tl.load(chosen + token, mask=has_bias, other=0, cache_modifier=".cg")
                    value = tl.load(bias_values + which, mask=has_bias, other=0.0)
                    x = changed(x, word, value, r, f, p, how)
                    x = tl.where((word & FORBIDDEN) != 0, float("-inf"), x)
                    tl.store(row_logits + token, x.to(logits.dtype.element_ty), mask=mine)
            tl.debug_barrier()
        if only_length > 0:
            for start in range(0, vocab, BLOCK):
                place = start + tl.arange(0, BLOCK)
                word = tl.load(marks + place, mask=place < vocab, other=ALONE, cache_modifier=".cg")
                tl.store(row_logits + place, float("-inf"), mask=(place < vocab) & ((word & ALONE) == 0))
