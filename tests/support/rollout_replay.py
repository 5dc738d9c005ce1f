"""The replay of a long record: time, memory, bytes a token, and a planted wrong token that must be found.

    python tests/support/rollout_replay.py --tokens 10000000 --out docs/results/rollout-replay.json

The logits of a token are a row of a table, chosen by its sequence and position, so that a record of any length can be
made and replayed without a model.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import os
import platform
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

VOCAB = 64
LENGTH = 1000
"""Tokens in a sequence."""


@functools.cache
def table() -> np.ndarray:
    """Logits of 4,096 states."""
    return np.random.default_rng(7).standard_normal((4096, VOCAB), dtype=np.float32) * np.float32(2)


def logits_of(record: Any) -> np.ndarray:
    """The logits of a record's tokens."""
    return logits_at(record.sequence, record.position)


def logits_at(sequence: np.ndarray, position: np.ndarray) -> np.ndarray:
    """The logits of tokens, by sequence and position."""
    mixed = (sequence.astype(np.uint64) << np.uint64(20) | position.astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
    return table()[(mixed >> np.uint64(52)).astype(np.int64)]


def make(folder: Path, tokens: int) -> None:
    """Draw a record as an actor would: many sequences at a time, one position after the other."""
    from detsample import rollout

    rows = min(tokens // LENGTH, 1 << 12)
    with rollout.Writer(folder, batch_tokens=1 << 18) as writer:
        for first in range(0, tokens // LENGTH, rows):
            sequence = np.arange(first, min(first + rows, tokens // LENGTH))
            seeds = sequence * 7919 + 12345
            for position in range(LENGTH):
                at = np.full(len(sequence), position)
                drawn = rollout.draw(
                    logits_at(sequence, at), seeds, position=position, temperature=0.8, top_p=0.9, top_k=40
                )
                writer.append(drawn, sequence=sequence)


def plant(folder: Path, fraction: float) -> tuple[int, int, str]:
    """Change one token to another of its kept set, log probabilities and all; (sequence, position, file)."""
    from detsample import rollout
    from detsample.rollout import parquet

    files = rollout.files(folder)
    file = files[int(fraction * len(files))]
    record = parquet.read(file)
    assert record.kept is not None
    choice = np.flatnonzero((record.num_kept > 2) & ~record.kept.dropped)
    row = int(choice[len(choice) // 2])
    listed = record.kept.rows([row]).token_ids
    token = int(listed[listed != record.token_ids[row]][0])
    seen = rollout.observe(
        logits_of(record.rows([row])), np.array([token]), record.kept.rows([row]).bits(), temperature=0.8
    )
    changed = {name: getattr(record, name).copy() for name in ("token_ids", "logprobs", "raw_logprobs", "rank")}
    changed["token_ids"][row] = token
    for name in ("logprobs", "raw_logprobs", "rank"):
        changed[name][row] = getattr(seen, name)[0]
    with file.open("wb") as out:
        parquet.write(out, replace(record, **changed))
    return int(record.sequence[row]), int(record.position[row]), file.name


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """What a function returns, and its seconds."""
    started = time.monotonic()
    return function(), round(time.monotonic() - started, 1)


def main() -> None:
    """Make, replay, spoil, replay again, and write down what was seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=10_000_000)
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    from detsample import rollout
    from detsample.cli.progress import Progress

    def audit(folder: Path) -> Any:
        told = Progress("tokens", options.tokens)
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(options.processes, mp_context=context) as pool:
            return rollout.audit(folder, logits_of, executor=pool, progress=lambda done, _: told.at(done))

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _, making = timed(lambda: make(folder, options.tokens))
        size = sum(file.stat().st_size for file in rollout.files(folder))
        clean, replaying = timed(lambda: audit(folder))
        assert clean.same, str(clean)
        assert clean.tokens == options.tokens, clean.tokens
        sequence, position, file = plant(folder, 0.6)
        spoilt, again = timed(lambda: audit(folder))
        (bad,) = spoilt.bad
        first = bad.replay.first
        assert (bad.path.name, first.sequence, first.position) == (file, sequence, position), str(spoilt)
        assert bad.replay.kinds == {"token_ids": 1}, str(spoilt)
    found = {
        "what": "a synthetic record drawn, written, replayed bit by bit; then one token changed, and found",
        "tokens": options.tokens,
        "vocabulary": VOCAB,
        "files": len(clean.files),
        "bytes_a_token": round(size / options.tokens, 1),
        "processes": options.processes,
        "seconds_to_draw_and_write": making,
        "seconds_to_replay": replaying,
        "replayed_tokens_a_second": round(options.tokens / replaying),
        "largest_worker_MiB": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024),
        "writer_and_parent_MiB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "planted": {"sequence": sequence, "position": position, "file": file.partition("-")[0]},
        "found": str(first),
        "seconds_to_find": again,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "processor": _processor(),
    }
    print(json.dumps(found, indent=2))
    if options.out:
        options.out.write_text(json.dumps(found, indent=2) + "\n")


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
