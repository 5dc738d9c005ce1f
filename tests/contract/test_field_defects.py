"""Defects seen in other samplers, each a test by name.

Every test takes `sampler`, a callable with the signature of `reference.sample` whose outputs NumPy can
read. A `samplers` fixture in conftest.py, yielding one such callable per parameter, takes the place of the
one below. Where tokens must be unrelated, the chance of a false alarm is stated; seeds are fixed, so a test
that passes once always passes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
from levels import amount
from python_steps import steps

try:
    import kernel_path

    import detsample
    from detsample import reference
except ImportError:
    import reference  # type: ignore[import-not-found,no-redef]

    detsample = None  # type: ignore[assignment]

Sampler = Callable[..., Any]
F32 = np.float32

if not any(hasattr(sys.modules.get(name), "samplers") for name in ("conftest", "tests.conftest")):

    @pytest.fixture
    def samplers() -> Sampler:
        """The implementation under test when conftest.py names none."""
        return reference.sample


@pytest.fixture
def sampler(samplers: Sampler) -> Sampler:
    """One implementation of `sample`."""
    return samplers


class Drawn(NamedTuple):
    """All that a call says about a row, comparable bit for bit."""

    token: int
    num_kept: int
    status: int
    logprobs: int
    log_z: int
    kept: tuple[int, ...]


def bits(values: Any) -> list[int]:
    array = np.ascontiguousarray(values)
    assert array.dtype == F32
    return array.view(np.uint32).tolist()


def draw(sampler: Sampler, logits: np.ndarray, seed: Any, **params: Any) -> list[Drawn]:
    """One `Drawn` per row."""
    out = sampler(logits, seed, return_logprobs=True, return_log_z=True, return_mask="bool", **params)
    kept = [tuple(np.nonzero(row)[0].tolist()) for row in np.asarray(out.mask)]
    integers = (np.asarray(v).tolist() for v in (out.token_ids, out.num_kept, out.status))
    columns = (*integers, bits(out.logprobs), bits(out.log_z), kept)
    return [Drawn(*row) for row in zip(*columns, strict=True)]


def draw_one(sampler: Sampler, row: np.ndarray, seed: int, **params: float) -> Drawn:
    """The row alone in its batch, scalars for parameters."""
    return draw(sampler, row[None, :], seed, **params)[0]


def normal_rows(B: int, V: int, seed: int = 0, scale: float = 2) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((B, V), dtype=F32) * F32(scale)


def flat_tokens(sampler: Sampler, seed: Any, position: Any, count: int = 64, V: int = 4096) -> np.ndarray:
    """`count` draws from V equal logits: as good a fingerprint of the noise as a token can be."""
    out = sampler(np.zeros((count, V), F32), seed, position=position)
    return np.asarray(out.token_ids)


def assert_chance_only(a: np.ndarray, b: np.ndarray, most: int = 3) -> None:
    """64 pairs of tokens of 4096 agree 0.016 times on average; more than 3 times: probability below 3e-9."""
    assert int((a == b).sum()) <= most


# ---- FlashInfer 0.7.2


def test_flashinfer_noise_keyed_by_batch_slot(sampler: Sampler) -> None:
    """The same row, seed and position give another token in another slot of the batch."""
    row = normal_rows(1, 500)
    for params in ({}, {"top_k": 50, "top_p": 0.95}, {"min_p": 0.02}, {"top_p": 0.9}):
        alone = draw_one(sampler, row[0], 42, position=9, **params)
        among = draw(sampler, np.repeat(row, 17, axis=0), 42, position=9, **params)
        assert among == [alone] * 17


def test_flashinfer_token_depends_on_the_slots_of_others(sampler: Sampler) -> None:
    """A batch permuted gives other tokens than the tokens permuted."""
    rows, seeds, order = normal_rows(33, 300), np.arange(33) * 7, np.random.default_rng(1).permutation(33)
    straight = draw(sampler, rows, seeds, top_p=0.9)
    permuted = draw(sampler, rows[order], seeds[order], top_p=0.9)
    assert permuted == [straight[b] for b in order]


@pytest.mark.parametrize("padding", [1, 2, 31, 100, 1000])
def test_flashinfer_padding_column_changes_the_token(sampler: Sampler, padding: int) -> None:
    """One more column of -inf changes the token, the count, or a logarithm."""
    rows, seeds = normal_rows(8, 257), np.arange(8)
    wider = np.concatenate([rows, np.full((8, padding), -np.inf, F32)], axis=1)
    for params in ({}, {"top_k": 20}, {"top_k": 257}, {"top_p": 0.9, "min_p": 0.01}, {"temperature": 0.0}):
        assert draw(sampler, wider, seeds, **params) == draw(sampler, rows, seeds, **params)


def test_flashinfer_top_k_keeps_all_ties(sampler: Sampler) -> None:
    """k = 2 keeps four tokens when four are tied: exactly k stay, of the tied ones the lowest ids."""
    row = F32([0, 3, 1, 3, 3, 3, -2])
    assert draw_one(sampler, row, 1, top_k=2).kept == (1, 3)
    row = F32([0, 3, 1, 5, 3, 3, -2])
    assert draw_one(sampler, row, 1, top_k=3).kept == (1, 3, 4)
    assert draw_one(sampler, row, 1, top_k=5).kept == (1, 2, 3, 4, 5)


@pytest.mark.parametrize(
    ("name", "value", "dtype"),
    [
        ("top_k", 20, np.int64),
        ("top_p", 0.9, np.float32),
        ("min_p", 0.05, np.float32),
        ("temperature", 0.7, np.float32),
        ("position", 2**33 + 1, np.int64),
    ],
)
def test_flashinfer_scalar_and_per_row_parameters_differ(
    sampler: Sampler, name: str, value: float, dtype: type
) -> None:
    """A scalar k and the same k per row give other tokens (5 of 64 equal)."""
    rows, seeds = normal_rows(64, 200), np.arange(64)
    scalar = draw(sampler, rows, seeds, **{name: value})
    assert draw(sampler, rows, seeds, **{name: np.full(64, value, dtype)}) == scalar
    assert draw(sampler, rows, seeds, **{name: np.full((64, 1), value, dtype)}) == scalar


def test_flashinfer_next_offset_is_not_a_new_stream(sampler: Sampler) -> None:
    """Position p + 1 sees the noise of position p, the same or moved along the row."""
    seeds = np.arange(64)
    here, there = flat_tokens(sampler, seeds, 10), flat_tokens(sampler, seeds, 11)
    for step in (0, 1, 2, 4, 8, 32, 128, 1024):
        assert_chance_only((here + step) % 4096, there)
        assert_chance_only((here - step) % 4096, there)


def test_flashinfer_noise_repeats_past_two_to_the_32(sampler: Sampler) -> None:
    """A counter of 32 bits wraps: positions 2^32 apart, or batches past 2^32 elements, share noise."""
    positions = np.arange(64)
    base = flat_tokens(sampler, 5, positions)
    for distance in (2**32, 2**31, 2**33, 2**32 // 4096, 2**40, 2**62):
        assert_chance_only(base, flat_tokens(sampler, 5, positions + distance))


def test_flashinfer_noise_repeats_along_the_row(sampler: Sampler) -> None:
    """Two tokens 2^16 or 2^18 ids apart share noise, so that of two equal logits the lower id always wins."""
    for distance in (2**16, 2**18):
        rows = np.full((32, distance + 8), -np.inf, F32)
        rows[:, [3, 3 + distance]] = 1
        tokens = np.asarray(sampler(rows, np.arange(32)).token_ids)
        assert set(tokens.tolist()) == {3, 3 + distance}  # by chance one wins all: 2^-31


def test_flashinfer_renormaliser_differs_between_repeats(sampler: Sampler) -> None:
    """Sums in an order that varies: 20 of 20 repeats of one call differ."""
    rows, seeds = normal_rows(4, 20_000, scale=1), np.arange(4)
    first = draw(sampler, rows, seeds, top_p=0.95, top_k=10_000)
    for _ in range(19):
        assert draw(sampler, rows, seeds, top_p=0.95, top_k=10_000) == first


def test_flashinfer_all_nan_row_gives_token_0(sampler: Sampler) -> None:
    """A row of NaN gives token 0 as if that had been drawn; and it disturbs its neighbours."""
    rows, seeds = normal_rows(3, 64), np.arange(3)
    alone = draw(sampler, rows, seeds, top_p=0.9)
    rows[1] = np.nan
    spoilt = draw(sampler, rows, seeds, top_p=0.9)
    assert spoilt[1] == Drawn(-1, 0, 1 | 4, 0x7FC00000, 0x7FC00000, ())
    assert [spoilt[0], spoilt[2]] == [alone[0], alone[2]]


def test_flashinfer_one_bad_logit_goes_unnoticed(sampler: Sampler) -> None:
    """A single NaN or +inf, or a row without a finite logit, is drawn from all the same."""
    rows = normal_rows(5, 64)
    rows[1, 63], rows[2, 0], rows[3] = np.nan, np.inf, -np.inf
    rows[4, [5, 6]] = np.nan, np.inf
    drawn = draw(sampler, rows, 3)
    assert [row.status for row in drawn] == [0, 1, 2, 4, 3]
    assert [row.token for row in drawn[1:]] == [-1] * 4


# ---- vLLM 0.33


@pytest.mark.full("more fills", every=5)
@pytest.mark.parametrize("fill", [-1e9, -1e4, -3.4e38, float(np.finfo(F32).min)])
def test_vllm_half_row_filled_with_minus_1e9_and_k5_keeps_5(sampler: Sampler, fill: float) -> None:
    """A search in value space, capped at 18 steps, cannot tell the upper half apart and keeps 12."""
    rows = normal_rows(4, 1024, scale=1)
    rows[:, 512:] = fill
    for row, drawn in zip(rows, draw(sampler, rows, 0, top_k=5), strict=True):
        assert drawn.num_kept == 5
        assert drawn.kept == tuple(sorted(np.argsort(-row, kind="stable")[:5].tolist()))


def test_vllm_geometric_row_needs_more_than_18_steps(sampler: Sampler) -> None:
    """The same at every scale at once: values that halve their distance to the maximum a hundred times."""
    row = -(F32(2) ** np.arange(20, -80, -1, dtype=F32))
    for k in (1, 2, 5, 50, 99):
        assert draw_one(sampler, row, 0, top_k=k).kept == tuple(range(100 - k, 100))


def test_vllm_all_equal_row_keeps_everything(sampler: Sampler) -> None:
    """No value separates equal logits, so k and p are given up."""
    for value in (0.0, -3.25, 1e30, 1e-40):
        row = np.full(64, value, F32)
        assert draw_one(sampler, row, 0, top_k=5).kept == tuple(range(5))
        assert draw_one(sampler, row, 0, top_p=0.5).kept == tuple(range(32))
        assert draw_one(sampler, row, 0, top_k=16, top_p=0.25).kept == tuple(range(4))


def test_vllm_values_within_1e_9_taken_for_equal(sampler: Sampler) -> None:
    """An equality to 1e-9: distinct logits so close are kept together, or cut by id and not by value."""
    row = np.arange(64, dtype=F32) * F32(1e-12)
    assert draw_one(sampler, row, 0, top_k=5).kept == tuple(range(59, 64))
    row = np.arange(64, dtype=F32) * F32(1e-45)
    assert draw_one(sampler, row, 0, top_k=5).kept == tuple(range(59, 64))


@pytest.mark.parametrize(
    "params", [{"top_p": 0.9}, {"top_p": 0.5, "top_k": 100}, {"top_p": 0.999}, {"min_p": 0.01}], ids=str
)
def test_vllm_other_top_p_algorithm_at_batch_65(sampler: Sampler, params: dict[str, float]) -> None:
    """A batch of 65 takes another path than one of 64, with other masks."""
    rows, seeds = normal_rows(65, 400, scale=1), np.arange(65)
    full = draw(sampler, rows, seeds, **params)
    assert draw(sampler, rows[:64], seeds[:64], **params) == full[:64]
    assert [draw_one(sampler, rows[b], b, **params) for b in (0, 31, 64)] == [full[b] for b in (0, 31, 64)]


def test_vllm_seed_squeezed_into_32_bits(sampler: Sampler) -> None:
    """Seeds that differ in their high half only, or in sign, are the same stream."""
    positions, seed = np.arange(64), 123
    base = flat_tokens(sampler, seed, positions)
    for other in (seed + 2**32, seed + 2**62, seed - 2**63, -seed, seed << 32):
        assert_chance_only(base, flat_tokens(sampler, other, positions))


def test_vllm_seed_and_position_mixed_into_one_number(sampler: Sampler) -> None:
    """(s, p) and (s', p') collide where s + p, s ^ p or s * c + p are equal."""
    index = np.arange(64)
    base = flat_tokens(sampler, 1000 + index, 1000 - index)
    assert_chance_only(base, flat_tokens(sampler, 1000 - index - 1, 1000 + index + 1))  # equal sums
    assert_chance_only(base, flat_tokens(sampler, (1000 + index) ^ 64, (1000 - index) ^ 64))  # equal xor
    assert_chance_only(base[:-1], base[1:])


def test_vllm_pairs_of_seed_and_position_collide() -> None:
    """1,894 of 4.1M pairs of seed and position share their noise; of ours none (by chance: below 1e-6)."""
    noise, count = import_module(f"{reference.__name__}.gumbel"), amount(2025, 700)
    seeds, positions = np.meshgrid(np.arange(count, dtype=np.uint64), np.arange(count), indexing="ij")
    words = noise.uniform(seeds.ravel(), positions.ravel(), np.zeros(seeds.size, np.int64))
    assert len(np.unique(words)) == seeds.size


def test_vllm_seeded_speculative_output_differs_from_plain(sampler: Sampler) -> None:
    """Four positions verified in one batch give other tokens than the same four drawn one after the other."""
    rows = normal_rows(4, 300)
    params = {"temperature": 0.8, "top_k": 40, "top_p": 0.95}
    together = draw(sampler, rows, 77, position=np.arange(100, 104), **params)
    assert together == [draw_one(sampler, rows[i], 77, position=100 + i, **params) for i in range(4)]


# ---- SGLang 0.5.23


def test_sglang_neighbours_top_k_changes_token(sampler: Sampler) -> None:
    """Noise keyed by sorted rank as soon as any row of the batch filters."""
    rows, seeds = normal_rows(6, 200), np.arange(6)
    plain = draw(sampler, rows, seeds)
    for name, value in (("top_k", 5), ("top_p", 0.5), ("min_p", 0.2), ("temperature", 0.0)):
        column = np.full(6, {"top_k": 0, "top_p": 1, "min_p": 0, "temperature": 1}[name], type(value))
        column[3] = value
        beside = draw(sampler, rows, seeds, **{name: column})
        assert [beside[b] for b in (0, 1, 2, 4, 5)] == [plain[b] for b in (0, 1, 2, 4, 5)]


def test_sglang_noise_keyed_by_rank(sampler: Sampler) -> None:
    """A filter that keeps the winner changes the winner: with the noise keyed by id it cannot."""
    rows, seeds = normal_rows(64, 200), np.arange(64)
    plain = draw(sampler, rows, seeds)
    for params in ({"top_k": 30}, {"top_p": 0.8}, {"min_p": 0.05}):
        filtered = draw(sampler, rows, seeds, **params)
        survived = [b for b in range(64) if plain[b].token in filtered[b].kept]
        assert len(survived) >= 16
        assert [filtered[b].token for b in survived] == [plain[b].token for b in survived]


def test_sglang_min_p_with_a_seed_asserts(sampler: Sampler) -> None:
    """min-p and seeds together are refused; per row and for the batch they work here."""
    rows, seeds = normal_rows(8, 100), np.arange(8)
    drawn = draw(sampler, rows, seeds, min_p=np.linspace(0, 1, 8).astype(F32))
    assert [row.status for row in drawn] == [0] * 8
    assert all(row.token in row.kept for row in drawn)
    assert drawn[0].num_kept == 100
    assert drawn[7].num_kept == 1


def test_sglang_seeds_dropped_unless_a_flag_is_set(sampler: Sampler) -> None:
    """Seeds are ignored: equal calls differ, or other seeds change nothing, or global state counts."""
    np.random.seed(1)  # noqa: NPY002
    first = flat_tokens(sampler, np.arange(64), 0)
    np.random.seed(2)  # noqa: NPY002
    assert flat_tokens(sampler, np.arange(64), 0).tolist() == first.tolist()
    assert_chance_only(first, flat_tokens(sampler, np.arange(64, 128), 0))
    assert len(set(first.tolist())) >= 56


# ---- FastDeploy #7015 and after


def test_fastdeploy_ties_capped_by_the_wrong_variable_k5_keeps_64(sampler: Sampler) -> None:
    """Ties at the boundary are counted against another number than k: k = 5 keeps 64."""
    row = np.concatenate([np.full(3, 2, F32), np.full(64, 1, F32), np.full(61, -1, F32)])
    assert draw_one(sampler, row, 0, top_k=5).kept == tuple(range(5))
    assert draw_one(sampler, row[::-1].copy(), 0, top_k=5).kept == (61, 62, 125, 126, 127)
    for k in range(1, 128):
        assert draw_one(sampler, row, 0, top_k=k).num_kept == k


@pytest.mark.full("more ways to say that top-k is off", every=7)
@pytest.mark.parametrize("off", [0, -1, 128, 2**31, 2**62])
def test_fastdeploy_top_k_0_beside_top_k_on_breaks_the_row(sampler: Sampler, off: int) -> None:
    """top_k = 0 (or anything else that means off) beside a row with top_k on empties or truncates the row."""
    rows = normal_rows(3, 128)
    drawn = draw(sampler, rows, 4, top_k=np.array([off, 5, off]))
    assert [row.num_kept for row in drawn] == [128, 5, 128]
    assert [drawn[b] for b in (0, 2)] == [draw_one(sampler, rows[b], 4) for b in (0, 2)]


def test_fastdeploy_mask_ignores_min_p(sampler: Sampler) -> None:
    """The mask is top-k's and top-p's only, and disagrees with the count and the draw."""
    row = np.log(F32([0.5, 0.3, 0.15, 0.04, 0.01]))
    assert draw_one(sampler, row, 0, min_p=0.2).kept == (0, 1, 2)
    drawn = draw_one(sampler, row, 0, top_k=4, top_p=0.97, min_p=0.5)
    assert drawn.kept == (0, 1)
    assert drawn.num_kept == 2
    rows, seeds = np.repeat(row[None, :], 200, axis=0), np.arange(200)
    assert {d.token for d in draw(sampler, rows, seeds, min_p=0.5)} == {0, 1}


def test_fastdeploy_log_z_is_lost(sampler: Sampler) -> None:
    """log_z is absent or zero once a filter is on: it is the log of the kept share, min-p included."""
    row = np.log(F32([0.5, 0.3, 0.15, 0.04, 0.01]))
    for params, share in (({"min_p": 0.2}, 0.95), ({"top_k": 2}, 0.8), ({"top_p": 0.97}, 0.99), ({}, 1.0)):
        out = sampler(row[None, :], 0, return_log_z=True, **params)
        assert abs(float(np.asarray(out.log_z)[0]) - np.log(share)) < 1e-6


class Unlisted(np.ndarray):
    """An array that refuses to be walked through in Python."""

    def tolist(self) -> list:
        raise AssertionError("tolist() of a vector of parameters")

    def __iter__(self) -> Any:
        raise AssertionError("a Python loop over a vector of parameters")


Bring = Callable[[np.ndarray], Any]


def ways(sampler: Sampler) -> list[tuple[Bring, Sampler]]:
    """The sampler, and the call that users make: each with what brings an array to it, on to a GPU if there is one."""
    if detsample is None:
        return [(np.asarray, sampler)]
    if kernel_path.GPU:  # there the sampler fetches its results
        return [(kernel_path.on_device, detsample.sample), (np.asarray, detsample.sample)]
    return [(np.asarray, sampler), (np.asarray, detsample.sample)]


def test_fastdeploy_tolist_and_a_python_loop_over_seeds(sampler: Sampler) -> None:
    """Seeds go through `.tolist()` and a loop, a synchronisation and a cost per row."""
    rows, seeds = normal_rows(4, 100), np.arange(4) * (2**40 + 1)
    values = {"position": np.arange(4), "top_k": np.arange(4), "top_p": np.linspace(0, 1, 4, dtype=F32)}
    guarded = {name: value.view(Unlisted) for name, value in values.items()}
    out = sampler(rows, seeds.view(Unlisted), **guarded)
    assert np.asarray(out.token_ids).tolist() == [d.token for d in draw(sampler, rows, seeds, **values)]
    for bring, call in ways(sampler):
        counted = []
        for count in (2, 2, 3, 3):  # the first call of each size imports, compiles and fills caches
            given = [bring(np.repeat(value[3:], count, axis=0)) for value in (rows, seeds, *values.values())]
            how = dict(zip(values, given[2:], strict=True))
            once = partial(call, *given[:2], **how)
            counted.append(steps(once, reference, *([detsample] if detsample else [])))
        assert counted[1] == counted[3], "Python does more for three equal rows than for two"


TWO_GPUS = "from two_gpus import *\n"


class NewTensor(NamedTuple):
    """What an adapter asked its framework for."""

    shape: Any
    dtype: Any
    device: Any

    def new_empty(self, shape: Any) -> NewTensor:
        """As torch's: another like this one."""
        return self._replace(shape=shape)


