"""Checks speculative decoding on a GPU against the reference, bit for bit, and times it.

    python tests/support/gpu_speculative.py --framework torch --cases 2000 --out report.json

Random calls of every kind (`speculative_cases.py`) go through the kernels and the reference; a difference is printed,
counted and makes the exit status 1. Then, with torch, medians of CUDA-graph replays: `verify` beside `sample` of the
same rows, and FlashInfer's chain_speculative_sampling where it can be imported.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

REQUESTS, DRAFTED, VOCAB = 64, 5, 151_936
COMPILED_FROM = 400  # so many calls of each kind need nearly all kernels that more would need
BROKEN_TOGETHER = 1000  # the most broken requests of one call
FILTERS: dict[str, dict[str, Any]] = {
    "no filter": {},
    "k=50 p=.95": {"top_k": 50, "top_p": 0.95},
    "min_p=.1": {"min_p": 0.1},
}


def calls_of(seed: int) -> list[tuple[str, Callable[[], Any], Callable[[], Any]]]:
    """(kind, by the kernels, by the reference) of the random calls number `seed`."""
    import speculative_path
    from speculative_cases import chain_case, tree_case

    from detsample import reference

    found = []
    for kind in ("match", "rejection"):
        arguments, how = chain_case(seed, kind, True)
        both = (partial(f, *arguments, **how) for f in (speculative_path.verify, reference.verify))
        found.append((kind, *both))
    arguments, how = tree_case(seed)
    trees = (partial(f, *arguments, **how) for f in (speculative_path.verify_tree, reference.verify_tree))
    return [*found, ("tree", *trees)]


def differences(cases: int) -> list[str]:
    """What the kernels and the reference disagree about."""
    import speculative_path

    found = []
    for seed in range(cases):
        for kind, kernels, reference in calls_of(seed):
            try:
                speculative_path.assert_same(kernels(), reference(), seed)
            except AssertionError as error:
                found.append(f"{kind} {seed}: {error}")
                print(found[-1])
    return found


def expected_of(seed: int) -> tuple[str, tuple[Any, ...], dict[str, Any], Any]:
    """One call of many broken requests, and what the reference makes of it."""
    from broken_requests import broken_call

    from detsample import reference

    name, arguments, how = broken_call(seed, BROKEN_TOGETHER)
    with np.errstate(all="ignore"):
        return name, arguments, how, getattr(reference, name)(*arguments, **how)


def broken(requests: int) -> dict[str, Any]:
    """Broken requests, at least so many: how many there were, how many were refused, and what differs."""
    import speculative_path

    found: list[str] = []
    seen, refused, seed = 0, 0, 0
    calls = range(3 * requests // BROKEN_TOGETHER + 20)  # half as many requests come in a call, on average
    with multiprocessing.get_context("spawn").Pool() as pool:
        for seed, (name, arguments, how, expected) in enumerate(pool.imap(expected_of, calls)):
            seen, refused = seen + len(expected.status), refused + int((expected.status != 0).sum())
            try:
                speculative_path.assert_same(getattr(speculative_path, name)(*arguments, **how), expected, seed)
            except AssertionError as error:
                found.append(f"{name} {seed}: {error}")
                print(found[-1])
            if seen >= requests:
                pool.terminate()
                break
    print(f"{seen} broken requests in {seed + 1} calls, {refused} refused or ended, {len(found)} calls differ")
    return {"requests": seen, "calls": seed + 1, "with a status": refused, "differences": found}


def replayed(call: Callable[[], Any]) -> float:
    """Microseconds of one call: the median of graph replays."""
    import torch

    for _ in range(3):
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = call()
    times = []
    for _ in range(50):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) * 1000)
    del kept
    return statistics.median(times)


def times() -> dict[str, dict[str, float]]:
    """Microseconds by filter and call; the logits of one call do not fit in the L2 cache."""
    import torch

    import detsample

    torch.manual_seed(0)
    shape = (REQUESTS, DRAFTED + 1, VOCAB)
    logits = torch.randn(shape, device="cuda") * 2
    rows = logits.view(-1, VOCAB)
    drafts = torch.randint(0, VOCAB, (REQUESTS, DRAFTED), device="cuda")
    lengths = torch.full((REQUESTS,), DRAFTED, device="cuda")
    offsets = torch.arange(REQUESTS + 1, device="cuda") * (DRAFTED + 1)
    parents = (torch.arange(DRAFTED + 1, device="cuda") - 1).repeat(REQUESTS, 1)
    nodes = torch.cat([torch.zeros_like(drafts[:, :1]), drafts], dim=1)
    probs = torch.softmax(logits[:, :DRAFTED], dim=-1)
    spec, result = detsample.speculative, {}
    for name, filters in FILTERS.items():
        of_requests = {key: torch.full((REQUESTS,), value, device="cuda") for key, value in filters.items()}
        of_rows = {key: value.repeat_interleave(DRAFTED + 1) for key, value in of_requests.items()}
        seeds, positions = torch.arange(REQUESTS, device="cuda"), torch.arange(REQUESTS, device="cuda")
        row_seeds = seeds.repeat_interleave(DRAFTED + 1)
        row_positions = (positions[:, None] + torch.arange(DRAFTED + 1, device="cuda")).reshape(-1)
        padded = (logits, drafts, lengths, seeds)
        how = {"position": positions, **of_requests}
        calls: dict[str, Callable[[], Any]] = {
            "sample": lambda a=row_seeds, p=row_positions, f=of_rows: detsample.sample(rows, a, position=p, **f),
            "verify": lambda a=padded, h=how: spec.verify(*a, **h),
            "verify, ragged": lambda a=padded, h=how: spec.verify(rows, *a[1:], row_offsets=offsets, **h),
            "verify_tree": lambda s=seeds, h=how: spec.verify_tree(logits, nodes, parents, s, **h),
            "rejection": lambda a=padded, h=how: spec.verify(*a, method="rejection", draft_probs=probs, **h),
        }
        result[name] = {what: round(replayed(call), 1) for what, call in calls.items()}
        result[name]["verify / sample"] = round(result[name]["verify"] / result[name]["sample"], 3)
        print(name, result[name])
    result["FlashInfer"] = flashinfer(logits, drafts, probs)
    return result


def flashinfer(logits: Any, drafts: Any, probs: Any) -> dict[str, float]:
    """FlashInfer's p/q verification: alone, and with the softmax that it asks for."""
    try:
        from flashinfer.sampling import chain_speculative_sampling
    except ImportError:
        return {}
    import torch

    target, ids = torch.softmax(logits, dim=-1), drafts.int()
    found = {
        "chain_speculative_sampling": round(replayed(lambda: chain_speculative_sampling(probs, ids, target)), 1),
        "with softmax": round(
            replayed(lambda: chain_speculative_sampling(probs, ids, torch.softmax(logits, dim=-1))), 1
        ),
    }
    print("FlashInfer", found)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--framework", choices=("torch", "paddle"), default="torch")
    parser.add_argument("--cases", type=int, default=500, help="random calls of each of three kinds")
    parser.add_argument("--broken", type=int, default=0, help="broken requests, in calls of up to 1,000")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    os.environ["DETSAMPLE_TEST_FRAMEWORK"] = given.framework
    import kernel_path

    if kernel_path.GPU:
        seeds = range(min(given.cases, COMPILED_FROM))
        compiled = kernel_path.compile_beforehand([kernels for seed in seeds for _, kernels, _ in calls_of(seed)])
        print(f"{compiled} kernels compiled")
    found = differences(given.cases)
    report: dict[str, Any] = {
        "framework": kernel_path.GPU or "interpreter", "cases": given.cases, "differences": found,
        "shape": {"B": REQUESTS, "K": DRAFTED, "V": VOCAB}, "numpy": np.__version__,
    }  # fmt: skip
    if given.broken:
        report["broken"] = broken(given.broken)
        found += report["broken"]["differences"]
    if not found and kernel_path.GPU == "torch":
        report["microseconds"] = times()
    if given.out:
        given.out.write_text(json.dumps(report, indent=1) + "\n")
    print(f"{3 * given.cases} calls, {len(found)} differences")
    return int(bool(found))


if __name__ == "__main__":
    raise SystemExit(main())
