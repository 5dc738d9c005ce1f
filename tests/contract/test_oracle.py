"""The reference against the oracle, bit for bit, and the oracle against real numbers.

Every comparison covers token, count, status, the bits of both logarithms and the kept set.
"""

from __future__ import annotations

import itertools
import math
import random
from fractions import Fraction
from importlib import import_module

import cases
import mpmath
import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from levels import amount

try:
    from detsample import reference
except ImportError:
    import reference  # type: ignore[import-not-found,no-redef]

ORDERS = ("top_k_first", "min_p_first", "joint")
SIZES = {1: 8, 2: 12, 3: 12, 4: 12, 5: 12, 8: 12, 31: 8, 33: 8, 64: 6}  # V: rows of each kind


def oracle_rows(logits: np.ndarray, params: dict[str, np.ndarray], order: str = "top_k_first") -> list[oracle.Row]:
    names = [{name: values[b].item() for name, values in params.items()} for b in range(len(logits))]
    return [
        oracle.sample_row(row.tolist(), oracle.Parameters(**p, filter_order=order))
        for row, p in zip(logits, names, strict=True)
    ]


def as_bits(values: np.ndarray) -> list[int]:
    assert values.dtype == np.float32
    return [int(v) for v in np.ascontiguousarray(values).view(np.uint32)]


def assert_agrees(
    logits: np.ndarray, params: dict[str, np.ndarray], order: str = "top_k_first"
) -> list[oracle.Row]:
    """Run both and compare everything; returns the oracle's rows."""
    expected = oracle_rows(logits, params, order)
    got = reference.sample(logits, filter_order=order, return_log_z=True, return_mask="bool", **params)
    outputs = zip(
        got.token_ids, got.num_kept, got.status, as_bits(got.logprobs), as_bits(got.log_z), strict=True
    )
    for b, (row, output) in enumerate(zip(expected, outputs, strict=True)):
        token, num_kept, status, logprobs, log_z = (int(v) for v in output)
        seen = oracle.Row(token, num_kept, status, logprobs, log_z)
        want = oracle.Row(row.token, row.num_kept, row.status, row.logprobs, row.log_z)
        context = {name: values[b].item() for name, values in params.items()}
        assert seen == want, f"row {b}: {context}\n{logits[b].tolist()}"
        kept = np.nonzero(got.mask[b])[0].tolist()
        assert kept == sorted(row.kept), f"row {b}: {context}\n{logits[b].tolist()}"
    return expected


# ---- reference against oracle


@pytest.mark.full("more kinds of rows by the oracle", every=3)
@pytest.mark.parametrize("V", SIZES)
@pytest.mark.parametrize("kind", cases.CASES)
def test_reference_equals_oracle(kind: str, V: int) -> None:
    """Any departure of the reference from the text, on any kind of row with mixed parameters."""
    rng = np.random.default_rng([V, *kind.encode()])
    B = SIZES[V] // 2
    for order in ORDERS:
        assert_agrees(cases.CASES[kind](rng, B, V), cases.parameters(rng, B, V), order)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("V", [12, 64])
def test_orders_of_filters_where_all_filters_are_on(order: str, V: int) -> None:
    """The share of top-p taken of the wrong tokens: every row has its three filters on, and so that each may decide."""
    rng = np.random.default_rng(V)
    B = 60
    params = cases.plain_parameters(rng, B) | {
        "top_k": rng.integers(1, V, B),
        "top_p": rng.random(B, dtype=np.float32),
        "min_p": rng.choice(np.float32([0, 0.01, 0.1, 0.3]), B),
        "temperature": rng.choice(np.float32([0.5, 1, 2]), B),
    }
    rows = assert_agrees(cases.randn(rng, B, V), params, order)
    assert len({row.num_kept for row in rows}) > 3


@pytest.mark.parametrize("V", [5, 33])
def test_reference_equals_oracle_in_a_mixed_batch(V: int) -> None:
    """A row computed from another row's logits, parameters or status."""
    rng = np.random.default_rng(V)
    assert_agrees(cases.mixed(rng, 80, V), cases.parameters(rng, 80, V))


@pytest.mark.parametrize("V", [4, 8, 31, 64, 257])
def test_exact_boundaries(V: int) -> None:
    """Sums compared in floating point: the target is hit exactly, or missed by one unit of 2^-40."""
    rng = np.random.default_rng(V)
    rows = cases.exact_half_boundaries(rng, 24, V)
    expected = assert_agrees(rows.logits, rows.parameters)
    assert [row.num_kept for row in expected] == rows.num_kept.tolist()


