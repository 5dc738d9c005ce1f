"""The margin: that it is sound, that it is tight where docs/margin.md says so, and that kernel and reference agree."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import cases
import kernel_path
import numpy as np
import pytest
import searched
from cases import rng_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernel_path import GPU, only_rows
from levels import amount

import detsample
from detsample import reference

F32 = np.float32
FLT_MAX = np.finfo(F32).max
SIZES = (2, 3, 31, 100)
MOTIONS = 36


def bits(values: Any) -> np.ndarray:
    return np.asarray(values, F32).view(np.int32)


def next_up(t: np.float32) -> np.float32:
    return (t.view(np.uint32) + np.uint32(1)).view(F32)


def box(x: np.ndarray, t: np.float32) -> tuple[np.ndarray, np.ndarray]:
    """The least and the largest fp32 values to which a motion by at most `t` may take a row."""
    finite = x > -np.inf
    with np.errstate(all="ignore"):
        return np.where(finite, np.maximum(x - t, -FLT_MAX), x), np.where(finite, np.minimum(x + t, FLT_MAX), x)


def some_motions(rng: np.random.Generator, x: np.ndarray, t: np.float32, token: int) -> np.ndarray:
    """Rows within `t` of `x`: at random, at random corners, and where filters and scores are worst off."""
    low, high = box(x, t)
    order = np.argsort(-x, kind="stable")
    finite = np.flatnonzero(x > -np.inf)

    def up_to(cut: int) -> np.ndarray:
        """The first tokens down, the others up."""
        moved = high.copy()
        moved[order[:cut]] = low[order[:cut]]
        return moved

    def pinched(value: np.float32) -> np.ndarray:
        """Every token that can get there, at one value."""
        corner = np.where(rng.random(x.size) < rng.random(), low, high)
        return np.where((low <= value) & (value <= high), value, corner)

    def rival_up(j: int) -> np.ndarray:
        """One token up, and the others where they are kindest to it."""
        moved = np.where(low > high[j], low, np.minimum(high, high[j])) if rng.random() < 0.5 else low.copy()
        moved[j], moved[token] = high[j], low[token] if j != token else high[j]
        return moved

    def winner_down() -> np.ndarray:
        """The winner down, and the others where they are hardest on it."""
        moved = np.where((high >= low[token]) | (rng.random() < 0.5), high, low)
        moved[token] = low[token]
        return moved

    def anywhere() -> np.ndarray:
        with np.errstate(all="ignore"):
            moved = x.astype(np.float64) + rng.uniform(-1, 1, x.size) * min(float(t), float(FLT_MAX))
            return moved.astype(F32)

    made = []
    for turn in range(MOTIONS):
        kind = turn % 6
        if kind == 0:
            made.append(np.where(rng.random(x.size) < 0.5, low, high))
        elif kind == 1:
            made.append(anywhere())
        elif kind == 2:
            made.append(pinched(rng.choice(np.concatenate([low[finite], high[finite]]))))
        elif kind == 3:
            made.append(up_to(int(rng.integers(0, x.size + 1))))
        elif kind == 4:
            made.append(rival_up(int(rng.choice(finite))))
        else:
            made.append(winner_down())
    return np.where(x > -np.inf, np.clip(np.stack(made), low, high), x).astype(F32)


def tokens(rows: np.ndarray, params: dict[str, Any], order: str = "top_k_first") -> np.ndarray:
    """What the reference draws from rows that all have the one row's parameters."""
    spread = {name: np.full(len(rows), value) for name, value in params.items()}
    return reference.sample(rows, **spread, filter_order=order, return_logprobs=False).token_ids


def one(params: dict[str, Any], row: int) -> dict[str, Any]:
    return {name: np.asarray(value)[row] for name, value in params.items()}


