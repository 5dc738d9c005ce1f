"""How long an eager call keeps the host, beside an empty Triton launch: one command, with or without a GPU.

    python tests/support/host_time.py
    python tests/support/host_time.py --fake --profile

With a GPU that torch sees, calls are timed one by one with the GPU idle before each. Without, or with `--fake`, CUDA's
driver is a stand-in that does nothing (`fake_gpu.py`; it needs a C compiler): Python, torch's allocations (on the CPU)
and Triton's launchers in C are real, and what is missing is the time inside CUDA, some 2 us a launch.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import triton

VOCABULARY = 151936
SETTINGS: dict[str, dict[str, Any]] = {
    "all parameters vectors": {"temperature": 0.8, "top_k": 50, "top_p": 0.95, "min_p": 0.05},
    "no filter, token only, parameters numbers": {"return_logprobs": False},
    "logprobs, log_z and bits": {"top_p": 0.95, "return_log_z": True, "return_mask": "bits"},
}


@triton.jit
def nothing(x):  # type: ignore[no-untyped-def]
    """An empty kernel."""


def vectors(setting: dict[str, Any], rows: int, device: str) -> dict[str, Any]:
    """Keyword arguments of `sample`, every parameter a vector; switches as they are."""
    types = {int: torch.int64, float: torch.float32}
    given = {
        name: torch.full((rows,), value, dtype=types[type(value)], device=device) if type(value) in types else value
        for name, value in setting.items()
    }
    return {**given, "position": torch.arange(rows, device=device)}


def times(call: Callable[[], Any], repeats: int, wait: Callable[[], None]) -> dict[str, float]:
    """Microseconds a call: the median, and the least, which other work on the machine disturbs less."""
    found = []
    for _ in range(repeats):
        wait()
        start = time.perf_counter()
        call()
        found.append((time.perf_counter() - start) * 1e6)
    return {"median": round(statistics.median(found), 1), "least": round(min(found), 1)}


def calls(rows: int, device: str) -> dict[str, Callable[[], Any]]:
    """What is timed."""
    import detsample

    logits = torch.zeros(rows, VOCABULARY, device=device)
    seeds = torch.arange(rows, device=device)

    def sampling(given: dict[str, Any]) -> Callable[[], Any]:
        return lambda: detsample.sample(logits, seeds, **given)

    empty = torch.zeros(1, device=device)
    if device == "cpu":  # the stand-in's memory, which Triton's launch would take for the host's
        from detsample.frameworks.buffer import Buffer

        pointer: Any = Buffer(empty.data_ptr(), "float32", empty)
    else:
        pointer = empty
    launch = nothing[(1,)]
    named: dict[str, Callable[[], Any]] = {"an empty Triton launch": lambda: launch(pointer, enable_fp_fusion=False)}
    named |= {name: sampling(vectors(setting, rows, device)) for name, setting in SETTINGS.items()}
    for name, setting in SETTINGS.items():
        draw = detsample.plan(logits, seeds, **vectors(setting, rows, device))
        named[f"{name}, planned"] = partial(draw, logits)
    return named


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3000)
    parser.add_argument("--fake", action="store_true", help="use the stand-in although there is a GPU")
    parser.add_argument("--profile", action="store_true", help="also say where the time of the first setting goes")
    options = parser.parse_args()
    fake = options.fake or not torch.cuda.is_available()
    if fake:
        import fake_gpu

        fake_gpu.pretend()
    timed = calls(options.rows, "cpu" if fake else "cuda")
    wait = (lambda: None) if fake else torch.cuda.synchronize
    for call in timed.values():
        call()
    found = {name: times(call, options.repeats, wait) for name, call in timed.items()}
    gpu = "a stand-in" if fake else torch.cuda.get_device_name()
    print(json.dumps({"gpu": gpu, "rows": options.rows, "triton": triton.__version__, "microseconds": found}, indent=1))
    if options.profile:
        with cProfile.Profile() as profile:
            for _ in range(options.repeats):
                timed["all parameters vectors"]()
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)


if __name__ == "__main__":
    main()
