"""Checks the kernels on a GPU against the reference, bit for bit: one command for any owner of a GPU.

    python tests/gpu_report.py --framework torch --rows 1000000 --out report.json

Worker processes make cases (`cases.py`) and their reference results; this process runs the kernels on the same
inputs and compares every output as bits. A mismatch is printed, counted and makes the exit status 1. `detsample bench`
takes the times.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

OUTPUTS = ("token_ids", "num_kept", "status", "logprobs", "log_z", "mask")
SMALL = (1, 2, 3, 4, 5, 7, 8, 16, 31, 32, 33, 64, 100, 128, 257)
MIDDLE = (511, 513, 1000, 1024, 2049, 5000)
LARGE = (32000, 49152, 50257, 129280, 151936, 262144)


@dataclass(frozen=True)
class Job:
    """One batch: everything a worker needs to make it."""

    number: int
    rows: int
    vocab: int
    kind: str
    dtype: str


@dataclass(frozen=True)
class Batch:
    """A job's inputs and the reference's results, as bits."""

    job: Job
    logits: np.ndarray
    parameters: dict[str, np.ndarray]
    expected: dict[str, np.ndarray]


def jobs(rows: int, number: int) -> Iterator[Job]:
    """Jobs of `rows` rows in all: nearly all small vocabularies for the count, and each larger one with each
    case kind.
    """
    import cases

    rng = np.random.default_rng(number)
    kinds = list(cases.CASES)
    serial, done = 0, 0
    for vocab, batch in [(v, 64) for v in MIDDLE] + [(v, 4) for v in LARGE]:
        for kind in kinds:
            yield Job(
                number * 1_000_000 + serial, batch, vocab, kind, str(rng.choice(["float32", "bfloat16", "float16"]))
            )
            serial, done = serial + 1, done + batch
    while done < rows:
        vocab = int(rng.choice(SMALL))
        batch = max(256, min(16384, 400_000 // vocab, rows - done))
        kind = str(rng.choice(kinds))
        yield Job(number * 1_000_000 + serial, batch, vocab, kind, str(rng.choice(["float32", "bfloat16", "float16"])))
        serial, done = serial + 1, done + batch


def rounded(logits: np.ndarray, dtype: str) -> np.ndarray:
    """fp32 values that the type can hold."""
    if dtype == "bfloat16":
        bits = logits.view(np.uint32)
        quiet = np.where(np.isnan(logits), bits | np.uint32(0x00400000), bits)  # a NaN stays one without its low half
        return (quiet & np.uint32(0xFFFF0000)).view(np.float32)
    if dtype == "float16":
        with np.errstate(over="ignore"):
            half = logits.astype(np.float16).astype(np.float32)
        return np.where(np.isfinite(logits), np.clip(half, -65504, 65504), logits).astype(np.float32)
    return logits


def make_batch(job: Job) -> Batch:
    """A job's inputs and what the reference makes of them; runs in a worker."""
    import cases

    from detsample import reference

    rng = np.random.default_rng(job.number)
    logits = rounded(cases.CASES[job.kind](rng, job.rows, job.vocab), job.dtype)
    parameters = cases.parameters(rng, job.rows, job.vocab)
    out = reference.sample(logits, **parameters, return_log_z=True, return_mask="bits")
    return Batch(job, logits, parameters, {name: as_bits(getattr(out, name)) for name in OUTPUTS})


def as_bits(array: np.ndarray) -> np.ndarray:
    """Floats as the integers they are made of."""
    return array.view(np.int32) if array.dtype == np.float32 else array


class Torch:
    """torch's side of the check."""

    name = "torch"

    def __init__(self) -> None:
        import torch

        self.torch = torch
        self.version = torch.__version__

    def tensor(self, array: np.ndarray, dtype: str | None = None) -> Any:
        """An array on the GPU, perhaps in another element type, into which it converts exactly."""
        moved = self.torch.from_numpy(np.ascontiguousarray(array)).cuda()
        return moved if dtype is None else moved.to(getattr(self.torch, dtype))

    def array(self, tensor: Any) -> np.ndarray:
        """A tensor back on the host."""
        return tensor.cpu().numpy()