def assert_sound(
    rng: np.random.Generator, x: np.ndarray, params: dict[str, Any], order: str = "top_k_first"
) -> int:
    """No motion within the margin changes the token; returns how many were tried."""
    found = reference.margin(x, **params, filter_order=order)
    tried = 0
    for row in np.flatnonzero(found.status == 0):
        moved = some_motions(rng, x[row] + F32(0), found.margin[row], int(found.token_ids[row]))
        drawn = tokens(moved, one(params, row), order)
        wrong = np.flatnonzero(drawn != found.token_ids[row])
        assert not wrong.size, (moved[wrong[0]].tolist(), x[row].tolist(), found.margin[row], one(params, row))
        tried += len(moved)
    return tried


# ---- soundness


@pytest.mark.full("more kinds of rows", every=5)
@pytest.mark.parametrize("kind", cases.CASES)
def test_no_motion_within_the_margin_changes_the_token(kind: str) -> None:
    """Catches a margin that is too large: a rival overlooked, a boundary that moves further than thought, rounding
    that was not reckoned with, a tie taken for none.
    """
    for vocab in SIZES:
        rng = rng_of("sound", kind, vocab)
        assert_sound(rng, cases.CASES[kind](rng, 3, vocab), cases.parameters(rng, 3, vocab))


@pytest.mark.parametrize("order", ["min_p_first", "joint"])
def test_other_orders_are_sound(order: str) -> None:
    """Catches a margin that takes top-p's share of the wrong tokens, or forgets that min-p changes of whom it is."""
    rng = rng_of("orders", order)
    for vocab in (4, 12, 40):
        rows = 12
        x = cases.CASES["randn"](rng, rows, vocab) * F32(2)
        params = cases.plain_parameters(rng, rows) | {
            "top_k": rng.integers(1, vocab, rows),
            "top_p": F32(0.2) + F32(0.79) * rng.random(rows, dtype=F32),
            "min_p": rng.choice(F32([0, 0.01, 0.1, 0.3]), rows),
        }
        assert_sound(rng, x, params, order)


def test_boundaries_hit_exactly_are_sound() -> None:
    """Catches a top-p sum that one unit decides and a motion within the margin tips."""
    for vocab in (8, 100):
        case = cases.exact_half_boundaries(rng_of("half", vocab), 12, vocab)
        assert assert_sound(rng_of("half motions"), case.logits, case.parameters)


VALUES = st.one_of(
    st.floats(-1e4, 1e4, width=32), st.integers(-3, 3).map(float), st.sampled_from([-np.inf, 1e-45, -FLT_MAX, 2.0**30])
)
PARAMETERS = searched.parameters(st.floats(2**-10, 100, width=32), most_k=20)
SEARCH = settings(
    max_examples=amount(60, 15), deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
)


@SEARCH
@given(st.lists(VALUES, min_size=1, max_size=20), PARAMETERS)
def test_any_row_is_sound(row: list[float], params: dict[str, Any]) -> None:
    """Catches combinations of values and parameters that no case kind makes."""
    assert_sound(rng_of("any", len(row)), F32([row]), {name: np.array([value]) for name, value in params.items()})


# ---- tightness


def worst(x: np.ndarray, t: np.float32, token: int, rival: int) -> np.ndarray:
    """The corners at which a motion by `t` does the most."""
    low, high = box(x, t)
    dropped, pressed, beaten = high.copy(), np.where(high >= low[token], high, low), low.copy()
    dropped[token] = pressed[token] = low[token]
    beaten[rival] = high[rival]
    helped = np.where(low > high[rival], low, np.minimum(high, high[rival]))
    helped[token], helped[rival] = low[token], high[rival]
    return np.stack([dropped, pressed, beaten, helped])


def threat(x: np.ndarray, t: np.float32, token: int, params: dict[str, Any]) -> Any:
    # By name: the package's attribute `margin` is the function.
    part = importlib.import_module(f"{reference.__name__}.margin")
    p = part.parameters(1, **{name: np.array([value]) for name, value in params.items()})
    return part.motion(x, token, p).threat(t)