def test_exact_boundaries_in_a_large_row() -> None:
    """Sums past 2^53 or past fp32's 24 bits lose the unit that decides."""
    rng = np.random.default_rng(5)
    rows = cases.exact_half_boundaries(rng, 12, 70_001)
    got = reference.sample(rows.logits, **rows.parameters)
    assert got.num_kept.tolist() == rows.num_kept.tolist()


@pytest.mark.parametrize("V", [2, 5, 64, 4099])
def test_scores_that_tie_or_miss_a_tie_by_one_unit(V: int) -> None:
    """Scores added in floating point, floored instead of truncated, or ties given to the higher id."""
    rng = np.random.default_rng(V)
    rows = cases.score_ties(reference.gumbel_noise, rng, 28 if V < 4099 else 56, V)
    got = reference.sample(rows.logits, **rows.parameters)
    assert got.token_ids.tolist() == rows.token_ids.tolist()
    if V < 4099:
        assert_agrees(rows.logits, rows.parameters)


_FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
_USUAL = st.floats(-40, 5, width=32)
_ROUND = st.sampled_from(
    [0.0, -0.0, 1.0, -1.0, 0.5, -27.75, -40.0, float("-inf"), 1e-40, 3.4028234663852886e38]
)
_LOGIT = st.one_of(_USUAL, _USUAL, _ROUND, _FINITE)
_ANY_LOGIT = st.one_of(_LOGIT, _LOGIT, _LOGIT, st.floats(width=32))
_SEED = st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(-3, 3))
_POSITION = st.one_of(st.integers(0, 2**63 - 1), st.integers(-2, 5), st.integers(2**32 - 2, 2**32 + 2))
_TEMPERATURE = st.one_of(
    st.sampled_from(cases.TEMPERATURES), st.floats(0.015625, 4, width=32), st.floats(width=32)
)
_TOP_P = st.one_of(st.floats(0, 1, width=32), st.floats(width=32))
_MIN_P = st.one_of(st.just(0.0), st.floats(0, 1, width=32), st.floats(width=32))


@st.composite
def batches(draw: st.DrawFn) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    V, B = draw(st.sampled_from([1, 2, 3, 4, 5, 8, 31, 33])), draw(st.integers(1, 3))
    logit = draw(st.sampled_from([_LOGIT, _LOGIT, _ANY_LOGIT]))

    def column(strategy: st.SearchStrategy, dtype: type) -> np.ndarray:
        return np.asarray(draw(st.lists(strategy, min_size=B, max_size=B)), dtype=dtype)

    logits = np.asarray(draw(st.lists(logit, min_size=B * V, max_size=B * V)), np.float32).reshape(B, V)
    params = {
        "topp_seed": column(_SEED, np.int64),
        "position": column(_POSITION, np.int64),
        "temperature": column(_TEMPERATURE, np.float32),
        "top_k": column(st.one_of(st.integers(-2, V + 2), st.integers(-(2**63), 2**63 - 1)), np.int64),
        "top_p": column(_TOP_P, np.float32),
        "min_p": column(_MIN_P, np.float32),
    }
    return logits, params


@given(batches(), st.sampled_from(ORDERS))
@settings(max_examples=amount(400, 30), deadline=None, derandomize=True)
def test_reference_equals_oracle_on_searched_rows(batch: tuple[np.ndarray, dict[str, np.ndarray]], order: str) -> None:
    """A departure of the reference from the text on rows that no case kind makes."""
    assert_agrees(*batch, order)


# ---- masks, dtypes, parameter types


