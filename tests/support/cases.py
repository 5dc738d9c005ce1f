"""Test rows and parameters shared by every suite: NumPy only, vectorised, nothing imported from detsample.

`CASES` maps a name to a function `(rng, B, V) -> fp32 [B, V]`. All kinds work for every `B >= 1`, `V >= 1`.
Rows are valid unless the kind's name is in `INVALID_KINDS`. `parameters` draws one value per row for every
parameter of `sample`, by its name: `sample(rows, **parameters(rng, B, V))` is a call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

F32 = np.float32
FLT_MAX = float(np.finfo(np.float32).max)
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1

Case = Callable[[np.random.Generator, int, int], np.ndarray]
CASES: dict[str, Case] = {}
INVALID_KINDS = ("invalid_sprinkled", "invalid_all_neg_inf", "invalid_nan_bits")


def rng_of(*names: object) -> np.random.Generator:
    """A generator that depends on a test's own parameters alone."""
    return np.random.default_rng([ord(letter) for name in names for letter in str(name)])


def case(function: Case) -> Case:
    """Register a generator under its own name."""
    CASES[function.__name__] = function
    return function


def _randn(rng: np.random.Generator, B: int, V: int, scale: float = 1.0) -> np.ndarray:
    return rng.standard_normal((B, V), dtype=F32) * F32(scale)


def _column(rng: np.random.Generator, values: list[float], B: int) -> np.ndarray:
    """One of `values` for every row, as fp32 [B, 1]."""
    return np.asarray(values, dtype=F32)[rng.integers(0, len(values), (B, 1))]


def _shuffled(rng: np.random.Generator, rows: np.ndarray) -> np.ndarray:
    return rng.permuted(rows, axis=1)


def to_bfloat16(x: np.ndarray) -> np.ndarray:
    """Round finite fp32 to the nearest bfloat16, halves to even, and return it as fp32."""
    bits = np.ascontiguousarray(x, dtype=F32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)
    return rounded.view(F32)