def rounding(x: np.ndarray, t: np.float32, token: int, rival: int, temperature: np.float32) -> np.float32:
    """What the rounding of gaps costs where scores decide: 2^-21 of both gaps, and three units in the last place."""
    low, high = box(x, t)
    finite = x > -np.inf
    below = (high[finite].max() - low[token]) + (high[finite].max() - high[rival])
    return F32(2.0**-21 * float(below) + 2.0**-29 * float(temperature) + 3 * float(np.spacing(np.abs(x[finite]).max())))


@pytest.mark.full("more kinds of rows", every=5)
@pytest.mark.parametrize("kind", cases.CASES)
def test_just_beyond_the_margin_the_token_changes(kind: str) -> None:
    """Catches a margin that is smaller than it need be, wherever top-p has no part in it: order, k and min-p are exact
    to the last bit, scores to the rounding of gaps.
    """
    for vocab in SIZES:
        rng = rng_of("tight", kind, vocab)
        x, params = cases.CASES[kind](rng, 4, vocab) + F32(0), cases.parameters(rng, 4, vocab)
        params["top_p"] = np.where(rng.random(4) < 0.2, 0, 1).astype(F32)
        found = reference.margin(x, **params)
        for row in np.flatnonzero((found.status == 0) & (found.margin < np.inf)):
            own, token, beyond = one(params, row), int(found.token_ids[row]), next_up(found.margin[row])
            why = threat(x[row], beyond, token, own)
            rival = why.rival
            with np.errstate(over="ignore"):
                spread = x[row].max() + beyond - (x[row][x[row] > -np.inf].min() - beyond)
            if why.by == "score":
                if spread > FLT_MAX / 2:
                    continue  # beyond that gaps overflow, and the margin ends
                beyond += rounding(x[row], beyond, token, rival, own["temperature"])
            assert (tokens(worst(x[row], beyond, token, rival), own) != token).any(), (kind, vocab, own)


def test_nine_in_ten_top_p_margins_are_tight_to_a_few_units_of_weight() -> None:
    """Catches a top-p bound that is sound but lame. The rest are rows whose winner may fall behind a rival of which it
    is heavier: its weight is counted at its highest there, and its score at its lowest.
    """
    late, rows = [], 24
    for top_p, top_k in ((0.3, 0), (0.6, 0), (0.9, 0), (0.95, 0), (0.3, 12), (0.6, 12), (0.9, 12), (0.95, 12)):
        rng = rng_of("top-p", top_p, top_k)
        x = rng.standard_normal((rows, 60), dtype=F32) * F32(2)
        params = {"topp_seed": np.arange(rows), "top_p": np.full(rows, F32(top_p)), "top_k": np.full(rows, top_k)}
        found = reference.margin(x, **params)
        for row in range(rows):
            own = {"position": 0, "temperature": F32(1), "min_p": F32(0), **one(params, row)}
            token, beyond = int(found.token_ids[row]), found.margin[row] + F32(1e-4)
            rival = threat(x[row], beyond, token, own).rival
            if not (tokens(worst(x[row], beyond, token, rival), own) != token).any():
                late.append((top_p, top_k, row, found.margin[row]))
    assert len(late) <= 19, late


