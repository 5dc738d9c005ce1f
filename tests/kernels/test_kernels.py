"""The kernels against the reference: every output of every row, as bits.

Without a GPU the kernels run in Triton's interpreter, some 0.1 s a row, so rows are few and chosen; on a GPU the same
tests take more of them, and `gpu_report.py` millions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cases
import kernel_path
import numpy as np
import pytest
import searched
from cases import rng_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernel_path import GPU, assert_same, left_to_finish
from levels import amount

from detsample import reference

pytest.importorskip("triton", reason="Triton is not installed: no kernel runs")

F32 = np.float32
SIZES = {3: 256, 31: 1024, 1000: 256} if GPU else {3: 1, 31: 2, 1000: 1}
KINDS = ("bool", "bits", "csr", None)


def compare(logits: np.ndarray, params: dict[str, Any], kind: str | None = "bool", **keywords: Any) -> Any:
    """Run both with every output wanted; returns the kernels' output."""
    wanted = {"return_logprobs": True, "return_log_z": True, "return_mask": kind}
    found = kernel_path.sample(logits, **params, **wanted, **keywords)
    assert_same(found, reference.sample(logits, **params, **wanted), params)
    return found


# ---- all kinds of rows, all kinds of parameters


@pytest.mark.full("more kinds of rows in the interpreter", every=8)
@pytest.mark.parametrize("kind", cases.CASES)
def test_every_case_kind(kind: str) -> None:
    """Catches any difference in order, ties, validity, weights, filters, noise, draw or logarithms, on rows
    chosen for each.

    Parameters differ from row to row and about one row in twenty has an invalid one.
    """
    for vocab, rows in SIZES.items():
        rng = rng_of(kind, vocab)
        logits = cases.CASES[kind](rng, rows, vocab)
        compare(logits, cases.parameters(rng, rows, vocab), KINDS[int(rng.integers(3))])


@pytest.mark.parametrize("vocab", [1, 2])
def test_the_smallest_vocabularies(vocab: int) -> None:
    """Catches an index, a search or a sample of the row that needs more tokens than there are."""
    rng = rng_of("smallest", vocab)
    rows = 1024 if GPU else amount(12, 5)
    compare(cases.mixed(rng, rows, vocab), cases.parameters(rng, rows, vocab))


def test_boundaries_hit_exactly() -> None:
    """Catches a top-p sum compared with < for <=, or with a target rounded down: one unit decides each of these
    rows.
    """
    for vocab, rows in ((8, 6), (100, 6))[: amount(2, 1)]:
        case = cases.exact_half_boundaries(rng_of("half", vocab), rows * (20 if GPU else 1), vocab)
        found = compare(case.logits, case.parameters)
        assert found.num_kept.tolist() == case.num_kept.tolist()


def test_scores_that_tie() -> None:
    """Catches a lost tie rule (lowest id), a score rounded on its way, a `z` not truncated or not saturated."""
    for vocab in (40, 300)[: amount(2, 1)]:
        case = cases.score_ties(reference.gumbel_noise, rng_of("ties", vocab), 70 if GPU else 7, vocab)
        found = compare(case.logits, case.parameters, None)
        assert found.token_ids.tolist() == case.token_ids.tolist()


# ---- every way through the kernels, at a size with several tiles


def randn(V: int, scale: float = 1.0) -> np.ndarray:
    """A normal row."""
    return rng_of("row", V).standard_normal((1, V), dtype=F32) * F32(scale)


def levels(V: int, count: int) -> np.ndarray:
    """A row of few distinct values, in no order."""
    return rng_of("levels", V).integers(0, count, (1, V)).astype(F32)


def with_fills(V: int, finite: int) -> np.ndarray:
    """A row with so many finite values; the rest -inf."""
    row = randn(V, 0.01)
    row[0, rng_of("fills").permutation(V)[finite:]] = -np.inf
    return row


def spoilt(V: int, value: float, at: int) -> np.ndarray:
    """A row with one special value."""
    row = randn(V)
    row[0, at] = value
    return row


