"""A slow, obvious transcription of docs/contract/spec.md for one row, in Python's integers and fractions.

It shares nothing with `reference/` and nothing with the kernels, so that a disagreement means a defect in one
of the three or in the text. An fp32 value is a `Fraction` here (zero has no sign: no rule depends on it) or
`+-math.inf`; every rounding is a call of `rn32`. `real_*` and `ideal_nucleus` know real numbers (mpmath)
instead of the contract's integers.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache

import mpmath

Real = Fraction | float  # a float only where it is infinite

ONE_W = 1 << 40
MASK32 = (1 << 32) - 1
QUIET_NAN = 0x7FC00000
LN2_48 = 195103586505167

# ---- section 1: fp32


def bits_of(value: float | Fraction) -> int:
    """The bits of a value that fp32 holds."""
    return int(struct.unpack("<I", struct.pack("<f", float(value)))[0])


def float_of(bits: int) -> float:
    return float(struct.unpack("<f", struct.pack("<I", bits))[0])


def fraction_of(bits: int) -> Fraction:
    """The value of finite fp32 bits, taken apart by hand."""
    sign = -1 if bits >> 31 else 1
    exponent, mantissa = (bits >> 23) & 255, bits & 0x7FFFFF
    assert exponent != 255
    if exponent == 0:
        return sign * Fraction(mantissa, 2**149)
    return sign * Fraction(mantissa | 0x800000) * Fraction(2) ** (exponent - 150)


FLT_MAX = fraction_of(0x7F7FFFFF)


def floor_log2(value: Fraction) -> int:
    """floor(log2(value)) for value > 0."""
    e = value.numerator.bit_length() - value.denominator.bit_length()
    return e if Fraction(2) ** e <= value else e - 1


def rn32(value: Fraction) -> Real:
    """Round to the nearest fp32, ties to even, subnormals kept, overflow to infinity."""
    if value == 0:
        return Fraction(0)
    unit = Fraction(2) ** max(floor_log2(abs(value)) - 23, -149)
    rounded = round(value / unit) * unit  # round() of a Fraction breaks ties to even
    if abs(rounded) > FLT_MAX:
        return math.copysign(math.inf, rounded)
    return rounded


def finite32(value: Fraction) -> Fraction:
    """rn32 where no overflow can occur."""
    rounded = rn32(value)
    assert isinstance(rounded, Fraction)
    return rounded


def parameter32(value: float) -> Real:
    """A parameter of any floating type, rounded to fp32; NaN stays NaN."""
    value = float(value)
    return value if math.isnan(value) or math.isinf(value) else rn32(Fraction(value))


# ---- section 5: weights

_C = [
    fraction_of(c)
    for c in (0x3F3504F3, 0xBEFAF234, 0x3E2DF14A, 0xBD20C133, 0x3BDEDD6E, 0xBA7862DF, 0x38E3908B)
]
_A_CAP = fraction_of(0x41FFFFFF)


@lru_cache(maxsize=1 << 16)
def weight(a: Real) -> int:
    """W(a)."""
    capped = _A_CAP if a == math.inf else min(Fraction(a), _A_CAP)
    D = math.trunc(capped * 2**27)
    assert 0 <= D < 2**32
    y = (D * 0xB8AA3B29) // 2**35
    n, b = y >> 23, y & 0x7FFFFF
    t = fraction_of(0x3F800000 | b) - Fraction(3, 2)
    h = _C[6]
    for k in (5, 4, 3, 2, 1, 0):
        h = finite32(finite32(h * t) + _C[k])
    P = bits_of(h) - 0x3E800000
    return (((P << 17) >> n) + 1) >> 1


# ---- section 7: noise


def philox(counter: Sequence[int], key: Sequence[int]) -> tuple[int, int, int, int]:
    """Philox4x32-10."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for i in range(10):
        if i:
            k0, k1 = (k0 + 0x9E3779B9) & MASK32, (k1 + 0xBB67AE85) & MASK32
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & MASK32, (p0 >> 32) ^ c3 ^ k1, p0 & MASK32
    return c0, c1, c2, c3


def halves(value: int) -> tuple[int, int]:
    """(low, high) 32 bits of a 64-bit integer, signed or not."""
    return value & MASK32, (value >> 32) & MASK32


def uniform(seed: int, position: int, token: int) -> int:
    """`s`, the 64 bits of the token's uniform `u = (2s + 1) / 2^65`."""
    words = [philox((token >> 2, *halves(position), domain), halves(seed)) for domain in (0, 1)]
    return words[0][token & 3] * 2**32 + words[1][token & 3]


def fold_in(seed: int, i: int) -> int:
    """The derived seed as int64."""
    words = philox((0, *halves(i), 2), halves(seed))
    unsigned = words[0] + (words[1] << 32)
    return unsigned - 2**64 if unsigned >= 2**63 else unsigned


_Q = (2147483648, -1073741831, 715827829, -536869550, 429500373, -357993763)
_Q += (306742235, -266521740, 237140951, -234035186, 228418008, -125534836)
_H = (1073741824, 447392303, 268445247, 186859199, 146340794, 71131795)
_H += (323062286, -711103555, 1743860480, -1975990430, 1190561710)