def step_bits(x: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Move finite fp32 values by whole units in the last place, `steps` upwards (negative: downwards)."""
    bits = np.ascontiguousarray(x, dtype=F32).view(np.int32).astype(np.int64)
    line = np.where(bits < 0, -(bits & 0x7FFFFFFF), bits) + steps
    line = np.clip(line, -0x7F7FFFFF, 0x7F7FFFFF)
    back = np.where(line < 0, -line | 0x80000000, line)
    return back.astype(np.uint32).view(F32)


# ---- bell-shaped rows


@case
def randn(rng: np.random.Generator, B: int, V: int) -> np.ndarray:
    """Standard normal logits."""
    return _randn(rng, B, V)


@case
def randn_x5(rng: np.random.Generator, B: int, V: int) -> np.ndarray:
    """Normal, scale 5: a few dozen tokens carry the mass."""
    return _randn(rng, B, V, 5)


@case
def randn_x001(rng: np.random.Generator, B: int, V: int) -> np.ndarray:
    """Normal, scale 0.01: nearly flat."""
    return _randn(rng, B, V, 0.01)


@case
def randn_x50(rng: np.random.Generator, B: int, V: int) -> np.ndarray:
    """Normal, scale 50: most weights are zero."""
    return _randn(rng, B, V, 50)


@case
def peaked(rng: np.random.Generator, B: int, V: int) -> np.ndarray:
    """One token far above the rest, or hardly above."""
    rows = _randn(rng, B, V)
    rows[np.arange(B), rng.integers(0, V, B)] += _column(rng, [3, 8, 20, 30, 100], B)[:, 0]
    return rows


@case
def peaked_last_and_first(rng: np.random.Generator, B: int, V: int) -> np.ndarray:
    """The best tokens sit at the two ends of the vocabulary."""
    rows = _randn(rng, B, V)
    rows[:, 0] += 12
    rows[:, -1] += 12
    return rows


# ---- ties


@case
def flat(rng: np.random.Generator, B: int, V: int) -> np.ndarray:
    """All logits equal."""
    values = [0.0, -0.0, 1.0, -3.5, 88.7, 1e-40, 1e30, -1e30, FLT_MAX, -FLT_MAX]
    return np.broadcast_to(_column(rng, values, B), (B, V)).copy()


@case
def two_valued(rng: np.random.Generator, B: int, V: int) -> np.ndarray:
    """Two values only, a random share of each."""
    high = rng.random((B, V)) < rng.random((B, 1))
    base = _randn(rng, B, 1, 3)
    return np.where(high, base + _column(rng, [1e-6, 0.5, 1, 10, 27.75, 40, 1e9], B), base)


@case
def few_levels(rng: np.random.Generator, B: int, V: int) -> np.ndarray:
    """Four to sixteen levels: every boundary falls within a tie."""
    levels = rng.integers(4, 17, (B, 1))
    return (rng.integers(0, levels, (B, V)) * _column(rng, [0.25, 0.5, 1, 2], B)).astype(F32)


@case
def tied_runs(rng: np.random.Generator, B: int, V: int) -> np.ndarray:
    """Ties in runs of neighbouring token ids, lengths one to forty, so that boundaries cut runs."""
    width = rng.integers(1, 41, (B, 1))
    run = np.arange(V)[None, :] // width
    table = _randn(rng, B, V, 2)
    return np.take_along_axis(table, run % V, axis=1)


@case
def pairs(rng: np.random.Generator, B: int, V: int) -> np.ndarray:
    """Every value occurs twice, far apart."""
    half = _randn(rng, B, (V + 1) // 2, 2)
    return np.concatenate([half, half[:, ::-1]], axis=1)[:, :V].copy()


@case
def bfloat16_rounded(rng: np.random.Generator, B: int, V: int) -> np.ndarray:
    """Normal logits rounded to bfloat16: thousands of ties in a large row."""
    return to_bfloat16(_randn(rng, B, V, 3))


@case
def float16_rounded(rng: np.random.Generator, B: int, V: int) -> np.ndarray:
    """Normal logits rounded to binary16."""
    return _randn(rng, B, V, 3).astype(np.float16).astype(F32)


# ---- fills


@case
def neg_inf_some(rng: np.random.Generator, B: int, V: int) -> np.ndarray:
    """A random share of -inf, at least one token left."""
    rows = _randn(rng, B, V, 2)
    rows[rng.random((B, V)) < rng.random((B, 1))] = -np.inf
    rows[np.arange(B), rng.integers(0, V, B)] = 1
    return rows


@case
def neg_inf_but_one(rng: np.random.Generator, B: int, V: int) -> np.ndarray:
    """A single finite logit."""
    rows = np.full((B, V), -np.inf, dtype=F32)
    rows[np.arange(B), rng.integers(0, V, B)] = _column(rng, [0, -1e30, 1e30, -FLT_MAX, 5], B)[:, 0]
    return rows


@case
def neg_inf_but_k(rng: np.random.Generator, B: int, V: int) -> np.ndarray:
    """One to sixty finite logits, among -inf, a third of the rows all tied."""
    count = rng.integers(1, min(V, 60) + 1, B)
    rows = np.full((B, V), -np.inf, dtype=F32)
    for b in range(B):
        ids = rng.choice(V, count[b], replace=False, shuffle=False)
        rows[b, ids] = rng.standard_normal(count[b]).astype(F32) if rng.random() < 0.67 else F32(-7)
    return rows


@case
def neg_inf_tail(rng: np.random.Generator, B: int, V: int) -> np.ndarray:
    """Padding: the last columns are -inf."""
    rows = _randn(rng, B, V)
    rows[np.arange(V)[None, :] >= rng.integers(1, V + 1, (B, 1))] = -np.inf
    return rows


@case
def fill_finite(rng: np.random.Generator, B: int, V: int) -> np.ndarray:
    """A share of the row, often half, at a finite stand-in for -inf."""
    share = _column(rng, [0.5, 0.5, 0.1, 0.99], B)
    fill = _column(rng, [-1e9, -1e9, -1e4, -3.4e38, -FLT_MAX, -65504, -100], B)
    rows = np.where(rng.random((B, V)) < share, fill, _randn(rng, B, V, 2))
    return rows.astype(F32)


@case
def half_row_minus_1e9(rng: np.random.Generator, B: int, V: int) -> np.ndarray:
    """The first half normal, the second half exactly -1e9."""
    rows = _randn(rng, B, V)
    rows[:, (V + 1) // 2 :] = -1e9
    return rows


@case
def fill_positive_max(rng: np.random.Generator, B: int, V: int) -> np.ndarray:
    """FLT_MAX at some tokens, -FLT_MAX at others: differences overflow to +inf."""
    rows = _randn(rng, B, V)
    pick = rng.random((B, V))
    rows[pick < 0.1] = FLT_MAX
    rows[pick > 0.9] = -FLT_MAX
    return rows


# ---- corners of fp32


@case
def signed_zeros(rng: np.random.Generator, B: int, V: int) -> np.ndarray:
    """+0 and -0 mixed, with a few negative values or none."""
    rows = np.where(rng.random((B, V)) < 0.5, F32(0.0), F32(-0.0))
    return np.where(rng.random((B, V)) < _column(rng, [0, 0.2], B), F32(-1), rows).astype(F32)


@case
def denormals(rng: np.random.Generator, B: int, V: int) -> np.ndarray:
    """Subnormal values of both signs: distinct in the order, equal in weight; flushing merges them."""
    bits = rng.integers(0, 0x800000, (B, V), dtype=np.uint32)
    return (bits | (rng.integers(0, 2, (B, V), dtype=np.uint32) << np.uint32(31))).view(F32)


@case
def huge(rng: np.random.Generator, B: int, V: int) -> np.ndarray:
    """Scale 1e30, and some rows that reach FLT_MAX."""
    scale = _column(rng, [1e30, 1e36, 5e37], B)
    return np.clip(_randn(rng, B, V).astype(np.float64) * scale, -FLT_MAX, FLT_MAX).astype(F32)


@case
def large_offset(rng: np.random.Generator, B: int, V: int) -> np.ndarray:
    """Normal logits far from zero, where fp32 steps are coarse, across the score's saturation at 2^30."""
    offset = _column(rng, [1e4, -1e4, 1e7, -1e7, 2.0**29, -(2.0**29), 2.0**30, -(2.0**30), 3e9, -3e9], B)
    return (_randn(rng, B, V, 2) * _column(rng, [1, 50, 1e3], B) + offset).astype(F32)


@case
def tiny_steps(rng: np.random.Generator, B: int, V: int) -> np.ndarray:
    """Steps of 1e-38: the order is total, every weight is 2^40."""
    return (rng.integers(-50, 51, (B, V)) * np.float64(1e-38)).astype(F32)


@case
def wide(rng: np.random.Generator, B: int, V: int) -> np.ndarray:
    """Any finite bit pattern."""
    bits = rng.integers(0, 2**32, (B, V), dtype=np.uint32)
    exponent_full = (bits & np.uint32(0x7F800000)) == np.uint32(0x7F800000)
    return np.where(exponent_full, bits & np.uint32(0xBFFFFFFF), bits).view(F32)


@case
def ramp_down(rng: np.random.Generator, B: int, V: int) -> np.ndarray:
    """Descending, step 1e-4 to 1."""
    return (-np.arange(V, dtype=F32)[None, :] * _column(rng, [1e-4, 1e-2, 0.3, 1], B)).astype(F32)


@case
def ramp_up(rng: np.random.Generator, B: int, V: int) -> np.ndarray:
    """Ascending, step 1e-4 to 1: the best token is the last."""
    return ramp_down(rng, B, V)[:, ::-1].copy()


@case
def ramp_geometric(rng: np.random.Generator, B: int, V: int) -> np.ndarray:
    """Differences that double or grow by a third, in random order."""
    ratio = _column(rng, [2, 4 / 3], B).astype(np.float64)
    exponent = np.minimum(np.arange(V)[None, :], 200)
    rows = -np.minimum(F32(1e-3) * ratio**exponent, FLT_MAX)
    return _shuffled(rng, rows.astype(F32))


@case
def weight_edges(rng: np.random.Generator, B: int, V: int) -> np.ndarray:
    """Distances below the maximum near ln 2^40 (weights 2, 1, 0), near 32 (section 5's cap) and above."""
    distance = np.asarray(
        [27.0, 27.3, 27.5, 27.72, 27.726, 27.75, 28, 28.4, 28.42, 28.5, 31.999, 32, 33, 90], F32
    )
    rows = -distance[rng.integers(0, len(distance), (B, V))]
    rows[np.arange(B), rng.integers(0, V, B)] = 0
    return step_bits(rows, rng.integers(-2, 3, (B, V)) * (rows != 0))


@case
def neighbours(rng: np.random.Generator, B: int, V: int) -> np.ndarray:
    """Adjacent fp32 values around one value, so that every boundary lies between neighbours."""
    base = np.broadcast_to(_column(rng, [0.5, 1, 7.9999995, -2, 13.37, 1e-39], B), (B, V))
    return step_bits(base, rng.integers(-4, 5, (B, V)))


@case
def neighbours_of_a_boundary(rng: np.random.Generator, B: int, V: int) -> np.ndarray:
    """Clear winners, clear losers, and in between values one unit in the last place apart."""
    rows = _randn(rng, B, V) - F32(12)
    role = rng.random((B, V))
    middle = step_bits(np.full((B, V), 1.5, F32), rng.integers(-1, 2, (B, V)))
    return np.where(role < 0.1, F32(2) + np.abs(rows) / 64, np.where(role < 0.5, middle, rows)).astype(F32)


# ---- invalid rows beside valid ones


@case
def invalid_sprinkled(rng: np.random.Generator, B: int, V: int) -> np.ndarray:
    """NaN and +inf at a few places of about half the rows, some rows with both."""
    rows = neg_inf_some(rng, B, V)
    for value in (np.nan, np.inf):
        hit = rng.random(B) < 0.35
        count = rng.integers(1, 4)
        for _ in range(count):
            rows[np.nonzero(hit)[0], rng.integers(0, V, int(hit.sum()))] = value
    return rows


@case
def invalid_all_neg_inf(rng: np.random.Generator, B: int, V: int) -> np.ndarray:
    """Half the rows hold nothing but -inf."""
    rows = _randn(rng, B, V)
    rows[rng.random(B) < 0.5] = -np.inf
    return rows


@case
def invalid_nan_bits(rng: np.random.Generator, B: int, V: int) -> np.ndarray:
    """NaNs of every payload and sign, or nothing finite besides: status 1, 2 and 4 in every combination."""
    patterns = np.asarray([0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFFFFFFF, 0x7F800000, 0xFF800000], np.uint32)
    first = rng.integers(0, 6, (B, V))
    only_infinities = rng.random((B, 1)) < 0.5
    rows = patterns[np.where(only_infinities, np.maximum(first, 4), first)].view(F32)
    mostly_finite = (rng.random((B, 1)) < 0.5) & (rng.random((B, V)) < 0.9)
    return np.where(mostly_finite, _randn(rng, B, V), rows)


def mixed(rng: np.random.Generator, B: int, V: int) -> np.ndarray:
    """A batch in which every row is of another kind, in random order of kinds."""
    rows = np.empty((B, V), F32)
    names = [name for _ in range(B // len(CASES) + 1) for name in rng.permutation(list(CASES))][:B]
    for name in sorted(set(names)):
        at = [b for b in range(B) if names[b] == name]
        rows[at] = CASES[name](rng, len(at), V)
    return rows


# ---- parameters

TEMPERATURES = (
    1.0, 1.0, 0.7, 0.7, 1.3, 2.0, 0.1, 1e-3, 1e-5, 1e-8, 0.0, -0.0, 1e-40, 1e-45, 1e-20, 3e-39, 1e30, FLT_MAX,
)  # fmt: skip
TOP_PS = (1.0, 1.0, 0.95, 0.95, 0.9, 0.5, 0.1, 1e-7, 1e-40, 1e-45, 0.0, -0.0, -1.0, 0.999999, 1 - 2**-24, 1.5)
TOP_PS_RARE = (np.inf, -np.inf, 2.0**-23, 0.25, 0.75, 0.3, 0.99)
MIN_PS = (
    0.0,
    0.0,
    0.0,
    0.05,
    0.05,
    0.1,
    1e-8,
    0.5,
    0.999,
    1.0,
    2.0,
    -1.0,
    -0.0,
    2.0**-40,
    1e-45,
    np.inf,
    -np.inf,
)
SEEDS = (0, 1, -1, 2, 42, INT64_MIN, INT64_MAX, 2**32, 2**32 - 1, -(2**32), 2**31, -(2**31))
POSITIONS = (0, 0, 1, 2, 3, 1000, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**40, 2**63 - 1)
INVALID_TEMPERATURES = (-1.0, -1e-45, np.inf, -np.inf, np.nan)
INVALID_POSITIONS = (-1, -(2**32), INT64_MIN)


def _pick(rng: np.random.Generator, values: tuple, B: int, dtype: type) -> np.ndarray:
    return np.asarray(values, dtype=dtype)[rng.integers(0, len(values), B)]


def _sometimes(rng: np.random.Generator, share: float, other: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.where(rng.random(values.shape) < share, other, values)


def seeds(rng: np.random.Generator, B: int) -> np.ndarray:
    """Seeds of the full 64-bit range, a quarter of them special, int64 [B]."""
    anywhere = rng.integers(INT64_MIN, INT64_MAX, B, endpoint=True)
    return _sometimes(rng, 0.25, _pick(rng, SEEDS, B, np.int64), anywhere)


def positions(rng: np.random.Generator, B: int) -> np.ndarray:
    """Positions, half of them special, the others below 2^20 or anywhere, int64 [B]."""
    plain = _sometimes(rng, 0.2, rng.integers(0, INT64_MAX, B, endpoint=True), rng.integers(0, 2**20, B))
    return _sometimes(rng, 0.5, _pick(rng, POSITIONS, B, np.int64), plain)


def top_ks(rng: np.random.Generator, B: int, V: int) -> np.ndarray:
    """top_k on and off, small, 50, around V and far above, int64 [B]."""
    special = (
        -1,
        0,
        0,
        0,
        1,
        2,
        3,
        5,
        8,
        20,
        50,
        50,
        256,
        V - 1,
        V,
        V + 1,
        V // 2,
        2**31,
        INT64_MAX,
        INT64_MIN,
    )
    return _sometimes(rng, 0.3, rng.integers(1, V + 1, B), _pick(rng, special, B, np.int64))


def parameters(rng: np.random.Generator, B: int, V: int, invalid: bool = True) -> dict[str, np.ndarray]:
    """One value per row for every parameter of `sample`; some 5 % of the rows invalid if `invalid`."""
    top_p = _sometimes(rng, 0.2, _pick(rng, TOP_PS_RARE, B, F32), _pick(rng, TOP_PS, B, F32))
    min_p = _sometimes(rng, 0.1, rng.random(B, dtype=F32), _pick(rng, MIN_PS, B, F32))
    values = {
        "topp_seed": seeds(rng, B),
        "position": positions(rng, B),
        "temperature": _pick(rng, TEMPERATURES, B, F32),
        "top_k": top_ks(rng, B, V),
        "top_p": _sometimes(rng, 0.15, rng.random(B, dtype=F32), top_p),
        "min_p": min_p,
    }
    return _spoil(rng, values, B) if invalid else values


def _spoil(rng: np.random.Generator, values: dict[str, np.ndarray], B: int) -> dict[str, np.ndarray]:
    share = 0.0125
    bad = {
        "temperature": _pick(rng, INVALID_TEMPERATURES, B, F32),
        "top_p": np.full(B, np.nan, F32),
        "min_p": np.full(B, np.nan, F32),
        "position": _pick(rng, INVALID_POSITIONS, B, np.int64),
    }
    return values | {name: _sometimes(rng, share, bad[name], values[name]) for name in bad}


def plain_parameters(rng: np.random.Generator, B: int, **scalars: float) -> dict[str, np.ndarray]:
    """Filters off, temperature 1, random seeds and positions; keyword arguments override."""
    values: dict[str, np.ndarray] = {
        "topp_seed": seeds(rng, B),
        "position": positions(rng, B),
        "temperature": np.ones(B, F32),
        "top_k": np.zeros(B, np.int64),
        "top_p": np.ones(B, F32),
        "min_p": np.zeros(B, F32),
    }
    return values | {name: np.full(B, value, values[name].dtype) for name, value in scalars.items()}


# ---- boundaries hit exactly

LIGHT = 27.75  # W(27.75) = 1, the smallest weight that is not zero
WEIGHTLESS = 40.0  # W(40) = 0


class Boundary(NamedTuple):
    """Rows whose kept counts are known without computing a weight other than 2^40, 1 and 0."""

    logits: np.ndarray  # fp32 [B, V]
    parameters: dict[str, np.ndarray]  # as `parameters` returns
    num_kept: np.ndarray  # int32 [B], the right answer


def exact_half_boundaries(rng: np.random.Generator, B: int, V: int) -> Boundary:
    """Rows whose top-p sum equals the target exactly, or misses it by one unit; `V >= 4`.

    A row holds `h` heavy tokens (weight 2^40), `n` light ones (weight 1), and weightless or -inf ones. With
    top_p = p/4 and h = 4 g the target is `p g 2^40 + ceil(p n / 4)`: without light tokens `p g` heavy tokens
    sum to it exactly; with them they miss it by `ceil(p n / 4)` units, one when n = 1, and one token more is
    kept. Where min_p is 2^-40 the light tokens stay, at the next fp32 above they go. fp32 sums cannot tell a
    miss of one unit from a hit, nor can float64 sums past 2^53, that is 2^13 heavy tokens.
    """
    rows = np.full((B, V), -np.inf, F32)
    quarter = rng.integers(1, 4, B)
    groups = rng.integers(1, max(V // 8, 1) + 1, B)
    light = np.minimum(rng.integers(0, 4, B), V - 4 * groups)
    kept = np.empty(B, np.int64)
    base = (rng.integers(-128, 129, B) * 0.25).astype(F32)
    params = plain_parameters(rng, B)
    for b in range(B):
        heavy, some = int(4 * groups[b]), int(light[b])
        rows[b, :heavy] = base[b]
        rows[b, heavy : heavy + some] = base[b] - F32(LIGHT)
        if rng.random() < 0.5:
            rows[b, heavy + some :] = base[b] - F32(WEIGHTLESS)
        params["top_p"][b], kept[b] = quarter[b] / 4, quarter[b] * groups[b] + (some > 0)
        if rng.random() < 0.25:
            just_above = rng.random() < 0.5
            params["top_p"][b] = 1
            params["min_p"][b] = np.nextafter(F32(2.0**-40), F32(1)) if just_above else 2.0**-40
            kept[b] = heavy + (0 if just_above else some)
    return Boundary(_shuffled(rng, rows), params, kept.astype(np.int32))


# ---- scores that tie, or miss a tie by one unit

Noise = Callable[..., np.ndarray]  # noise(seeds [B], positions [B], token_ids [N]) -> float64 [B, N]


class ScoreTie(NamedTuple):
    """Rows decided by the last bit of a score, and the right tokens."""

    logits: np.ndarray  # fp32 [B, V]
    parameters: dict[str, np.ndarray]
    token_ids: np.ndarray  # int64 [B], the right answer


def _close_pair(noise: Noise, rng: np.random.Generator, V: int) -> tuple[int, int, int, int, int]:
    """A seed, a position, two tokens, and the units (below 2^23) by which the first one's noise is larger."""
    block = max(1, (1 << 15) // V)
    while True:
        seed, at = seeds(rng, block), positions(rng, block)
        units = np.rint(noise(seed, at, np.arange(V)) * 2.0**32).astype(np.int64)
        order = np.argsort(units, axis=1)
        gaps = np.diff(np.take_along_axis(units, order, axis=1), axis=1)
        rows, columns = np.nonzero(gaps < 1 << 23)
        if len(rows):
            pick = rng.integers(0, len(rows))
            b, c = rows[pick], columns[pick]
            return int(seed[b]), int(at[b]), int(order[b, c + 1]), int(order[b, c]), int(gaps[b, c])


def score_ties(noise: Noise, rng: np.random.Generator, B: int, V: int) -> ScoreTie:
    """Two tokens whose scores are equal, or one unit of 2^-32 apart, all others out of reach; `2 <= V`.

    `noise` is `reference.gumbel_noise` or another with its signature. Seven kinds of rows in turn: a tie; the
    second token one unit ahead; one behind; a tie only if the gap is truncated, of positive and of negative logits;
    logits beyond 2^30 and below -2^30, where a draft of the contract let noise decide and the larger must win.
    """
    rows, params, tokens = np.full((B, V), -np.inf, F32), plain_parameters(rng, B), np.empty(B, np.int64)
    for b in range(B):
        params["topp_seed"][b], params["position"][b], first, second, k = _close_pair(noise, rng, V)
        kind, lower = b % 7, min(first, second)
        values, tokens[b] = (
            ((0, k), lower),
            ((0, k + 1), second),
            ((0, k - 1), first),
            ((0, k + 0.5), lower),
            ((-k - 0.5, 0), lower),
            ((2.0**62, 2.0**63), second),
            ((-(2.0**62), -(2.0**63)), first),
        )[kind]
        if kind < 5 and rng.random() < 0.5:
            rows[b] = -100
        rows[b, [first, second]] = np.asarray(values, np.float64) * 2.0**-32
    return ScoreTie(rows, params, tokens)
