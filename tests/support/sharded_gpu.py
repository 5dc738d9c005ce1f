"""Sharded rows on GPUs: `python sharded_gpu.py CONFIG|bits|million|bench RANKS`, in a process for each rank.

`bits` compares 100,000 rows with unsharded ones, over NCCL; the name of one of CONFIGS does a few rows of it with all
shards in this process, which also compiles what it needs. `million` compares a million short rows in
this process. `bench` measures beside bringing the logits together.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as distributed

import detsample
from detsample import sharded
from detsample.bench.cases import llm
from detsample.sharded import rounds

VOCAB = 151_936
QUICK = "QUICK" in os.environ
ROWS = 512
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


def seeds(number: int) -> list[int]:
    """Numbers for `cases`; with QUICK those of fp32 rows in two equal shards, which need few kernels."""
    return [seed for seed in range(0, 400, 8) if seed % 5 != 3][:number] if QUICK else list(range(number))


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


def million() -> None:
    """A million rows of 4,099 tokens, with all shards in this process."""
    start, rows, wrong = time.time(), 0, 0
    for seed in range(14):
        for name, how in CONFIGS.items():
            torch.manual_seed(seed)
            logits = KINDS[(seed + len(name)) % len(KINDS)](8192, 4099)
            given = {"topp_seed": torch.randint(-(2**62), 2**62, (8192,), device="cuda"), **how(8192)}
            expected = detsample.sample(logits, **given)
            cut = int(torch.randint(0, 4100, ()))
            found = sharded.sample([logits[:, :cut], logits[:, cut:]], **given)
            wrong += sum(mismatches(one, expected) for one in found)
            rows += 8192
    print(f"million: {rows} rows in process, {wrong} mismatches, {time.time() - start:.0f} s", flush=True)


def in_process(name: str) -> None:
    start, wrong = time.time(), 0
    for seed in seeds(1 if QUICK else 6):
        for rows in (96,) if QUICK else (8, 96):
            logits, how, bounds = cases(seed, rows, name)
            shards = [logits[:, a:b] for a, b in itertools.pairwise(bounds)]
            expected = detsample.sample(logits, **how, return_mask="bool")
            kind = ("bool", None, "bits", "csr")[seed % 4]
            found = sharded.sample(shards, **how, return_mask=kind)
            bad = sum(mismatches(one, expected) for one in found)
            if kind == "bool":
                bad += int((torch.cat([one.mask for one in found], 1) != expected.mask).sum())
            if kind == "csr":
                ids = torch.cat([one.mask.token_ids + a for one, a in zip(found, bounds, strict=False)])
                bad += int(ids.sum() != expected.mask.nonzero()[:, 1].sum()) + int(len(ids) != expected.mask.sum())
            if bad:
                print(f"{name}: seed {seed}, {rows} rows, {bounds}, mask {kind}: {bad} mismatches", flush=True)
            wrong += bad
    print(f"{name}: in process, {wrong} mismatches, {time.time() - start:.0f} s", flush=True)


def bits(rank: int, ranks: int) -> None:
    rounds.ROUND_BYTES = 0  # calls that search are to search here
    rows = wrong = 0
    start = time.time()
    for seed in seeds(22):
        for name in CONFIGS:
            logits, how, ends = cases(seed if QUICK else seed * 31 + len(name), ROWS, name)
            bounds = bounds_of(ends, ranks)
            expected = detsample.sample(logits, **how)
            own = logits[:, bounds[rank] : bounds[rank + 1]]
            found = sharded.sample(own, **how, vocab_start=bounds[rank], vocab=bounds[-1])
            bad = mismatches(found, expected)
            if bad:
                print(f"{name}: seed {seed}, {bounds}, rank {rank}: {bad} mismatches", flush=True)
            rows, wrong = rows + ROWS, wrong + bad
    told = torch.tensor([wrong], device="cuda")
    distributed.all_reduce(told)
    if not rank:
        took = f"{time.time() - start:.0f} s"
        print(f"bits: {rows} rows on {ranks} GPUs, {int(told)} mismatches on all ranks, {took}", flush=True)


def replayed(calls: list[Callable[[], Any]]) -> float:
    """Microseconds a call, of replays of a graph with all calls."""
    for call in calls[:2]:
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        kept = [call() for call in calls]
    times = []
    for _ in range(7):
        distributed.barrier()
        torch.cuda.synchronize()
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) * 1000 / len(calls))
    del kept
    slowest = torch.tensor([statistics.median(times[2:])], device="cuda")
    distributed.all_reduce(slowest, op=distributed.ReduceOp.MAX)
    return round(float(slowest), 1)


def bench(rank: int, ranks: int) -> None:
    width, results = VOCAB // ranks, []
    gather = getattr(distributed, "all_gather_single", None) or distributed.all_gather_into_tensor
    for rows in (8, 64, 128, 256):
        copies = max(3, min(24, 200_000_000 // (rows * width * 4)))
        torch.manual_seed(rows)
        shards = [llm(rows, VOCAB)[:, rank * width :][:, :width].contiguous() for _ in range(copies)]
        seeds = torch.randint(-(2**62), 2**62, (rows,), device="cuda")

        def whole(own: Any) -> Any:
            parts = own.new_empty((ranks * own.shape[0], own.shape[1]))
            gather(parts, own)
            return torch.cat(parts.chunk(ranks), dim=1)

        for name in BENCHED:
            how = CONFIGS[name](rows)
            draws = sharded.plan(shards[0], seeds, vocab_start=rank * width, vocab=VOCAB, **how)
            alone = detsample.plan(whole(shards[0]), seeds, **how)
            taken = replayed([functools.partial(draws, own) for own in shards])
            usual = replayed([functools.partial(lambda draw, own: draw(whole(own)), alone, own) for own in shards])
            equal = mismatches(draws(shards[0]), alone(whole(shards[0])))
            results.append({"rows": rows, "case": name, "sharded_us": taken, "gathered_us": usual, "mismatches": equal})
            if not rank:
                print(json.dumps(results[-1]), flush=True)
        gathering = replayed([functools.partial(whole, own) for own in shards])
        if not rank:
            print(json.dumps({"rows": rows, "gather_us": gathering}), flush=True)
    if not rank and "OUT" in os.environ:
        with open(os.path.join(os.environ["OUT"], f"sharded{ranks}.json"), "w") as file:
            json.dump({"gpu": torch.cuda.get_device_name(), "ranks": ranks, "vocab": VOCAB, "results": results}, file)


def one_rank(rank: int, what: str, ranks: int) -> None:
    torch.cuda.set_device(rank)
    where, device = "tcp://127.0.0.1:29533", torch.device("cuda", rank)
    distributed.init_process_group("nccl", init_method=where, rank=rank, world_size=ranks, device_id=device)
    {"bits": bits, "bench": bench}[what](rank, ranks)
    distributed.destroy_process_group()


if __name__ == "__main__":
    if sys.argv[1] == "million":
        million()
    elif sys.argv[1] in CONFIGS:
        torch.cuda.set_device(int(sys.argv[2]))
        in_process(sys.argv[1])
    else:
        number = int(sys.argv[2])
        torch.multiprocessing.spawn(one_rank, (sys.argv[1], number), number)
