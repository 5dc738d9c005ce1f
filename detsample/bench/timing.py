"""How times are measured: as medians of replays of CUDA graphs that read each input once, which the cache is cleared of
before.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

COLD_BYTES = 200_000_000
"""More than three times an H200's L2 cache."""


def copies_for(nbytes: int) -> int:
    """How many inputs of this size to rotate through: enough to fill the cache, but 4 to 64."""
    return max(4, min(64, -(-COLD_BYTES // max(nbytes, 1))))


def microseconds(calls: Sequence[Callable[[], Any]], replays: int = 12) -> float:
    """Time of a call: the median over replays of one graph that makes each call once, by the GPU's own clock."""
    with torch.cuda.stream(torch.cuda.Stream()):
        for call in calls:
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # NCCL has a thread that asks about events
        kept = [call() for call in calls]
    times = []
    others = torch.empty(COLD_BYTES, dtype=torch.uint8, device="cuda")
    for _ in range(replays):
        others.zero_()  # takes the place of what the last replay left in the cache
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) * 1000 / len(calls))
    del kept
    return statistics.median(times)


def host_microseconds(call: Callable[[], Any], repeats: int = 200) -> float:
    """The time that an eager call takes the host: the median, with the GPU idle before each call."""
    times = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e6)
    return statistics.median(times)