def test_known_margins() -> None:
    """Catches a factor of two, a temperature on the wrong side, a wrong rival: margins found by hand."""
    x = F32([[0, 4, 3, -1]])
    # To the rounding of 4 - t and 3 + t: at 3.5, where both may get, the lower id wins.
    assert reference.margin(x, 1, temperature=0).margin.tolist() == [0.5 + 2**-23]
    assert reference.margin(x[:, ::-1], 1, temperature=0).margin.tolist() == [0.5 - 5 * 2**-25]
    # top_p = 0 keeps the first alone, as greedy does, and at any temperature the order of logits decides.
    assert reference.margin(x, 1, temperature=0.25, top_p=0).margin.tolist() == [0.5 + 2**-23]
    assert reference.margin(F32([[0, -np.inf]]), 1).margin.tolist() == [np.inf]
    assert reference.margin(F32([[5]]), 1, top_k=1, top_p=0.5, min_p=0.5).margin.tolist() == [np.inf]
    # Among the kept, half the gap of scores; the temperature scales it.
    for temperature in (0.5, 1.0, 2.0):
        z = x[0] / F32(temperature)
        score = np.sort(z + reference.gumbel_noise(9, 3, np.arange(4)))
        expected = (score[-1] - score[-2]) / 2 * temperature
        got = reference.margin(x, 9, position=3, temperature=temperature).margin[0]
        assert abs(got - expected) < 4e-6
    # With k = 2 the second may be replaced, though its score would win: half the gap to the third.
    x = F32([[10, 0, -0.5, -30]])
    seed = next(s for s in range(9999) if reference.sample(x, s, temperature=8, top_k=2).token_ids[0] == 1)
    assert abs(reference.margin(x, seed, temperature=8, top_k=2).margin[0] - 0.25) < 1e-6
    # Min-p: the winner leaves when it is less than min_p of the first, which moves as well.
    seed = next(s for s in range(9999) if reference.sample(x, s, temperature=8, min_p=0.25).token_ids[0] == 1)
    gap = 10 - 8 * np.log(4)
    assert reference.margin(x, seed, temperature=8, min_p=0.25).margin[0] <= abs(gap) / 2 + 1e-5


@pytest.mark.parametrize("kept", [1, 2])
def test_a_boundary_within_the_doubt_is_not_decided(kept: int) -> None:
    """Catches rounding of weights that is not reckoned with: at 2^-23 of a boundary, on either side of it, nothing is
    certain, and at 2^-14 something is.
    """
    x = F32([[0, -1]])
    share = 1 / (1 + np.exp(-1.0))
    for away, certain in ((2**-23, False), (2**-14, True)):
        top_p = F32(share * (1 - away if kept == 1 else 1 + away))
        seed = next(s for s in range(99) if reference.sample(x, s).token_ids[0] == 1)  # token 1 wins where it may
        out = reference.sample(x, seed, top_p=top_p)
        assert (out.num_kept[0], out.token_ids[0]) == (kept, kept - 1)
        found = reference.margin(x, seed, top_p=top_p).margin[0]
        assert 2**-16 < found < 2**-13 if certain else found == 0


# ---- what a margin does not depend on


def test_surroundings_do_not_matter() -> None:
    """Catches a margin that depends on the batch, on columns of -inf, on the sign of zero or on the type."""
    rng = rng_of("surroundings")
    x, params = cases.CASES["bfloat16_rounded"](rng, 6, 40), cases.parameters(rng, 6, 40, invalid=False)
    params["top_k"] = np.minimum(params["top_k"], 39)
    whole = bits(reference.margin(x, **params).margin)
    padded = np.concatenate([x, np.full((6, 9), -np.inf, F32)], axis=1)
    assert np.array_equal(bits(reference.margin(padded, **params).margin), whole)
    for row in range(6):
        alone = reference.margin(x[row : row + 1], **only_rows(params, slice(row, row + 1)))
        assert np.array_equal(bits(alone.margin), whole[row : row + 1])
    signed = np.where(x == 0, F32(-0.0), x)
    assert np.array_equal(bits(reference.margin(signed, **params).margin), whole)
    ml_dtypes = pytest.importorskip("ml_dtypes")
    assert np.array_equal(bits(reference.margin(x.astype(ml_dtypes.bfloat16), **params).margin), whole)