def split(N: int) -> tuple[int, int]:
    """SPLIT(N) = (e, r)."""
    assert 1 <= N < 2**64
    e = N.bit_length() - 1
    t = N * 2**31 // 2**e
    if t > 3037000499:
        e, f = e + 1, (t >> 1) - 2**31
    else:
        f = t - 2**31
    acc = _Q[11]
    for k in range(10, -1, -1):
        acc = ((acc * f) >> 31) + _Q[k]
    return e, (acc * f) >> 30


def logq(e: int, r: int) -> int:
    return ((e * LN2_48) >> 16) + r


def gumbel(s: int) -> int:
    """G(s), in units of 2^-32."""
    assert 0 <= s < 2**64
    t = s if s < 2**63 else 2**64 - 1 - s
    e, r = split(2 * t + 1)
    L = (((65 - e) * LN2_48) >> 16) - r
    if s >= 2**63:
        e, r = split(L)
        return -((((e - 32) * LN2_48) >> 16) + r)
    v = s >> 33
    acc = _H[10]
    for k in range(9, -1, -1):
        acc = ((acc * v) >> 31) + _H[k]
    return L - ((acc * v) >> 30)


# ---- the row


@dataclass(frozen=True)
class Parameters:
    """The parameters of one row."""

    topp_seed: int = 0
    position: int = 0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    filter_order: str = "top_k_first"


@dataclass(frozen=True)
class Row:
    """What the contract says about one row, and how it came about."""

    token: int
    num_kept: int
    status: int
    logprobs: int  # bits
    log_z: int  # bits
    kept: tuple[int, ...] = ()  # ids, in the order of section 4
    gaps: dict[int, Real] = field(default_factory=dict, compare=False)
    weights: dict[int, int] = field(default_factory=dict, compare=False)


def row_status(logits: Sequence[float], p: Parameters) -> int:
    """Section 3."""
    temperature, top_p, min_p = (parameter32(v) for v in (p.temperature, p.top_p, p.min_p))
    valid = math.isfinite(temperature) and temperature >= 0 and p.position >= 0
    valid = valid and not math.isnan(top_p) and not math.isnan(min_p)
    status = 1 if any(math.isnan(x) for x in logits) else 0
    status |= 2 if any(x == math.inf for x in logits) else 0
    status |= 0 if any(math.isfinite(x) for x in logits) else 4
    return status | (0 if valid else 8)


def inverse(temperature: Fraction) -> Fraction:
    """r of section 4."""
    r = rn32(1 / temperature)
    return FLT_MAX if r == math.inf else Fraction(r)


def gap(largest: Fraction, x: Fraction, temperature: Fraction) -> Real:
    """a of section 4."""
    difference = rn32(largest - x)
    return math.inf if difference == math.inf else rn32(Fraction(difference) * inverse(temperature))


def top_k_length(order: Sequence[int], top_k: int, V: int) -> int:
    return min(top_k, len(order)) if 1 <= top_k < V else len(order)


def top_p_length(order: Sequence[int], share_of: Sequence[int], w: dict[int, int], top_p: Real) -> int:
    """The shortest prefix of the order with the share of what the tokens ``share_of`` weigh."""
    if top_p >= 1:
        return len(order)
    if top_p <= 0:
        return 1
    target = math.ceil(Fraction(top_p) * sum(w[i] for i in share_of))
    prefixes = range(1, len(order) + 1)
    return next(n for n in prefixes if sum(w[i] for i in order[:n]) >= target)


def share_of(order: Sequence[int], k: int, passing: int, filter_order: str) -> Sequence[int]:
    """The tokens of whose weight top-p takes its share."""
    return {"top_k_first": order[:k], "min_p_first": order[: min(k, passing)], "joint": order}[filter_order]


def min_p_length(order: Sequence[int], w: dict[int, int], min_p: Real) -> int:
    if min_p <= 0:
        return len(order)
    threshold = ONE_W if min_p == math.inf else min(math.ceil(Fraction(min_p) * ONE_W), ONE_W)
    passing = [w[i] >= threshold for i in order]
    length = sum(passing)
    assert all(passing[:length]), "the weights do not fall along the order"
    return length


def fp32_of_scaled(units: int) -> int:
    """The bits of fp32(units) * 2^-32."""
    return bits_of(finite32(Fraction(units)) / 2**32)


def log_weight(N: int) -> int:
    """LN(N) of section 9."""
    e, r = split(N)
    return logq(e - 40, r)


def kept_ids(
    logits: Sequence[float], p: Parameters
) -> tuple[tuple[int, ...], dict[int, Real], dict[int, int]]:
    """Sections 4 to 6 for a valid row: the kept ids in order, every gap and every weight."""
    x = {i: Fraction(value) for i, value in enumerate(logits) if value != -math.inf}
    order = sorted(x, key=lambda i: (-x[i], i))
    temperature = Fraction(parameter32(p.temperature))
    if temperature == 0:
        return (order[0],), {}, {}
    a = {i: gap(x[order[0]], x[i], temperature) for i in order}
    w = {i: weight(a[i]) for i in order}
    k = top_k_length(order, p.top_k, len(logits))
    passing = min_p_length(order, w, parameter32(p.min_p))
    heaped = share_of(order, k, passing, p.filter_order)
    n = min(k, passing, top_p_length(order, heaped, w, parameter32(p.top_p)))
    return tuple(order[:n]), a, w


