"""Programs of a launch at the same time: what a result may not depend on is which of them comes first."""

from __future__ import annotations

from typing import Any

import cases
import kernel_path
import numpy as np
import pytest
import speculative_path
from interleaved import interleaved
from kernel_path import GPU
from levels import amount
from speculative_cases import chain_case, tree_case

from detsample import reference

pytest.importorskip("triton", reason="Triton is not installed: no kernel runs")
pytestmark = pytest.mark.skipif(GPU is not None, reason="a GPU runs programs at the same time anyway")

F32 = np.float32
V = 3000
ROWS = {
    "flat": lambda rng: rng.standard_normal(V) * 0.5,
    "normal": lambda rng: rng.standard_normal(V) * 3,
    "few values": lambda rng: np.round(rng.standard_normal(V) * 2),
    "a power law": lambda rng: -1.1 * np.log(rng.permutation(V) + 1.0),
    "equal": lambda rng: np.zeros(V),
}
FILTERS: dict[str, dict[str, Any]] = {
    "no filter": {},
    "top-p": {"top_p": F32([0.3, 0.95, 0.999])},
    "min-p": {"min_p": F32([0.01, 0.1, 0.5])},
    "many by count": {"top_k": np.array([200, 1000, 3000])},
    "all together": {"top_k": np.array([0, 50, 2000]), "top_p": F32([0.9, 0.95, 0.9]), "min_p": F32([0.05, 0.05, 0])},
}


def compare_interleaved(logits: np.ndarray, params: dict[str, Any], seed: int, patience: int) -> None:
    """Kernels whose programs run at once, and the reference."""
    from detsample.sampler import on_gpu as engine

    wanted = {"return_log_z": True, "return_mask": ("bool", "bits", "csr")[seed % 3]}
    with interleaved(seed, patience):
        found = kernel_path.sample(logits, **params, **wanted, tuning=engine.Tuning(parts=3, segment_tiles=1))
    kernel_path.assert_same(found, reference.sample(logits, **params, **wanted), (seed, params))


@pytest.mark.full("more shapes and filters with programs that take turns", every=13)
@pytest.mark.parametrize("filters", FILTERS)
@pytest.mark.parametrize("shape", ROWS)
def test_programs_of_a_row_come_in_any_order(shape: str, filters: str) -> None:
    """Catches sums and lists that are not added to at once, a last program that is not the last, or a judge that reads
    what others have not written yet; with nine programs a launch, and rows that need all three of their intervals."""
    rng = np.random.default_rng([ord(letter) for letter in shape + filters])
    logits = np.stack([ROWS[shape](rng) for _ in range(3)]).astype(F32)
    for patience in (20, 1)[: amount(2, 1)]:
        compare_interleaved(logits, {"topp_seed": np.arange(3), **FILTERS[filters]}, patience + len(shape), patience)


@pytest.mark.full("more kinds of rows with programs that take turns", every=6)
@pytest.mark.parametrize("kind", sorted(cases.CASES)[1::4])
def test_rows_of_a_batch_come_in_any_order(kind: str) -> None:
    """Catches memory of one row that another row's program sets, clears or counts in."""
    rng = np.random.default_rng([ord(letter) for letter in kind])
    compare_interleaved(cases.CASES[kind](rng, 5, 70), cases.parameters(rng, 5, 70), len(kind), 3)


@pytest.mark.parametrize("method", ["match", "rejection"])
def test_requests_come_in_any_order(method: str) -> None:
    """Catches a request that is finished before all of its rows are."""
    for seed in range(amount(5, 2)):
        arguments, how = chain_case(seed, method, False)
        with interleaved(seed):
            found = speculative_path.verify(*arguments, **how)
        speculative_path.assert_same(found, reference.verify(*arguments, **how), seed)


def test_trees_come_in_any_order() -> None:
    """Catches the same for trees."""
    for seed in range(amount(5, 2)):
        arguments, how = tree_case(seed)
        with interleaved(seed):
            found = speculative_path.verify_tree(*arguments, **how)
        speculative_path.assert_same(found, reference.verify_tree(*arguments, **how), seed)


def test_margins_come_in_any_order() -> None:
    """Catches the same for margins."""
    rng = np.random.default_rng(11)
    logits, params = rng.standard_normal((3, 700), dtype=F32), {"topp_seed": 1, "top_p": F32([0.9, 0.5, 1])}
    with interleaved(1):
        found = kernel_path.margin(logits, **params)
    expected = reference.margin(logits, **params).margin
    assert np.array_equal(found.view(np.int32), expected.view(np.int32))
