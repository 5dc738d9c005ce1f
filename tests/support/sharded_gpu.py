"""Sharded rows on several GPUs over NCCL: `python sharded_gpu.py RANKS [FILE]`, in a process for each rank.

Calls are timed beside bringing the logits together, with all GPUs and, of more than two, with two of them. Then
100,000 rows are compared with unsharded ones, bit by bit. FILE gets what was found, as JSON.
"""

from __future__ import annotations

import functools
import itertools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as distributed
from before_and_after import machine

import detsample
from detsample import sharded
from detsample.bench.cases import llm
from detsample.bench.timing import copies_for, microseconds

VOCAB = 151_936
ROWS = 512
SECONDS = 60  # after which no more rows are compared
FIELDS = ("token_ids", "num_kept", "status", "logprobs", "log_z")


def ties(rows: int, vocab: int) -> Any:
    return torch.randint(0, 12, (rows, vocab), device="cuda").float() / 2


def flat(rows: int, vocab: int) -> Any:
    return torch.randn(rows, vocab, device="cuda")


def halves(rows: int, vocab: int) -> Any:
    return (torch.randn(rows, vocab, device="cuda") * 2).bfloat16()


def broken(rows: int, vocab: int) -> Any:
    x = torch.randn(rows, vocab, device="cuda") * 30
    x[:, vocab // 2 :][:: 3] = -torch.inf
    x[5::7, vocab - 3], x[6::7, 2], x[3::11] = torch.nan, torch.inf, -torch.inf
    return x


KINDS = (llm, flat, ties, halves, broken)


def vectors(rows: int) -> dict[str, Any]:
    def one_of(*values: float) -> Any:
        return torch.tensor(values, device="cuda")[torch.randint(0, len(values), (rows,), device="cuda")]

    return {
        "temperature": one_of(0.0, 0.3, 0.7, 1.0, 2.0, 1e4), "top_p": one_of(0.0, 0.3, 0.9, 0.95, 0.999, 1.0),
        "top_k": one_of(0, 1, 7, 50, 128, 129, 5000), "min_p": one_of(0.0, 0.0, 0.01, 0.2),
    }  # fmt: skip


# The arguments of a call with so many rows, by the name of its case.
CONFIGS: dict[str, Callable[[int], dict[str, Any]]] = {
    "none": lambda rows: {},
    "k50_p95": lambda rows: {"top_k": 50, "top_p": 0.95},
    "p95": lambda rows: {"top_p": 0.95},
    "min_p": lambda rows: {"min_p": 0.1},
    "greedy": lambda rows: {"temperature": 0.0, "return_log_z": True},
    "joint": lambda rows: {"top_k": 50, "top_p": 0.8, "filter_order": "joint", "return_log_z": True},
    "k2000": lambda rows: {"top_k": 2000},
    "vectors": lambda rows: vectors(rows) | {"filter_order": "min_p_first", "return_log_z": True},
    "vectors_joint": lambda rows: vectors(rows) | {"filter_order": "joint"},
}
BENCHED = ("none", "k50_p95", "p95", "min_p")


def mismatches(found: Any, expected: Any) -> int:
    """How many rows differ in any bit."""
    differs = torch.zeros(len(expected.token_ids), dtype=torch.bool, device="cuda")
    for name in FIELDS:
        one, other = getattr(found, name), getattr(expected, name)
        if other is not None:
            kind = {8: torch.int64, 4: torch.int32}[other.element_size()]
            differs |= one.view(kind) != other.view(kind)
    return int(differs.sum())


def cases(seed: int, rows: int, name: str) -> tuple[Any, dict[str, Any], list[int]]:
    """Whole rows, the arguments of a call, and where the shards begin: the same on every rank."""
    torch.manual_seed(seed)
    vocab = (VOCAB, VOCAB, 50_003, 131_072)[seed % 4]
    logits = KINDS[seed % len(KINDS)](rows, vocab)
    seeds = torch.randint(-(2**62), 2**62, (rows,), device="cuda")
    cut = (vocab // 2, vocab // 3 + 1, 7, vocab - 1)[seed // 2 % 4]
    return logits, {"topp_seed": seeds, "position": seed, **CONFIGS[name](rows)}, [0, cut, vocab]


def bounds_of(ends: list[int], ranks: int) -> list[int]:
    """The bounds of two shards, or of more, of which the others have what is behind the first in equal parts."""
    rest = ends[-1] - ends[1]
    return [0, *(ends[1] + rest * each // (ranks - 1) for each in range(ranks))]


def total(number: float, kind: Any = distributed.ReduceOp.SUM, group: Any = None) -> float:
    """The sum (or another reduction) over all ranks."""
    told = torch.tensor([number], device="cuda")
    distributed.all_reduce(told, kind, group)
    return float(told)


def bits(rank: int, ranks: int) -> dict[str, Any]:
    """How many rows were compared, and how many differ on any rank."""
    rows = wrong = 0
    start = time.time()
    for seed, name in itertools.product(range(22), CONFIGS):
        if total(time.time() - start > SECONDS):
            break
        logits, how, ends = cases(seed * 31 + len(name), ROWS, name)
        bounds = bounds_of(ends, ranks)
        expected = detsample.sample(logits, **how)
        own = logits[:, bounds[rank] : bounds[rank + 1]]
        bad = mismatches(sharded.sample(own, **how, vocab_start=bounds[rank], vocab=bounds[-1]), expected)
        if bad:
            print(f"{name}: seed {seed}, {bounds}, rank {rank}: {bad} mismatches", flush=True)
        rows, wrong = rows + ROWS, wrong + bad
    return {"rows": rows, "mismatches": int(total(wrong)), "seconds": round(time.time() - start)}


def bench(rank: int, ranks: int, group: Any) -> list[dict[str, Any]]:
    """Times of sharded calls, and of drawing from rows that are brought together; in microseconds, of the slowest
    rank.
    """
    width, results = VOCAB // ranks, []
    gather = getattr(distributed, "all_gather_single", None) or distributed.all_gather_into_tensor

    def timed(calls: list[Callable[[], Any]]) -> float:
        distributed.barrier(group)
        return round(total(microseconds(calls), distributed.ReduceOp.MAX, group), 1)

    def whole(own: Any) -> Any:
        parts = own.new_empty((ranks * own.shape[0], own.shape[1]))
        gather(parts, own, group=group)
        return torch.cat(parts.chunk(ranks), dim=1)

    for rows in (8, 64, 128, 256):
        torch.manual_seed(rows)
        copies = min(24, copies_for(rows * width * 4))
        shards = [llm(rows, VOCAB)[:, rank * width :][:, :width].contiguous() for _ in range(copies)]
        seeds = torch.randint(-(2**62), 2**62, (rows,), device="cuda")
        gathering = timed([functools.partial(whole, own) for own in shards])
        for name in BENCHED:
            how = CONFIGS[name](rows)
            draws = sharded.plan(shards[0], seeds, vocab_start=rank * width, vocab=VOCAB, group=group, **how)
            alone = detsample.plan(whole(shards[0]), seeds, **how)
            taken = timed([functools.partial(draws, own) for own in shards])
            usual = timed([functools.partial(lambda draw, own: draw(whole(own)), alone, own) for own in shards])
            bad = int(total(mismatches(draws(shards[0]), alone(whole(shards[0]))), group=group))
            results.append({"ranks": ranks, "rows": rows, "case": name, "sharded_us": taken, "gathered_us": usual,
                            "gathering_us": gathering, "mismatches": bad})  # fmt: skip
            if not rank:
                print(json.dumps(results[-1]), flush=True)
    return results


def one_rank(rank: int, ranks: int, file: str | None) -> None:
    torch.cuda.set_device(rank)
    where, device = "tcp://127.0.0.1:29533", torch.device("cuda", rank)
    distributed.init_process_group("nccl", init_method=where, rank=rank, world_size=ranks, device_id=device)
    found: dict[str, Any] = {"machine": f"{ranks} x {machine()}", "vocab": VOCAB}
    found["bench"] = bench(rank, ranks, distributed.group.WORLD)
    two = distributed.new_group([0, 1]) if ranks > 2 else None
    if two is not None and rank < 2:
        found["bench"] += bench(rank, 2, two)
    found["bits"] = bits(rank, ranks)
    if not rank:
        print(found["bits"], flush=True)
        if file:
            Path(file).write_text(json.dumps(found, indent=1) + "\n")
    distributed.destroy_process_group()


if __name__ == "__main__":
    number, *files = sys.argv[1:]
    torch.multiprocessing.spawn(one_rank, (int(number), files[0] if files else None), int(number))