def test_invalid_rows() -> None:
    """Catches an invalid row that raises, has a margin, or harms another; and `check` that does not tell."""
    x = np.zeros((3, 5), F32)
    x[1, 2] = np.nan
    top_p = F32([1, 1, np.nan])
    found = detsample.margin(x, np.arange(3), top_p=top_p)
    assert found.status.tolist() == [0, 1, 8]
    assert np.isnan(found.margin).tolist() == [False, True, True]
    assert bits(found.margin)[1:].tolist() == [0x7FC00000] * 2
    for call in (detsample.margin, reference.margin):
        with pytest.raises(ValueError, match="2 of 3 rows"):
            call(x, np.arange(3), top_p=top_p, check=True)
    with pytest.raises(ValueError, match="temperature"):
        detsample.margin(x, 1, temperature=-1.0)
    assert detsample.margin(x[:0], 1).margin.shape == (0,)


@pytest.mark.parametrize("framework", ["torch", "paddle"])
def test_tensors_give_the_margins_of_arrays(framework: str) -> None:
    """Catches an adapter that loses a parameter, or bits, on the way to the reference."""
    if importlib.util.find_spec(framework) is None:
        pytest.skip(f"{framework} is not installed")
    tensors = importlib.import_module(framework)
    rng = rng_of("tensors")
    x, seeds = rng.standard_normal((4, 30), dtype=F32), np.arange(4)
    make = tensors.from_numpy if framework == "torch" else tensors.to_tensor
    place = {} if framework == "torch" else {"place": tensors.CPUPlace()}
    temperature = F32([0, 0.5, 1, 2])
    found = detsample.margin(
        make(x, **place), make(seeds, **place), temperature=make(temperature, **place), top_k=9, top_p=0.9
    )
    expected = reference.margin(x, seeds, temperature=temperature, top_k=9, top_p=0.9)
    assert type(found.margin).__module__.split(".")[0] == framework
    assert np.array_equal(bits(found.margin.numpy()), bits(expected.margin))
    assert found.token_ids.numpy().tolist() == expected.token_ids.tolist()


# ---- the kernel


def compare(x: np.ndarray, params: dict[str, Any], **keywords: Any) -> None:
    pytest.importorskip("triton", reason="Triton is not installed: no kernel runs")
    found, expected = kernel_path.margin(x, **params, **keywords), reference.margin(x, **params).margin
    assert np.array_equal(bits(found), bits(expected)), (found, expected, params)


@pytest.mark.full("more kinds of rows in the interpreter", every=5)
@pytest.mark.parametrize("kind", cases.CASES)
def test_the_kernel_gives_the_bits_of_the_reference(kind: str) -> None:
    """Catches any difference in order, ties, corners, sums, doubt or the search, on rows of every kind."""
    sizes = {1: 8, 2: 16, 3: 32, 31: 64, 1000: 2} if GPU else {SIZES[len(kind) % 4]: 1}
    for vocab, rows in sizes.items():
        rng = rng_of("kernel", kind, vocab)
        compare(cases.CASES[kind](rng, rows, vocab), cases.parameters(rng, rows, vocab))


def test_every_filter_in_the_kernel() -> None:
    """Catches a filter that the kernel's margin does not know, or a row of several looks, ties across them included."""
    rng = rng_of("filters")
    x = np.round(rng.standard_normal((4, 30), dtype=F32) * F32(4)) / F32(2)
    params = {
        "topp_seed": np.arange(4),
        "top_k": np.array([0, 7, 20, 3]),
        "top_p": F32([0.8, 0.6, 0.9, 0]),
        "min_p": F32([0.05, 0, 0.01, 0]),
        "temperature": F32([1, 0.7, 1.5, 1]),
    }
    compare(x, params, tuning=(16, 8))


def test_rivals_from_beyond_top_k_in_the_kernel() -> None:
    """Catches a k-th token that is one off, and a rival that joins the survivors of top-k without taking the place of
    their last: top-p's share decides these margins.
    """
    seeds, top_k, top_p = [14, 86, 130, 141], [2, 2, 3, 2], F32([0.8, 0.6, 0.6, 0.7])
    rows = []
    for seed in seeds:
        rows.append(np.random.default_rng(seed).standard_normal(6, dtype=F32) * F32(1.5))
    params = {"topp_seed": np.array(seeds), "top_k": np.array(top_k), "top_p": top_p}
    x = np.stack(rows)
    assert reference.margin(x, **params).margin.round(3).tolist() == F32([0.293, 0.250, 0.302, 0.803]).tolist()
    compare(x, params)