def flat(V: int, value: float) -> np.ndarray:
    """A row of one value."""
    return np.full((1, V), value, F32)


def raised(V: int, count: int) -> np.ndarray:
    """A row whose first tokens have one value, far above the others."""
    return np.where(np.arange(V) < count, F32(5), randn(V) - F32(20)).astype(F32)


NARROW, WIDE = False, True  # which kernel draws
WAYS: dict[str, tuple[np.ndarray, dict[str, Any], bool]] = {
    "candidates by count": (randn(5000), {"top_k": 50, "top_p": 0.95, "min_p": 0.01}, NARROW),
    "candidates by count, most groups": (randn(5000), {"top_k": 60}, NARROW),
    "candidates by weight": (randn(5000, 5), {"top_p": 0.9}, NARROW),
    "candidates by weight, with min-p": (randn(5000, 5), {"top_p": 0.99, "min_p": 0.05}, NARROW),
    "first token only": (randn(5000), {"top_p": 0.0}, NARROW),
    "greedy": (randn(5000), {"temperature": 0.0, "top_p": 0.3}, NARROW),
    "greedy among ties": (levels(5000, 50), {"temperature": 0.0}, NARROW),
    "greedy among too many ties": (levels(5000, 3), {"temperature": 0.0}, WIDE),
    "sums alone, no filter": (randn(5000), {}, NARROW),
    "sums alone, no filter, -inf": (with_fills(5000, 37), {"temperature": 0.7}, NARROW),
    "candidates by min-p": (randn(5000, 5), {"min_p": 0.1}, NARROW),
    "candidates by min-p of 1": (spoilt(5000, 9.0, 77), {"min_p": 1.0}, NARROW),
    "candidates by min-p, as many as fit": (raised(5000, 256), {"min_p": 0.1}, NARROW),
    "candidates by min-p, one more": (raised(5000, 257), {"min_p": 0.1}, WIDE),
    "sums alone, min-p": (randn(5000), {"min_p": 0.1}, WIDE),
    "sums alone, min-p of 1": (levels(5000, 4), {"min_p": 1.0}, WIDE),
    "candidates by min-p below top-p": (randn(5000), {"min_p": 0.5, "top_p": 0.999}, NARROW),
    "NaN in the last tile": (spoilt(5000, np.nan, 4999), {"top_k": 5}, NARROW),
    "+inf in the middle": (spoilt(5000, np.inf, 2500), {"top_p": 0.5}, NARROW),
    "nothing finite": (flat(5000, -np.inf), {}, NARROW),
    "by count": (randn(5000), {"top_k": 700}, WIDE),
    "by count, more than groups": (randn(5000), {"top_k": 200, "top_p": 0.9}, WIDE),
    "by count, nearly all": (randn(5000), {"top_k": 4999}, WIDE),
    "by count, then by weight and min-p": (randn(5000), {"top_k": 3000, "top_p": 0.8, "min_p": 0.05}, WIDE),
    "by count, half the row at -1e9": (np.where(np.arange(5000) % 2, randn(5000), F32(-1e9)), {"top_k": 2800}, WIDE),
    "by count, k above the finite logits": (with_fills(5000, 900), {"top_k": 1500, "top_p": 0.9}, WIDE),
    "by count, candidates all tied": (flat(5000, -2.5), {"top_k": 5}, WIDE),
    "by count, too many groups tied": (flat(9000, 3.0), {"top_k": 5}, WIDE),
    "by count, within a tie": (levels(5000, 5), {"top_k": 2345}, WIDE),
    "by weight, flat": (randn(5000, 0.01), {"top_p": 0.9}, WIDE),
    "by weight, within a tie": (levels(5000, 5), {"top_p": 0.7, "temperature": 3.0}, WIDE),
    "by weight, all equal": (flat(5000, 1e30), {"top_p": 0.5}, WIDE),
    "by weight, -inf among them": (with_fills(5000, 3000), {"top_p": 0.6, "min_p": 0.9}, WIDE),
    "candidates by weight, weightless tail": (
        spoilt(5000, 60.0, 17) * F32(0.9),
        {"top_p": float(F32(1) - F32(2**-24))},
        NARROW,
    ),
    "huge values": (randn(5000) * F32(1e37), {"top_k": 600, "temperature": 2.0}, WIDE),
    "subnormal values": (randn(5000) * F32(1e-40), {"top_k": 600}, WIDE),
}