def assert_torch_keeps_devices_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory of a device and a type, and the size of a GPU, whatever was asked for before."""
    torch = pytest.importorskip("torch", reason="torch is not installed: its adapter is not tested here")
    from detsample.frameworks import torch_tensors as adapter

    cached = (adapter._new_empty, adapter._torch_device, adapter.multiprocessor_count)
    sizes = {0: 132, 1: 20}
    monkeypatch.setattr(torch, "empty", lambda shape, dtype, device: NewTensor(shape, dtype, device))
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda index: SimpleNamespace(multi_processor_count=sizes[index])
    )
    try:
        for function in cached:
            function.cache_clear()
        places = [("cpu", 0), ("gpu", 0), ("gpu", 1)]
        for place in [*places, *reversed(places), *places]:
            for dtype in ("float32", "int64", "float32"):
                device = torch.device("cuda", place[1]) if place[0] == "gpu" else torch.device("cpu")
                made: Any = adapter.empty((3,), dtype, place)
                assert made == NewTensor(3, getattr(torch, dtype), device)
            assert adapter.multiprocessor_count(place) == (sizes[place[1]] if place[0] == "gpu" else 1)
    finally:
        for function in cached:
            function.cache_clear()


def assert_paddle_keeps_devices_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same of Paddle's adapter."""
    paddle = pytest.importorskip("paddle", reason="Paddle is not installed: its adapter is not tested here")
    from contextlib import nullcontext

    from detsample.frameworks import paddle_tensors as adapter

    cached = (adapter._place, adapter.multiprocessor_count)
    sizes = {0: 132, 1: 20}
    made: list[Any] = []

    def empty(shape: Any, dtype: Any, place: Any) -> None:
        made.append((shape, dtype, place))

    monkeypatch.setattr(adapter, "is_current", lambda index: False)
    monkeypatch.setattr(adapter, "Current", lambda index: nullcontext())
    monkeypatch.setattr(paddle.device, "is_compiled_with_cuda", lambda: True)
    monkeypatch.setattr(paddle, "CUDAPlace", lambda index: ("place", index))
    monkeypatch.setattr(paddle._C_ops, "empty", empty)
    monkeypatch.setattr(
        paddle.device.cuda, "get_device_properties", lambda index: SimpleNamespace(multi_processor_count=sizes[index])
    )
    try:
        for function in cached:
            function.cache_clear()
        for index in (0, 1, 1, 0, 1):
            for dtype in ("float32", "int64", "float32"):
                adapter.empty((3,), dtype, ("gpu", index))
                assert made[-1] == ([3], getattr(paddle, dtype), ("place", index))
            assert adapter.multiprocessor_count(("gpu", index)) == sizes[index]
    finally:
        for function in cached:
            function.cache_clear()