def packed(kept: list[int], V: int) -> list[int]:
    """Section 10's words, as int32."""
    words = [sum(1 << (i & 31) for i in kept if i >> 5 == word) for word in range((V + 31) // 32)]
    return [word - 2**32 if word >= 2**31 else word for word in words]


@pytest.mark.parametrize("V", [1, 5, 31, 32, 33, 64, 65])
def test_masks_of_three_kinds(V: int) -> None:
    """Bits past V, bit order, offsets, ids out of order, or a mask that differs from the draw's."""
    rng = np.random.default_rng(V)
    logits, params = cases.mixed(rng, 30, V), cases.parameters(rng, 30, V)
    filters = {name: params[name] for name in ("temperature", "top_k", "top_p", "min_p")}
    negative = params["position"] < 0  # a mask has no position that could be wrong
    params["position"] = np.where(negative, 0, params["position"])
    kept = [sorted(row.kept) for row in oracle_rows(logits, params)]
    for kind in ("bool", "bits", "csr"):
        by_sample = reference.sample(logits, return_mask=kind, **params)
        by_mask = reference.mask(logits, kind=kind, return_log_z=True, **filters)
        assert by_mask.num_kept.tolist() == by_sample.num_kept.tolist()
        for mask in (by_sample.mask, by_mask.mask):
            assert mask_lists(mask, kind, V) == (kept if kind != "bits" else [packed(ids, V) for ids in kept])


def mask_lists(mask: object, kind: str, V: int) -> list[list[int]]:
    """Kept ids of each row; for "bits" the words."""
    if kind == "csr":
        offsets, ids = mask.row_offsets, mask.token_ids  # type: ignore[attr-defined]
        assert (offsets.dtype, ids.dtype, int(offsets[0])) == (np.int64, np.int32, 0)
        assert (ids[offsets[-1] :] == -1).all()
        return [ids[i:j].tolist() for i, j in itertools.pairwise(offsets.tolist())]
    assert isinstance(mask, np.ndarray)
    if kind == "bits":
        assert (mask.dtype, mask.shape[1]) == (np.int32, (V + 31) // 32)
        return mask.tolist()
    assert (mask.dtype, mask.shape[1]) == (np.bool_, V)
    return [np.nonzero(row)[0].tolist() for row in mask]


def test_half_precision_logits_are_converted_exactly() -> None:
    """bfloat16 or binary16 logits rounded, flushed or compared in their own type."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    rng = np.random.default_rng(9)
    for dtype in (np.float16, ml_dtypes.bfloat16):
        for kind in ("randn_x5", "denormals", "few_levels", "invalid_sprinkled", "signed_zeros", "huge"):
            with np.errstate(over="ignore", invalid="ignore"):
                half = cases.CASES[kind](rng, 6, 33).astype(dtype)
            params = cases.parameters(rng, 6, 33)
            rows = oracle_rows(half.astype(np.float32), params)
            got = reference.sample(half, **params)
            assert got.token_ids.tolist() == [row.token for row in rows]
            assert got.status.tolist() == [row.status for row in rows]
            assert as_bits(got.logprobs) == [row.logprobs for row in rows]
    tiny = np.asarray([[0x0001, 0x0002, 0x8001, 0x0003]], np.uint16)
    for dtype in (np.float16, ml_dtypes.bfloat16):
        assert reference.sample(tiny.view(dtype), 0, temperature=0.0).token_ids.tolist() == [3]


def test_wider_parameters_are_rounded_to_fp32_first() -> None:
    """float64 parameters used as they are: 0.1 differs between the types, 1e-60 and 1e300 are 0 and inf."""
    rng = np.random.default_rng(10)
    B, V = 40, 31
    params = cases.parameters(rng, B, V, invalid=False)
    special = np.array([0.1, 0.95, 0.7, 1 / 3, 1e-60, -1e-60, 1 - 2.0**-26, 1 + 2.0**-30, 0.3, 1e-7])
    params |= {name: special[rng.integers(0, len(special), B)] for name in ("temperature", "top_p", "min_p")}
    params["temperature"][:3] = 1e300, -1e300, 1e-310
    assert_agrees(cases.mixed(rng, B, V), params)


def test_scalars_equal_vectors() -> None:
    """A scalar parameter takes another path than a vector of it."""
    rng = np.random.default_rng(11)
    logits, names = (
        cases.randn_x5(rng, 4, 33),
        ("topp_seed", "position", "temperature", "top_k", "top_p", "min_p"),
    )
    for values in (
        (7, 2**40, 0.7, 5, 0.9, 0.1),
        (-1, 0, 0.1, -1, 0.3, 1e-7),
        (2**63 - 1, 3, 1e-60, 0, 1.0, -1.0),
    ):
        scalars = dict(zip(names, values, strict=True))
        vectors = {name: np.full(4, value) for name, value in scalars.items()}
        got = reference.sample(logits, return_mask="bool", **scalars)
        rows = assert_agrees(logits, vectors)
        assert got.token_ids.tolist() == [row.token for row in rows]
        assert as_bits(got.logprobs) == [row.logprobs for row in rows]
        assert got.num_kept.tolist() == [row.num_kept for row in rows]


# ---- the pieces that the reference names in its interface


def _signed64(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def test_gumbel_noise_equals_oracle() -> None:
    """Wrong counter layout, word order or polynomial."""
    source = random.Random(1)
    tokens = [0, 1, 2, 3, 4, 7, 2**18, 2**18 + 1, 2**20 + 3, 2**21 - 1]
    for _ in range(60):
        seed = _signed64(source.getrandbits(64))
        position = source.getrandbits(source.choice([3, 31, 32, 33, 63]))
        got = reference.gumbel_noise(seed, position, np.asarray(tokens))
        want = [oracle.gumbel(oracle.uniform(seed, position, token)) for token in tokens]
        assert [int(v * 2**32) for v in got] == want
        assert all(float(v * 2**32).is_integer() for v in got)


def seam_points() -> list[int]:
    """Uniforms at every magnitude from both ends, and where SPLIT changes its exponent."""
    source = random.Random(12)
    points = [source.getrandbits(source.randrange(1, 65)) for _ in range(3000)]
    seams = [2**k for k in range(64)] + [(3037000499 << k) >> 10 for k in range(43)]
    points += [max(seam + step, 0) for seam in seams for step in range(-3, 4)]
    last_bits = (2782365138, 2878157519, 2899064188)  # here the last bit of q11 shows, below that of h10
    points += [t << k for t in last_bits for k in (0, 9, 20)]
    points += [v << 33 for v in (1022064678, 1019388244, 1055995825)]
    return points + [2**64 - 1 - s for s in points]


def test_gumbel_equals_oracle_at_its_seams() -> None:
    """A branch taken one too early or too late, a shift that rounds the other way."""
    points = seam_points()
    got = import_module(f"{reference.__name__}.gumbel").gumbel(np.array(points, np.uint64))
    assert got.tolist() == [oracle.gumbel(s) for s in points]


def test_weights_equal_oracle() -> None:
    """A constant or a rounding of W: fp32 outputs of `sample` show only its high bits."""
    rng = np.random.default_rng(13)
    edges = [
        31.999998,
        32,
        33,
        1e9,
        cases.FLT_MAX,
        math.inf,
        0,
        1e-45,
        1e-38,
        2.0**-27,
        2.0**-26,
        27.725887,
        28.419033,
    ]
    edges += [n * math.log(2) for n in range(1, 47)]
    base = np.asarray(edges, np.float32)
    near = [cases.step_bits(base[np.isfinite(base)], np.int64(step)) for step in range(-3, 4)]
    anywhere, small = rng.random(6000) * 33, 2.0 ** rng.uniform(-30, 5, 2000)
    distances = np.concatenate([base, *near, anywhere, small]).astype(np.float32)
    distances = distances[distances >= 0]
    got = import_module(f"{reference.__name__}.weight").weight(distances)
    assert got.tolist() == [oracle.weight(a if a == math.inf else Fraction(a)) for a in distances.tolist()]


def test_fold_in_equals_oracle() -> None:
    """Wrong domain, halves swapped, sign lost."""
    source = random.Random(2)
    numbers = [0, 1, 2, -1, 2**31, 2**32, 2**63 - 1, -(2**63)]
    numbers += [_signed64(source.getrandbits(64)) for _ in range(20)]
    for seed in numbers[:12]:
        for i in numbers:
            assert int(np.int64(reference.fold_in(seed, i))) == oracle.fold_in(seed, i)


def test_philox_known_answers() -> None:
    """The oracle's generator is not Random123's: rounds, constants or word order."""
    full = 0xFFFFFFFF
    assert oracle.philox((0,) * 4, (0, 0)) == (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)
    assert oracle.philox((full,) * 4, (full, full)) == (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)
    counter, key = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0)
    assert oracle.philox(counter, key) == (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)


# ---- the oracle against IEEE hardware and real numbers


def test_rounding_equals_the_processor() -> None:
    """The oracle's own rounding is wrong: subnormals, ties, overflow."""
    rng = np.random.default_rng(3)
    a, b = cases.wide(rng, 1, 3000)[0], np.roll(cases.wide(rng, 1, 3000)[0], 1)
    b[::3] = (a[::3] * np.float32(rng.random())).astype(np.float32)
    operations = {"+": np.add, "-": np.subtract, "*": np.multiply, "/": np.divide}
    for name, operation in operations.items():
        with np.errstate(all="ignore"):
            want = operation(a, b)
        for x, y, z in zip(a.tolist(), b.tolist(), want.tolist(), strict=True):
            if name == "/" and y == 0:
                continue
            X, Y = Fraction(x), Fraction(y)
            exact = {"+": X + Y, "-": X - Y, "*": X * Y, "/": X / Y if Y else X}[name]
            assert float(oracle.rn32(exact)) == z


def test_oracle_noise_against_real_numbers() -> None:
    """Section 7's bound |G - 2^32 g| <= 8 fails, in the bulk or at either end."""
    source = random.Random(4)
    points = [0, 1, 2, 2**63 - 1, 2**63, 2**63 + 1, 2**64 - 1, 2**64 - 2]
    for _ in range(1500):
        s = source.getrandbits(source.randrange(1, 65))
        points += [s, 2**64 - 1 - s]
    worst = max(abs(oracle.gumbel(s) - oracle.real_gumbel(s) * 2**32) for s in points)
    assert worst <= 8


def test_oracle_weights_against_real_numbers() -> None:
    """Section 5's bound fails, or W rises somewhere."""
    rng = np.random.default_rng(5)
    anywhere, near_zero = rng.random(3000) * 33, 2.0 ** rng.uniform(-40, 5, 1000)
    distances = np.sort(np.concatenate([anywhere, near_zero]).astype(np.float32))
    values = [oracle.weight(Fraction(a)) for a in distances.tolist()]
    assert all(left >= right for left, right in itertools.pairwise(values))
    for a, w in zip(distances.tolist(), values, strict=True):
        real = oracle.ONE_W * oracle.real_weight(Fraction(a))
        assert abs(w - real) <= real * 2.0**-22 + 0.5
    assert oracle.weight(Fraction(0)) == oracle.ONE_W
    assert oracle.weight(math.inf) == 0


def test_weights_do_not_rise_between_neighbours() -> None:
    """W rises between adjacent fp32 distances, above all where the polynomial's argument wraps."""
    powers = [n * math.log(2) for n in range(1, 42)]
    for start in [*powers, 1e-5, 0.1, 5.0, 20.0]:
        base = oracle.bits_of(np.float32(start).item())
        values = [oracle.weight(oracle.fraction_of(base + step)) for step in range(-12, 13)]
        assert all(left >= right for left, right in itertools.pairwise(values))


def test_log_probabilities_against_real_numbers() -> None:
    """Section 11: logprobs or log_z off by more than 2^-21 and one rounding."""
    rng = np.random.default_rng(6)
    kinds = ("randn", "randn_x5", "peaked", "few_levels", "flat", "neg_inf_some")
    for kind in kinds:
        params = cases.parameters(rng, 8, 33, invalid=False) | {"temperature": np.full(8, 0.7, np.float32)}
        for row in oracle_rows(cases.CASES[kind](rng, 8, 33), params):
            for bits, real in zip((row.logprobs, row.log_z), oracle.real_log_probabilities(row), strict=True):
                assert abs(oracle.float_of(bits) - real) <= 2.0**-21 + abs(real) * 2.0**-24


def test_log_probability_of_a_row_of_weightless_tokens() -> None:
    """Each token rounds its weight by up to half a unit: the error of a logarithm grows by V * 2^-41."""
    V = 1 << 21
    row = np.full((1, V), -28.42, np.float32)  # weight 0.497 of a unit, rounded to 0
    row[0, 77] = 0
    got = reference.sample(row, 0, top_k=0)
    assert got.token_ids.tolist() == [77]
    real = -mpmath.log(1 + (V - 1) * oracle.real_weight(-Fraction(float(row[0, 0]))))
    assert abs(float(got.logprobs[0]) - real) <= 2.0**-21 + V * 2.0**-41


IDEAL_KINDS = ("randn", "randn_x5", "randn_x001", "peaked", "few_levels", "tied_runs", "bfloat16_rounded")


@pytest.mark.parametrize("kind", IDEAL_KINDS)
def test_kept_set_is_the_ideal_one_away_from_ties(kind: str) -> None:
    """The nucleus is wrong though no boundary lies within 2^-20 of a tie (2^-18, relative, for min-p)."""
    rng = np.random.default_rng([7, *kind.encode()])
    B, V = 24, 48
    logits, params = cases.CASES[kind](rng, B, V), cases.parameters(rng, B, V, invalid=False)
    params["temperature"] = np.asarray([1, 0.7, 2, 0.5], np.float32)[rng.integers(0, 4, B)]
    params["min_p"] = np.where(params["min_p"] < 1e-6, np.float32(0), params["min_p"])
    got, compared = reference.sample(logits, **params), 0
    for b in range(B):
        p = oracle.Parameters(**{name: values[b].item() for name, values in params.items()})
        ideal = oracle.ideal_nucleus(logits[b].tolist(), p)
        if ideal.top_p_margin > Fraction(1, 2**20) and ideal.min_p_margin > Fraction(1, 2**18):
            assert int(got.num_kept[b]) == ideal.num_kept, p
            compared += 1
    assert compared >= B // 3
