"""How long the reference takes on a CPU, beside the warpers of transformers: a scale, not a race.

Not collected by default. ``pytest tests/support/bench_reference.py`` runs it with pytest-benchmark, and
``python tests/support/bench_reference.py`` prints the medians without it. Both sample 64 rows of 151936 fp32
logits with top-k 50, top-p 0.95 and min-p 0.05. The part for transformers is skipped where it is
not installed; it needs torch as well, and uses as many threads as torch finds cores.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

ROWS, VOCAB = 64, 151_936
TOP_K, TOP_P, MIN_P = 50, 0.95, 0.05
ROUNDS = 5

Sampler = Callable[[], Any]


def logits() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((ROWS, VOCAB), dtype=np.float32)


def reference_sampler() -> Sampler:
    """The reference with all three filters on, and its defaults otherwise."""
    from detsample.reference import sample

    x, seeds = logits(), np.arange(ROWS, dtype=np.int64)
    return lambda: sample(x, seeds, top_k=TOP_K, top_p=TOP_P, min_p=MIN_P)


def transformers_sampler() -> Sampler:
    """What `generate(do_sample=True)` does with a step's logits, in its order."""
    import torch
    from transformers import MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    x = torch.from_numpy(logits())
    warpers = [TopKLogitsWarper(TOP_K), TopPLogitsWarper(TOP_P), MinPLogitsWarper(MIN_P)]

    def sample() -> Any:
        scores = x
        for warper in warpers:
            scores = warper(None, scores)
        return torch.multinomial(torch.softmax(scores, dim=-1), num_samples=1)

    return sample


def test_reference(benchmark: Any) -> None:
    """Catches a change that makes the reference slow: the time of 64 full rows with all three filters on."""
    benchmark.pedantic(reference_sampler(), rounds=ROUNDS, warmup_rounds=1)


def test_transformers(benchmark: Any) -> None:
    """Catches a slow machine taken for a slow reference: the time of transformers' warpers on the same rows."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    benchmark.pedantic(transformers_sampler(), rounds=ROUNDS, warmup_rounds=1)


def median_seconds(sampler: Sampler) -> float:
    sampler()  # warm up
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        sampler()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    samplers = {"reference": reference_sampler, "transformers": transformers_sampler}
    for name, make in samplers.items():
        try:
            sampler = make()
        except ImportError as error:
            print(f"{name:13} skipped: {error}")
            continue
        print(f"{name:13} {median_seconds(sampler):7.3f} s for {ROWS} rows of {VOCAB}")


if __name__ == "__main__":
    main()