def assert_arrays_keep_apart() -> None:
    """Two types of logits and five shapes, on the CPU and by the kernels, in any order."""
    calls = [(B, V, dtype) for B, V in ((1, 64), (5, 64), (5, 300), (2, 1000), (64, 7)) for dtype in (F32, np.float16)]
    samplers = [(reference.sample, calls)]
    if detsample is not None:
        samplers += [(detsample.sample, calls), (kernel_path.sample, [(1, 64, F32), (2, 64, np.float16), (2, 30, F32)])]
    for sampler, some in samplers:
        given = [normal_rows(B, V).astype(dtype) for B, V, dtype in some]
        fresh = [draw(sampler, rows, np.arange(len(rows)), top_k=5, top_p=0.9) for rows in given]
        assert len({str(result) for result in fresh}) == len(fresh)
        for at in [*reversed(range(len(some))), *range(len(some))]:
            assert draw(sampler, given[at], np.arange(len(given[at])), top_k=5, top_p=0.9) == fresh[at]


@pytest.mark.parametrize("where", ["arrays", "two GPUs", "torch", "Paddle"])
def test_fastdeploy_caches_keyed_by_an_ambiguous_device(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Buffers or kernels kept under a key that leaves out the GPU, the type or a size: an earlier call shows in a later
    one. The GPUs are those of fake_framework.py.
    """
    if where == "arrays":
        assert_arrays_keep_apart()
    elif where == "torch":
        assert_torch_keeps_devices_apart(monkeypatch)
    elif where == "Paddle":
        assert_paddle_keeps_devices_apart(monkeypatch)
    else:
        pytest.importorskip("triton", reason="Triton is not installed: nothing is launched")
        from own_process import run

        run(tmp_path, TWO_GPUS, interpret=False, block=("torch", "paddle"))


def test_fastdeploy_outputs_of_a_call_are_overwritten_by_the_next(sampler: Sampler) -> None:
    """The arrays handed out are the cached buffers themselves."""
    out = sampler(normal_rows(4, 64), np.arange(4), return_log_z=True, return_mask="bool")
    kept = [np.array(v) for v in (out.token_ids, out.num_kept, out.logprobs, out.log_z, out.mask)]
    sampler(normal_rows(4, 64, 1), np.arange(4) + 9, top_k=1, return_log_z=True, return_mask="bool")
    for before, after in zip(
        kept, (out.token_ids, out.num_kept, out.logprobs, out.log_z, out.mask), strict=True
    ):
        assert np.array_equal(before, np.asarray(after))


def test_fastdeploy_seed_plus_4_shares_stream(sampler: Sampler) -> None:
    """Seeds advance by 4 a step, so that seed s + 4 repeats seed s one step later."""
    positions = np.arange(64)
    base = flat_tokens(sampler, 1000, positions)
    for seed_step in (1, 2, 4, 8, 64):
        for delay in (-2, -1, 0, 1, 2):
            other = flat_tokens(sampler, 1000 + seed_step, positions + 8)
            assert_chance_only(base[8 + delay : 56 + delay], other[:48])


def test_fastdeploy_seed_lost_when_a_request_is_preempted(sampler: Sampler) -> None:
    """A request resumed in another slot, with other neighbours, goes on with another stream."""
    steps, mine = normal_rows(32, 200), 31337
    whole = [draw_one(sampler, steps[i], mine, position=i, top_p=0.95).token for i in range(32)]
    resumed = []
    for i in range(16, 32):
        batch, seeds, positions = normal_rows(5, 200, seed=i), np.arange(5), np.arange(5) * 11
        slot = i % 5
        batch[slot], seeds[slot], positions[slot] = steps[i], mine, i
        resumed.append(draw(sampler, batch, seeds, position=positions, top_p=0.95)[slot].token)
    assert resumed == whole[16:]