def units(a: Real) -> int:
    """Z(a) of section 8."""
    return math.trunc(Fraction(min(a, 2**30)) * 2**32)


def score(a: Real, seed: int, position: int, token: int) -> int:
    """Section 8."""
    return gumbel(uniform(seed, position, token)) - units(a)


def sample_row(logits: Sequence[float], p: Parameters) -> Row:
    """The contract for one row; `logits` are the exact values of fp32 numbers."""
    status = row_status(logits, p)
    if status:
        return Row(-1, 0, status, QUIET_NAN, QUIET_NAN)
    kept, a, w = kept_ids(logits, p)
    if not a:  # greedy
        return Row(kept[0], 1, 0, 0, 0, kept)
    scores = {i: score(a[i], p.topp_seed, p.position, i) for i in kept}
    best = max(scores.values())
    token = min(i for i in kept if scores[i] == best)
    kept_log = log_weight(sum(w[i] for i in kept))
    all_log = log_weight(sum(w.values()))
    logprobs = fp32_of_scaled(-(units(a[token]) + kept_log))
    return Row(token, len(kept), 0, logprobs, fp32_of_scaled(min(kept_log - all_log, 0)), kept, a, w)


# ---- real numbers


def real_weight(a: Real) -> mpmath.mpf:
    """exp(-a)."""
    return mpmath.mpf(0) if a == math.inf else mpmath.exp(-mpmath.mpf(Fraction(a).numerator) / Fraction(a).denominator)


def real_gumbel(s: int) -> mpmath.mpf:
    """-ln(-ln(1 - u)), u = (2s + 1) / 2^65, to fifty digits."""
    with mpmath.workdps(50):
        u = mpmath.mpf(2 * s + 1) / mpmath.mpf(2) ** 65
        return -mpmath.log(-mpmath.log1p(-u))


def real_log_probabilities(row: Row) -> tuple[mpmath.mpf, mpmath.mpf]:
    """(log probability of the row's token among the kept, log of the kept mass), real."""
    with mpmath.workdps(40):
        kept = mpmath.fsum(real_weight(row.gaps[i]) for i in row.kept)
        everything = mpmath.fsum(real_weight(a) for a in row.gaps.values())
        a = Fraction(row.gaps[row.token])
        return -mpmath.mpf(a.numerator) / a.denominator - mpmath.log(kept), mpmath.log(kept / everything)


@dataclass(frozen=True)
class Ideal:
    """The kept count by real weights, and how far the nearest boundary is from another answer."""

    num_kept: int
    top_p_margin: Fraction  # |prefix sum / sum - top_p|, the least over prefixes
    min_p_margin: Fraction  # |weight / min_p - 1|, the least over tokens


def ideal_nucleus(logits: Sequence[float], p: Parameters, digits: int = 40) -> Ideal:
    """Filters on rationals that are the real weights to `digits` digits; `temperature > 0`, a valid row."""
    x = {i: Fraction(value) for i, value in enumerate(logits) if value != -math.inf}
    order = sorted(x, key=lambda i: (-x[i], i))
    temperature = Fraction(parameter32(p.temperature))
    with mpmath.workdps(digits):
        real = [real_weight(gap(x[order[0]], x[i], temperature)) for i in order]
        w = [Fraction(*mpmath.libmp.to_rational(value._mpf_)) for value in real]
    k = top_k_length(order, p.top_k, len(logits))
    count, min_p_margin = _ideal_min_p(w, parameter32(p.min_p))
    heaped = share_of(range(len(w)), k, count, p.filter_order)
    n, top_p_margin = _ideal_top_p(w, sum((w[i] for i in heaped), Fraction(0)), parameter32(p.top_p))
    return Ideal(min(k, n, count), top_p_margin, min_p_margin)


def _ideal_top_p(w: Sequence[Fraction], total: Fraction, top_p: Real) -> tuple[int, Fraction]:
    if top_p >= 1 or top_p <= 0:
        return (len(w) if top_p >= 1 else 1), Fraction(1)
    running, length, margin = Fraction(0), 0, Fraction(1)
    for n, value in enumerate(w, 1):
        running += value
        margin = min(margin, abs(running / total - Fraction(top_p)))
        if not length and running >= Fraction(top_p) * total:
            length = n
    return length, margin


def _ideal_min_p(w: Sequence[Fraction], min_p: Real) -> tuple[int, Fraction]:
    if min_p <= 0 or min_p == math.inf:
        return (len(w) if min_p <= 0 else sum(v == 1 for v in w)), Fraction(1)
    threshold = min(Fraction(min_p), Fraction(1))
    margin = min((abs(v / threshold - 1) for v in w if v != 1), default=Fraction(1))
    return sum(v >= threshold for v in w), margin