class Paddle:
    """Paddle's side of the check; it converts types on the host, so that no kernel of Paddle's takes part."""

    name = "paddle"

    def __init__(self) -> None:
        import paddle

        self.paddle = paddle
        self.version = paddle.__version__
        paddle.set_device("gpu:0")

    def tensor(self, array: np.ndarray, dtype: str | None = None) -> Any:
        """An array on the GPU; Paddle takes uint16 for the bits of bfloat16."""
        if dtype == "bfloat16":
            array = (array.view(np.uint32) >> 16).astype(np.uint16)
        elif dtype is not None:
            array = array.astype(dtype)
        return self.paddle.to_tensor(np.ascontiguousarray(array), place=self.paddle.CUDAPlace(0))

    def array(self, tensor: Any) -> np.ndarray:
        """A tensor back on the host."""
        return tensor.numpy()


def run_on_gpu(framework: Any, batch: Batch) -> dict[str, np.ndarray]:
    """The kernels' results for a batch, as bits."""
    import detsample

    logits = framework.tensor(batch.logits, None if batch.job.dtype == "float32" else batch.job.dtype)
    parameters = {name: framework.tensor(value) for name, value in batch.parameters.items()}
    out = detsample.sample(logits, **parameters, return_log_z=True, return_mask="bits")
    return {name: as_bits(framework.array(getattr(out, name))) for name in OUTPUTS}


def compare(batch: Batch, found: dict[str, np.ndarray], report: dict[str, Any]) -> None:
    """Count a batch's rows, and its mismatches by output."""
    report["rows"] += batch.job.rows
    report["tokens"] += batch.job.rows * batch.job.vocab
    by_kind = report["rows_by_kind"]
    by_kind[batch.job.kind] = by_kind.get(batch.job.kind, 0) + batch.job.rows
    for name, expected in batch.expected.items():
        same = (expected == found[name]).reshape(batch.job.rows, -1).all(axis=1)
        bad = np.flatnonzero(~same)
        if bad.size:
            report["mismatches"][name] = report["mismatches"].get(name, 0) + int(bad.size)
            row = int(bad[0])
            values = {key: value[row].item() for key, value in batch.parameters.items()}
            print(f"MISMATCH {batch.job} {name}: {bad.size} rows, the first is row {row}, {values}", flush=True)


def check(framework: Any, rows: int, number: int, processes: int, seconds: float) -> dict[str, Any]:
    """The whole comparison, or as much of it as the time allows."""
    report: dict[str, Any] = {"rows": 0, "tokens": 0, "mismatches": {}, "rows_by_kind": {}}
    started = time.monotonic()
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes) as pool:
        for batch in pool.imap_unordered(make_batch, jobs(rows, number), chunksize=1):
            compare(batch, run_on_gpu(framework, batch), report)
            passed = time.monotonic() - started
            if report["rows"] // 1_000_000 > (report["rows"] - batch.job.rows) // 1_000_000:
                print(f"{report['rows']} rows, {passed:.0f} s, mismatches {report['mismatches']}", flush=True)
            if passed > seconds:
                break
    report["seconds"] = round(time.monotonic() - started, 1)
    return report


def machine(framework: Any) -> dict[str, str]:
    """What the results were taken on."""
    import triton

    import detsample

    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    gpu, driver = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()[0].split(", ")
    return {
        "gpu": gpu, "driver": driver, "python": platform.python_version(), "triton": triton.__version__,
        "framework": f"{framework.name} {framework.version}", "numpy": np.__version__,
        "detsample": detsample.__version__, "contract": str(detsample.CONTRACT_VERSION),
    }  # fmt: skip


def main() -> int:
    """Run the check and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--framework", choices=["torch", "paddle"], default="torch")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000, help="of the cases; default: fresh")
    parser.add_argument("--processes", type=int, default=max(1, (multiprocessing.cpu_count() or 2) - 1))
    parser.add_argument("--seconds", type=float, default=3600.0, help="end the check after this long, with fewer rows")
    parser.add_argument("--errors", action="store_true", help="also measure errors over all inputs (torch)")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    framework = Torch() if options.framework == "torch" else Paddle()
    report: dict[str, Any] = {"machine": machine(framework), "seed": options.seed}
    report["check"] = check(framework, options.rows, options.seed, options.processes, options.seconds)
    red = bool(report["check"]["mismatches"])
    if options.errors:
        import gpu_errors

        report["errors"] = gpu_errors.errors()
    print(json.dumps(report, indent=1))
    if options.out:
        options.out.write_text(json.dumps(report, indent=1) + "\n")
    return int(red)


if __name__ == "__main__":
    sys.exit(main())