def test_gaps_are_rounded_where_the_largest_logit_is_elsewhere() -> None:
    """Catches a rule without doubt about scores: two tokens far below a third that is cut off from them by nothing but
    noise have gaps that round differently for every largest logit.
    """
    rng = rng_of("rounded gaps")
    x = np.full((1, 3), 8, F32)
    x[0, :2] = F32([1.00001, 1.00002])
    own = {"position": 0, "temperature": F32(0.9), "top_k": 0, "top_p": F32(1), "min_p": F32(0)}
    noise = reference.gumbel_noise(np.arange(200000), 0, np.arange(3))
    ahead = np.flatnonzero(noise[:, :2].max(axis=1) > noise[:, 2] + 8)
    assert ahead.size > 20
    for seed in ahead[:20].tolist():
        assert_sound(rng, x, {name: np.array([value]) for name, value in (own | {"topp_seed": seed}).items()})


@pytest.mark.parametrize("tuning", [(16, 8), (64, 4)])
def test_neither_span_nor_bits_show(tuning: tuple[int, int]) -> None:
    """Catches a margin that depends on how many tokens or how many motions are looked at together."""
    rng = rng_of("tuning")
    x = rng.standard_normal((1, 20), dtype=F32)
    compare(x, {"topp_seed": 3, "top_p": 0.7, "top_k": 9}, tuning=tuning)


def test_only_overflow_ends_the_margin_at_a_huge_temperature() -> None:
    """Catches a margin that ends too early or too late: over 3e38 any two logits are closer than these noises, until
    their difference is no fp32 number, and the lower one as good as excluded.
    """
    noise = reference.gumbel_noise(np.arange(400), 0, np.arange(2))
    seed = int(np.flatnonzero(np.abs(noise[:, 0] - noise[:, 1]) > 2.5)[0])
    x = F32([[0, 1]])
    found = reference.margin(x, seed, temperature=3e38)
    assert abs(found.margin[0] / FLT_MAX - 0.5) < 1e-6
    seed = int(np.flatnonzero(noise[:, 0] - noise[:, 1] > 2.5)[0])
    assert reference.sample(F32([[-FLT_MAX, FLT_MAX / 2]]), seed, temperature=3e38).token_ids[0] == 1
    compare(x, {"topp_seed": seed, "temperature": 3e38})


def test_scalars_vectors_and_half_precision_in_the_kernel() -> None:
    """Catches a parameter that is lost or cut on its way: 64-bit seeds and positions, strided vectors, fp16."""
    rng = rng_of("forms")
    x = rng.standard_normal((2, 20), dtype=F32).astype(np.float16)
    compare(x, {"topp_seed": -(2**40) - 3, "position": 2**33 + 1, "temperature": 0.7, "top_k": 2**40})
    spread = np.zeros((2, 3), np.int64)
    spread[:, 1] = [5, -(2**50)]
    compare(x, {"topp_seed": spread[:, 1], "min_p": np.array([0.1, 0.2]), "temperature": F32([0, 1])})


@pytest.mark.gpu
def test_large_rows_on_a_gpu() -> None:
    """Catches what only a large vocabulary shows: many spans, a k-th token far inside, large sums."""
    rng = rng_of("large")
    for vocab in (32000, 151936):
        x = rng.standard_normal((8, vocab), dtype=F32) * F32(2)
        params = {
            "topp_seed": np.arange(8),
            "top_k": np.array([0, 50, 0, 1000, 0, 0, 5000, 0]),
            "top_p": F32([1, 1, 0.9, 0.9, 0.5, 1, 0.99, 0]),
            "min_p": F32([0, 0, 0, 0, 0.01, 0.1, 0, 0]),
        }
        compare(x, params)