@pytest.mark.full("more ways through the kernels in the interpreter", every=6)
@pytest.mark.parametrize("way", WAYS)
def test_every_way_through_the_kernels(way: str) -> None:
    """Catches a wrong boundary, sum or draw in one of the paths, and a row that takes another path than it is
    meant to test.
    """
    logits, params, wide = WAYS[way]
    params = {"topp_seed": 2**40 + 5, "position": 2**33 + 1, **params}
    if GPU:
        compare(logits, params)
        return
    with left_to_finish() as left:
        compare(logits, params)
    assert [rows.tolist() for rows in left] == [[wide]]


@pytest.mark.full("more orders of filters in the interpreter", every=4)
@pytest.mark.parametrize("order", ["top_k_first", "min_p_first", "joint"])
@pytest.mark.parametrize(
    "way", ["candidates by count", "by count, then by weight and min-p", "by weight, within a tie"]
)
def test_orders_of_filters(way: str, order: str) -> None:
    """Catches a share of top-p taken of other tokens than the order says, wherever the row is finished."""
    logits, params, _wide = WAYS[way]
    for min_p in (0.05, 0.6):
        given = {"topp_seed": 5, "position": 9, "top_p": 0.8, **params, "min_p": min_p}
        compare(logits, given | {"filter_order": order}, "bits")


@pytest.mark.full("more temperatures in the interpreter", every=5)
@pytest.mark.parametrize("temperature", [1e-45, 1e-40, 1e-8, 1e-5])
@pytest.mark.parametrize("params", [{}, {"top_p": 0.95}, {"top_k": 50}, {"min_p": 0.1}])
def test_temperatures_near_zero(params: dict[str, Any], temperature: float) -> None:
    """Catches noise that decides where the gaps do, and a row that needs a search because its bounds are of no use."""
    logits = randn(3000, 3)
    given = {"topp_seed": 3, "position": 2, "temperature": temperature, **params}
    if GPU:
        found = compare(logits, given)
    else:
        with left_to_finish() as left:
            found = compare(logits, given)
        assert not left[0].any()
    assert found.token_ids.tolist() == [int(logits[0].argmax())]


