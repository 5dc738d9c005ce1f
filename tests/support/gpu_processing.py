"""Processing and sets of allowed tokens on a GPU, against the reference as bits, and what they cost.

    python tests/support/gpu_processing.py --rows 1000000 --seconds 30 --out report.json

Worker processes make what the reference gives; this one runs the kernels. Each part ends after so many seconds at the
latest, and says how many rows it had.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kernel_path
import numpy as np
import processing_cases as cases

import detsample
from detsample import reference
from detsample.processing import CONVENTIONS, Processing, apply

F32 = np.float32
REQUESTS, ROWS = 1000, 2000
OUTPUTS = ("token_ids", "num_kept", "status", "logprobs", "log_z", "mask")


def processing_case(seed: int) -> tuple[np.ndarray, Processing, dict[str, Any]]:
    """A case of many requests. Types of lists make other kernels, seconds to compile, so all are int64."""
    x, asked, how = cases.case(seed, longest=40 if seed % 5 == 0 else 12, requests=REQUESTS)
    asked = dataclasses.replace(asked, **{f.name: wide(getattr(asked, f.name)) for f in dataclasses.fields(asked)})
    return x, asked, {name: wide(value) for name, value in how.items()}


def wide(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(wide, value))
    return value.astype(np.int64) if isinstance(value, np.ndarray) and value.dtype.kind == "i" else value


def processed(seed: int) -> np.ndarray:
    x, asked, how = processing_case(seed)
    return apply(x, asked, **how)


def set_case(seed: int) -> tuple[np.ndarray, dict[str, Any]]:
    """Rows with sets of any density, some of none and of all; all filters and orders."""
    rng = np.random.default_rng(seed)
    vocab = int(rng.choice([5, 33, 64, 100, 257, 300, 1000, 2049]))
    rows = ROWS if vocab < 1000 else ROWS // 8
    x = rng.standard_normal((rows, vocab), dtype=F32) * rng.choice(F32([0.5, 3, 9]), (rows, 1))
    x[rng.random(x.shape) < 0.02] = rng.choice(F32([-np.inf, 0.0, -0.0, 2.0]))
    words = -(-vocab // 32)
    density = rng.choice([0.0, 0.02, 0.5, 0.98, 1.0], (rows, 1), p=[0.02, 0.28, 0.3, 0.3, 0.1])
    octets = np.packbits(rng.random((rows, words * 32)) < density, axis=1, bitorder="little")
    how = {
        "topp_seed": rng.integers(-(2**63), 2**63, rows), "position": rng.integers(0, 2**40, rows),
        "temperature": rng.choice(F32([0, 0.3, 1, 2]), rows), "top_k": rng.choice([0, 1, 5, 50], rows),
        "top_p": rng.choice(F32([0.3, 0.9, 1]), rows), "min_p": rng.choice(F32([0, 0.05]), rows),
        "filter_order": str(rng.choice(["top_k_first", "min_p_first", "joint"])), "allowed": octets.view(np.int32),
        "return_log_z": True, "return_mask": "bits",
    }  # fmt: skip
    return x, how


def drawn(seed: int) -> list[np.ndarray]:
    x, how = set_case(seed)
    out = reference.sample(x, **how)
    return [np.asarray(getattr(out, name)) for name in OUTPUTS]


def unequal(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Rows that differ in a bit; NaNs are all alike."""
    same = (found == expected) & (np.signbit(found) == np.signbit(expected))
    same |= (found != found) & (expected != expected)
    return ~same.reshape(len(same), -1).all(axis=1)


def check(expect: Callable[[int], Any], run: Callable[[int, Any], tuple[int, int]], given: Any) -> Any:
    """(rows, rows that differ, seeds of those), of as many cases as there is time for."""
    rows = wrong = 0
    seeds: list[int] = []
    end = time.perf_counter() + given.seconds
    with multiprocessing.get_context("spawn").Pool(given.processes) as pool:
        for seed, expected in enumerate(pool.imap(expect, range(5000))):
            here, bad = run(seed, expected)
            rows, wrong = rows + here, wrong + bad
            seeds += [seed] * bool(bad)
            if rows >= given.rows or time.perf_counter() > end:
                break
    return {"rows": rows, "rows_that_differ": wrong, "seeds": seeds[:20]}


def check_processed(seed: int, expected: np.ndarray) -> tuple[int, int]:
    found = cases.by_kernel(*processing_case(seed))
    vocab = found.shape[-1]
    bad = unequal(found.reshape(-1, vocab), expected.reshape(-1, vocab))
    return len(bad), int(bad.sum())


def check_drawn(seed: int, expected: list[np.ndarray]) -> tuple[int, int]:
    x, how = set_case(seed)
    out = kernel_path.sample(x, **how)
    bad = np.zeros(len(x), bool)
    for name, due in zip(OUTPUTS, expected, strict=True):
        bad |= unequal(np.asarray(getattr(out, name)), due)
    return len(bad), int(bad.sum())


def times() -> dict[str, float]:
    """Microseconds, with B = 128 and V = 151,936."""
    import torch

    from detsample.bench.timing import microseconds

    torch.manual_seed(1)
    rows, vocab, history = 128, 151936, 1000
    inputs = [torch.randn(rows, vocab, device="cuda") * 3 for _ in range(4)]
    vector = {"topp_seed": torch.arange(rows, device="cuda"), "position": torch.arange(rows, device="cuda")}
    sets = {
        "no set": None,
        "all allowed": torch.full((rows, vocab // 32), -1, dtype=torch.int32, device="cuda"),
        "half allowed": torch.randint(-(2**31), 2**31 - 1, (rows, vocab // 32), device="cuda").int(),
    }
    found: dict[str, float] = {}
    for filters, how in {"none": {}, "k=50 p=.95": {"top_k": 50, "top_p": 0.95}, "p=.95": {"top_p": 0.95}}.items():
        columns = {n: torch.full((rows,), v, device="cuda", dtype=None) for n, v in how.items()}
        for name, allowed in sets.items():
            calls = [
                lambda x=x, a=allowed, c=columns: detsample.sample(x, **vector, **c, allowed=a, return_logprobs=False)
                for x in inputs
            ]
            found[f"{filters}, {name}"] = round(microseconds(calls), 1)
    output = torch.randint(0, vocab, (rows, history), device="cuda")
    asked = Processing(output=output, repetition_penalty=1.2, frequency_penalty=0.1, presence_penalty=0.2)
    found["three penalties, 1,000 tokens"] = round(
        microseconds([lambda x=x: apply(x, asked, in_place=True) for x in inputs]), 1
    )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--processes", type=int, default=14)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--no-times", action="store_true")
    given = parser.parse_args()
    report: dict[str, Any] = {"conventions": list(CONVENTIONS)}
    for name, expect, run in (("processing", processed, check_processed), ("sets", drawn, check_drawn)):
        start = time.perf_counter()
        report[name] = check(expect, run, given) | {"seconds": round(time.perf_counter() - start, 1)}
        print(name, report[name], flush=True)
    if kernel_path.GPU is not None and not given.no_times:
        report["times"] = times()
        report["device"] = kernel_path.GPU
    text = json.dumps(report, indent=1, default=str)
    print(text)
    if given.out:
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
