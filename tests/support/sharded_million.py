"""A million rows of all kinds, cut into 1 to 16 shards in this process, beside whole rows.

    python sharded_million.py [ROWS] [PROCESSES]

On GPUs, which the processes share, or else on the CPU, by the NumPy reference. Parameters differ from row to row, or
some are one number, as the kinds of rounds need it; some calls allow only some tokens.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from typing import Any

import cases
import numpy as np
import sharded_cases

import detsample
from reference.mask import bits_of

BATCH = 4096
NUMBERS: list[dict[str, Any]] = [
    {"temperature": 0.0}, {"top_k": 0, "top_p": 1.0}, {"top_k": 0, "top_p": 1.0, "min_p": 0.0},
    {"top_k": 7, "filter_order": "min_p_first"}, {"top_k": 50, "filter_order": "joint"}, {"top_k": 128, "top_p": 1.0},
]  # fmt: skip
"""Parameters that are one number for all rows, in every second call: with these, rows are not exchanged."""


def gpus() -> int:
    if importlib.util.find_spec("torch") is None:
        return 0
    import torch

    return torch.cuda.device_count()


def call(number: int, on_gpu: bool) -> tuple[str, np.ndarray, dict[str, Any], list[int]]:
    """The kind of rows, the rows, the arguments of a call, and where shards end."""
    rng, kinds = np.random.default_rng(number), sorted(cases.CASES)
    kind, long = kinds[number % len(kinds)], number % 16 == 0
    # Rows with more tokens than shards tell of at first are searched by the reference, which takes longer.
    batch = 256 if long and not on_gpu else BATCH
    vocab = int(rng.integers(150, 3000 if on_gpu else 400)) if long else int(rng.integers(1, 300 if on_gpu else 64))
    how: dict[str, Any] = {**cases.parameters(rng, batch, vocab), "return_log_z": bool(rng.integers(2))}
    how["filter_order"] = ("top_k_first", "min_p_first", "joint")[rng.integers(3)]
    if number % 2:
        how |= NUMBERS[number // 2 % len(NUMBERS)]
    if rng.integers(3) == 0:
        how["allowed"] = rng.random((batch, vocab)) < rng.choice([0.05, 0.5, 0.95])
    ends = np.cumsum([shard.shape[1] for shard in sharded_cases.cut(rng, np.empty((1, vocab)))])[:-1].tolist()
    return kind, cases.CASES[kind](rng, batch, vocab), how, ends


def both(number: int, on_gpu: bool) -> tuple[str, int, int, int]:
    """The kind of rows, how many there are and in how many shards, and how many differ in any bit of any shard."""
    kind, logits, how, ends = call(number, on_gpu)
    sets = how.pop("allowed", None)
    own = None if sets is None else [bits_of(each) for each in np.split(sets, ends, axis=1)]
    shards = np.split(logits, ends, axis=1)
    if on_gpu:
        import torch

        torch.cuda.set_device(multiprocessing.current_process()._identity[0] % gpus())
        half = number % 5 == 4
        logits, how, own, sets = (_on_gpu(x) for x in (logits, how, own, None if sets is None else bits_of(sets)))
        logits = logits.bfloat16() if half else logits
        shards = list(torch.tensor_split(logits, ends, dim=1))
    elif sets is not None:
        sets = bits_of(sets)
    expected = _arrays(detsample.sample(logits, **how, allowed=sets, return_mask="bool"))
    found = [_arrays(x) for x in detsample.sharded.sample(shards, **how, allowed=own, return_mask="bool")]
    differs = (np.concatenate([one.pop("mask") for one in found], axis=1) != expected.pop("mask")).any(axis=1)
    for one in found:
        for name, x in expected.items():
            differs |= one[name].view(f"i{x.itemsize}") != x.view(f"i{x.itemsize}")
    return kind, len(logits), len(shards), int(differs.sum())


def _on_gpu(x: Any) -> Any:
    import torch

    if isinstance(x, dict):
        return {name: _on_gpu(value) for name, value in x.items()}
    if isinstance(x, list):
        return [_on_gpu(value) for value in x]
    return torch.from_numpy(np.ascontiguousarray(x)).cuda() if isinstance(x, np.ndarray) else x


def _arrays(out: Any) -> dict[str, np.ndarray]:
    """The results that are there."""
    found = {name: getattr(out, name) for name in ("token_ids", "num_kept", "status", "logprobs", "log_z", "mask")}
    return {name: np.asarray(x.cpu() if hasattr(x, "cpu") else x) for name, x in found.items() if x is not None}


def million(rows: int, processes: int) -> dict[str, Any]:
    """The result of all processes."""
    start, on_gpu, done, number = time.time(), gpus() > 0, 0, 0
    wrong, kinds, cuts = {}, Counter[str](), Counter[int]()
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        while done < rows:
            numbers = range(number, number + max(8, (rows - done) // BATCH))
            for at, (kind, here, shards, bad) in zip(numbers, pool.map(both, numbers, repeat(on_gpu)), strict=True):
                done += here
                kinds[kind] += here
                cuts[shards] += here
                if bad:
                    wrong[at] = bad
            number = numbers.stop
    return {
        "rows": done, "mismatches": sum(wrong.values()), "calls with mismatches": wrong, "on a GPU": on_gpu,
        "seconds": round(time.time() - start), "kinds": dict(sorted(kinds.items())),
        "shards": dict(sorted(cuts.items())),
    }  # fmt: skip


if __name__ == "__main__":
    print(million(*(int(x) for x in (sys.argv[1:] + ["1000000", "1"][len(sys.argv) - 1 :])[:2])))