def test_a_share_that_the_rough_weight_cannot_tell() -> None:
    """Catches a row that is settled by a rough sum although its error makes a difference: with ever so many equal
    tokens below the first few, a boundary lies within any error, and the count is that of the exact sum.
    """
    for equal in (40, 90)[: amount(2, 1)]:
        row = np.where(np.arange(3000) < equal, F32(0), F32(-12)).astype(F32)[None]
        with np.errstate(all="ignore"):
            share = F32(equal // 2) * F32(1) / F32(equal + (3000 - equal) * np.exp(-12.0))
        near = [share, np.nextafter(share, F32(0)), np.nextafter(share, F32(1)), share * F32(1 + 1e-5)]
        given = {"topp_seed": np.arange(len(near)), "top_p": F32(near)}
        compare(np.repeat(row, len(near), axis=0), given)
        compare_token(np.repeat(row, len(near), axis=0), given)


def misleading(V: int, value: float, scale: float = 1.0) -> np.ndarray:
    """A row whose tokens in runs at equal distances, from which a boundary is first guessed, are all alike and unlike
    the rest.
    """
    row = randn(V, scale)
    row[0, np.arange(V) % (V // 512) < 16] = value
    return row


@pytest.mark.full("more guesses that miss", every=7)
@pytest.mark.parametrize("value", [-np.inf, -30.0, -1.0, 2.0, 8.0, 40.0])
@pytest.mark.parametrize("params", [{"top_p": 0.95}, {"top_p": 0.5, "min_p": 0.01}, {"top_k": 1500, "top_p": 0.9}])
def test_guesses_that_miss(value: float, params: dict[str, Any]) -> None:
    """Catches a result that trusts the sample: here it is of values that no other token has."""
    compare(misleading(17000, value), {"topp_seed": 3, "position": 5, **params})


@pytest.mark.full("twelve rows of 5,000 and 17,000 tokens in the interpreter")
def test_every_attempt_at_a_boundary_is_reached() -> None:
    """Catches tests that no longer reach the retries."""
    if GPU:
        pytest.skip("looks into the kernels' memory, which is on the host in the interpreter alone")
    attempts = set()
    for logits in (randn(5000), flat(5000, 1.0), misleading(17000, 8.0), misleading(17000, -30.0)):
        for filters in ({"top_p": 0.5}, {"top_p": 0.9}, {"top_k": 1500}):
            with kernel_path.records_kept() as records:
                compare(logits, {"topp_seed": 3, **filters})
            attempts.add(int((records[0][0, 13:15] != -1).sum()))
    assert attempts == {0, 1, 2}


SHAPES: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "normal": lambda rng, V: rng.standard_normal(V) * 4,
    "exponential": lambda rng, V: rng.exponential(2.0, V),
    "a power law": lambda rng, V: -1.1 * np.log(rng.permutation(V) + 1.0),
    "sorted": lambda rng, V: np.sort(rng.standard_normal(V)),
    "few values": lambda rng, V: np.round(rng.standard_normal(V) * 2),
    "half of it far below": lambda rng, V: np.where(np.arange(V) % 2, rng.standard_normal(V), -1e9),
    "a sample from above": lambda rng, V: misleading(V, 2.0)[0],
    "a sample from below": lambda rng, V: misleading(V, -30.0)[0],
}


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is looked at when one program searches a row."""
    if GPU:
        pytest.skip("looks into the kernels, which are Python in the interpreter alone")
    from detsample.kernels.sampling import finish as wide

    found: list[Any] = []
    look = wide.look_at_row

    def counted(*arguments: Any) -> Any:
        found.append(arguments)
        return look(*arguments)

    monkeypatch.setattr(wide, "look_at_row", counted)
    return found


@pytest.mark.full("rows of 9,000 tokens in the interpreter", every=8)
@pytest.mark.parametrize("shape", SHAPES)
def test_boundaries_are_found_without_a_search(shape: str, looks: list[Any]) -> None:
    """Catches aim so bad that one program has to search the row: right, but 20 times as slow."""
    row = SHAPES[shape](rng_of(shape), 9000).astype(F32)
    compare(np.stack([row] * 3), {"topp_seed": 3, "top_p": F32([0.5, 0.9, 0.999])}, None)
    assert not looks


@pytest.mark.full("a whole vocabulary in the interpreter")
def test_a_heavy_token_above_a_bulk_needs_no_search(looks: list[Any]) -> None:
    """Catches aim by pivots that all lie below the boundary, because no sample holds the heavy token: real engines had
    such rows, and one of them took 485 us of a batch's 580 (bf16, V = 151,936, H100).
    """
    row = rng_of("a heavy token").standard_normal(151936) * 0.45
    row[17] = np.log(np.exp(row).sum() * 0.94 / 0.06)
    compare(np.stack([row] * 2).astype(F32), {"topp_seed": 3, "top_p": F32([0.95, 0.96])}, None)
    assert not looks


def test_ways_mixed_in_one_batch() -> None:
    """Catches scratch memory shared between rows, and a row finished with what belongs to its neighbour."""
    names = ["candidates by count", "NaN in the last tile", "by count", "sums alone, min-p", "by weight, flat"]
    names.append("greedy")
    logits = np.concatenate([WAYS[name][0] for name in names])
    params: dict[str, Any] = {"topp_seed": np.arange(6)}
    for column, off in {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}.items():
        values = [WAYS[name][1].get(column, off) for name in names]
        params[column] = np.asarray(values, np.int64 if column == "top_k" else F32)
    compare(logits, params, "csr")


# ---- the token alone


def compare_token(logits: np.ndarray, params: dict[str, Any], **keywords: Any) -> np.ndarray:
    """Run both with nothing wanted but the token; returns which rows were left to `finish`, in the interpreter."""
    with left_to_finish() as left:
        found = kernel_path.sample(logits, **params, return_logprobs=False, return_num_kept=False, **keywords)
    expected = reference.sample(logits, **params, return_logprobs=False)
    assert (found.num_kept, found.logprobs, found.log_z, found.mask) == (None,) * 4
    assert found.token_ids.tolist() == expected.token_ids.tolist(), params
    assert found.status.tolist() == expected.status.tolist(), params
    return np.zeros(len(logits), bool) if GPU else left[0]


@pytest.mark.full("more ways to the token alone", every=18)
@pytest.mark.parametrize("order", ["top_k_first", "min_p_first", "joint"])
@pytest.mark.parametrize("way", WAYS)
def test_the_token_alone_is_the_same(way: str, order: str) -> None:
    """Catches a shortcut for calls without `num_kept` that gives another token than the kept set does."""
    logits, params, _wide = WAYS[way]
    for top_p in {params.get("top_p", 1.0), 0.8}:
        seeds = {"topp_seed": np.arange(2) + 2**40, "position": 7, "filter_order": order}
        compare_token(np.repeat(logits, 2, axis=0), params | seeds | {"top_p": top_p})


def test_a_token_settled_by_the_draw() -> None:
    """Catches a best token of all that is taken although top-p does not keep it, and one that is taken where the rough
    sums cannot tell; and tests in which neither happens.
    """
    rows = np.repeat(randn(3000), amount(256, 32), axis=0)
    given = {"topp_seed": np.arange(len(rows)), "top_p": 0.6}
    left = compare_token(rows, given)
    best = reference.sample(rows, given["topp_seed"]).token_ids
    dropped = best != reference.sample(rows, **given).token_ids
    assert GPU or ((left & dropped).any() and (~left & dropped).any() and (~left & ~dropped).any())


@pytest.mark.full("more shares of listed tokens", every=3)
@pytest.mark.parametrize("top_p", [0.1, 0.3, 0.9])
def test_a_token_settled_by_a_list(top_p: float) -> None:
    """Catches a draw from the listed tokens that stops at one that is not kept, or loses one that is."""
    rows = np.repeat(randn(4000, 0.3), 6, axis=0)
    rows[3:] = np.round(rows[3:] * 8) / 8  # ties, too
    left = compare_token(rows, {"topp_seed": np.arange(6), "position": 3, "top_p": top_p})
    assert GPU or left.any()


@pytest.mark.full("more temperatures in the interpreter", every=4)
@pytest.mark.parametrize("temperature", [0.0, 1e-45, 1e-8, 0.02])
def test_the_token_alone_at_low_temperatures(temperature: float) -> None:
    """Catches a shortcut that trusts rough sums, or bounds, that mean nothing at such a temperature."""
    rows = np.concatenate([randn(3000), randn(3000) + F32(1e6), levels(3000, 3), raised(3000, 512)])
    for top_p in (0.5, 0.999):
        given = {"topp_seed": np.arange(4), "top_p": top_p, "temperature": F32(temperature)}
        compare_token(rows, given)


def test_the_token_alone_of_allowed_sets() -> None:
    """Catches rough sums or a draw that look at tokens outside the set."""
    rng = rng_of("allowed alone")
    rows = np.repeat(randn(3000), 6, axis=0)
    allowed = np.packbits(rng.random((6, 3000)) < np.array([0.9, 0.5, 0.1, 0.01, 0.9, 0.5])[:, None], axis=1)
    given = {"topp_seed": np.arange(6), "top_p": F32([0.95, 0.95, 0.95, 0.95, 0.6, 1.0])}
    compare_token(rows, given | {"allowed": allowed})


def test_sets_of_many_tiles() -> None:
    """Catches a look ahead over a set that is off by a tile or ends too early: 35 tiles in one program."""
    from detsample.sampler.on_gpu import Tuning

    rng = rng_of("sets of many tiles")
    rows = randn(34 * 1024 + 77)
    share = rng.choice([0.0, 0.02, 0.5, 1.0], (1, 35)).repeat(1024, axis=1)[:, : rows.shape[1]]
    allowed = np.packbits(rng.random(share.shape) < share, axis=1, bitorder="little")
    given = {"topp_seed": 5, "top_p": F32(0.95), "min_p": F32(0.001), "allowed": allowed}
    compare(rows, given, tuning=Tuning(parts=1))


@pytest.mark.full("more values at which bounds tie", every=4)
@pytest.mark.parametrize("value", [1e7, -1e7, 1e9, 3e38])
def test_a_draw_that_bounds_cannot_settle(value: float) -> None:
    """Catches a draw that trusts fp32 bounds where they tie: equal large logits, so that only the exact noise tells.

    At 1e7 the step of fp32 is 1 and every group's bound is within its margin of the winner, more groups than are
    evaluated one by one; from 2^30 on the scale of scores is saturated.
    """
    filtered = ((1100, {"top_k": 1000}), (200, {"top_p": 0.6})) if GPU or value == 1e7 else ()
    for vocab, params in ((1300, {}), *filtered):
        logits = np.full((1, vocab), value, F32)
        if GPU or vocab != 1300:
            compare(logits, {"topp_seed": 11, "position": 3, **params}, None)
            continue
        with left_to_finish() as left:
            compare(logits, {"topp_seed": 11, "position": 3, **params}, None)
        assert left[0].tolist() == [True], "the bounds settled a draw that they must not be able to settle"


def test_a_draw_among_several_groups() -> None:
    """Catches a search that stops at the first group: here the best bound is often not the winner's."""
    for step in (0.0, 1e-3):
        logits = np.tile((np.arange(200, dtype=F32) * F32(step)), (8 if GPU else 3, 10)).reshape(-1, 2000)
        compare(logits, {"topp_seed": np.arange(len(logits)), "temperature": 0.5}, None)


@pytest.mark.full("a whole vocabulary in the interpreter")
def test_real_logits() -> None:
    """Catches what only a whole vocabulary shows: many segments and parts, and real logits' own distribution."""
    data = pytest.importorskip("detsample.data").load_real_logits()
    logits = data.logits if GPU else data.logits[:1]
    for params in ({"top_k": 50, "top_p": 0.95, "min_p": 0.01, "temperature": 0.8}, {"top_p": 0.95}, {}):
        compare(logits, {"topp_seed": 1, "position": 7, **params}, "bits")


# ---- inputs in every form


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_sixteen_bit_logits(dtype: str) -> None:
    """Catches a conversion that rounds, flushes subnormals or reads the wrong width."""
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed: NumPy has no bfloat16")
    element = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float16
    for kind, vocab in (("randn_x5", 1100), ("neg_inf_some", 33), ("invalid_sprinkled", 33)):
        rng = rng_of(kind, dtype)
        with np.errstate(over="ignore"):
            logits = cases.CASES[kind](rng, 2, vocab).astype(element)
        compare(logits, cases.parameters(rng, 2, vocab))
    if dtype == "float16" or GPU:  # Triton's interpreter widens the 254 subnormal bfloat16 numbers wrongly (3.3 to 3.9)
        smallest = np.arange(-16, 16, dtype=np.int16).view(np.uint16)[None, :] & np.uint16(0x800F)
        compare(np.repeat(smallest, 2, axis=0).view(element), {"topp_seed": 1, "top_k": np.array([7, 20])})


@pytest.mark.full("masks of another kind", every=4)
@pytest.mark.parametrize("kind", KINDS)
def test_masks(kind: str | None) -> None:
    """Catches a mask that disagrees with the count, or is wrong at the end of a word, a tile or the row."""
    for vocab in (33, 1025, 1, 32)[: amount(4, 2)]:
        rng = rng_of("mask", vocab)
        logits = cases.CASES["few_levels"](rng, 3, vocab)
        logits[1, 0] = np.nan
        top_k = np.array([0, 3, max(1, vocab - 1)])
        compare(logits, {"topp_seed": 5, "top_k": top_k}, kind)


@pytest.mark.full("masks of another kind", every=3)
@pytest.mark.parametrize("kind", ["bool", "bits", "csr"])
def test_mask_without_a_draw(kind: str) -> None:
    """Catches a mask, count or log_z that depends on whether a token is wanted."""
    rng = rng_of("mask alone", kind)
    logits = cases.mixed(rng, 5, 200)
    params = cases.parameters(rng, 5, 200)
    params = {name: params[name] for name in ("temperature", "top_k", "top_p", "min_p")}
    found = kernel_path.mask(logits, **params, kind=kind, return_log_z=True)
    assert_same(found, reference.mask(logits, **params, kind=kind, return_log_z=True), params)


def test_csr_of_one_top_k_is_padded() -> None:
    """Catches stale memory behind the last kept token, where the size of the list is known without waiting."""
    logits = np.where(np.arange(12) < 3, F32(1), F32(-np.inf))[None, :].repeat(2, axis=0)
    found = kernel_path.sample(logits, 1, top_k=5, return_mask="csr")
    expected = reference.sample(logits, 1, top_k=5, return_mask="csr")
    kept = expected.mask.token_ids[: expected.mask.row_offsets[-1]]
    assert found.mask.row_offsets.tolist() == expected.mask.row_offsets.tolist() == [0, 3, 6]
    assert found.mask.token_ids.tolist() == [*kept.tolist(), -1, -1, -1, -1]


@pytest.mark.full("more outputs not asked for", every=4)
@pytest.mark.parametrize("logprobs", [False, True])
@pytest.mark.parametrize("log_z", [False, True])
def test_outputs_not_asked_for(logprobs: bool, log_z: bool) -> None:
    """Catches a result that depends on which others are wanted: fewer wanted lets `sum_weights` leave rows out."""
    logits = np.concatenate([randn(300, 2)] * 6)
    params = {
        "topp_seed": np.arange(6),
        "top_k": np.array([0, 0, 0, 9, 0, 9]),
        "top_p": F32([1, 0.8, 1, 1, 1, 0.7]),
        "min_p": F32([0, 0, 0.1, 0, 0, 0.1]),
        "temperature": F32([1, 1, 1, 1, 0, 1]),
    }
    wanted = {"return_logprobs": logprobs, "return_log_z": log_z}
    assert_same(kernel_path.sample(logits, **params, **wanted), reference.sample(logits, **params, **wanted))


def forms(values: np.ndarray) -> list[Any]:
    """One number a row, all equal, in every form in which a call takes it."""
    spread = np.zeros((len(values), 3), values.dtype)
    spread[:, 1] = values
    numbers = [values[0].item(), values[0], np.array(values[0])]
    return [*numbers, values, values[:, None], spread[:, 1], spread[:, 1:2], values[::-1]]


@pytest.mark.full("more parameters in every form", every=12)
@pytest.mark.parametrize(
    ("name", "value", "dtype"),
    [
        ("temperature", 0.7, F32), ("temperature", 0.7, np.float64), ("temperature", 0.75, np.float16),
        ("top_k", 5, np.int64), ("top_k", 5, np.int32), ("top_p", 0.6, F32), ("top_p", 0.6, np.float64),
        ("min_p", 0.25, F32), ("topp_seed", -(2**40), np.int64), ("topp_seed", -7, np.int32),
        ("position", 2**32 + 9, np.int64), ("position", 9, np.int32),
    ],
)  # fmt: skip
def test_every_form_of_a_parameter(name: str, value: float, dtype: type) -> None:
    """Catches a scalar, 0-d, [B], [B, 1], strided or 32-bit parameter read differently from the others."""
    logits = np.concatenate([randn(31, 2), randn(31)])
    base = {"topp_seed": 3, "position": 4, "top_k": 20, "top_p": 0.95}
    expected = reference.sample(logits, **base | {name: np.full(2, value, dtype)}, return_log_z=True)
    for form in forms(np.full(2, value, dtype)):
        found = kernel_path.sample(logits, **base | {name: form}, return_log_z=True)
        assert_same(found, expected, repr(form))


def test_unsigned_seeds() -> None:
    """Catches a seed from 2^63 on that overflows or is refused: it is the same 64 bits as a negative one."""
    logits = randn(64)
    for seed in (2**63, 2**64 - 1, 2**63 + 2**31):
        assert_same(kernel_path.sample(logits, seed), reference.sample(logits, seed - 2**64))


def test_one_row_in_every_layout() -> None:
    """Catches a row stride or an offset in memory that is not followed, with rows that start on 16 bytes and
    that do not.
    """
    rng = rng_of("layout")
    memory = rng.standard_normal((6, 80), dtype=F32)
    views = [memory[:, :64], memory[:, 1:65], memory[::2, 3:50], memory[::-1, :64], memory[2:3, 7:71], memory[1:, :80]]
    for view in views[:: 1 if GPU else amount(2, 3)] + views[1:2]:
        if GPU and view.strides[0] < 0:
            continue
        params = cases.parameters(rng, len(view), view.shape[1])
        compare(view, params)


@pytest.mark.parametrize("kind", KINDS)
def test_no_rows(kind: str | None) -> None:
    """Catches a launch, or an output, that a batch of no rows breaks."""
    compare(np.zeros((0, 17), F32), {"topp_seed": np.zeros(0, np.int64), "top_k": 3}, kind)
    compare(np.zeros((0, 17), F32), {"topp_seed": 1, "top_p": np.zeros(0, F32)}, kind)


# ---- what nobody thought of

VALUES = st.one_of(
    st.floats(width=32),
    st.sampled_from([0.0, -0.0, 1.0, -np.inf, 1e-45, cases.FLT_MAX, -cases.FLT_MAX, 2.0**30]),
    st.integers(-3, 3).map(float),
)
PARAMETERS = searched.parameters(st.floats(0, width=32, allow_infinity=False), most_k=40)


@settings(
    max_examples=400 if GPU else amount(30, 5),
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    database=None,
)
@given(st.lists(VALUES, min_size=1, max_size=40), PARAMETERS)
def test_any_row(row: list[float], params: dict[str, Any]) -> None:
    """Catches combinations of values and parameters that no case kind makes."""
    compare(F32([row]), params)


def test_the_comparison_can_fail() -> None:
    """Catches a comparison that finds everything equal: one bit of each output is changed in turn."""
    logits, rows = np.concatenate([randn(20)] * 3), np.arange(3)
    wanted: dict[str, Any] = {"return_log_z": True, "return_mask": "bool"}
    expected = reference.sample(logits, rows, top_k=4, **wanted)
    change: dict[str, Callable[[np.ndarray], None]] = {
        "token_ids": lambda a: a.__setitem__(1, a[1] ^ 1),
        "num_kept": lambda a: a.__setitem__(1, a[1] ^ 1),
        "status": lambda a: a.__setitem__(2, 1),
        "logprobs": lambda a: a.view(np.int32).__setitem__(0, a.view(np.int32)[0] ^ 1),
        "log_z": lambda a: a.view(np.int32).__setitem__(0, a.view(np.int32)[0] ^ 1),
        "mask": lambda a: a.__setitem__((2, 19), not a[2, 19]),
    }
    for name, spoil in change.items():
        other = reference.sample(logits, rows, top_k=4, **wanted)
        spoil(getattr(other, name))
        with pytest.raises(AssertionError, match=name):
            assert_same(other, expected)
