"""Checks the kernels on a GPU against the reference, bit for bit: one command for any owner of a GPU.

    python tests/support/gpu_report.py --framework torch --rows 1000000 --out report.json

Worker processes make cases (`cases.py`) and their reference results; this process runs the kernels on the same
inputs and compares every output as bits. A mismatch is printed, counted and makes the exit status 1. `detsample bench`
takes the times. Without a GPU, a few small rows go through Triton's interpreter:

    python tests/support/gpu_report.py --framework interpreter --rows 100 --largest 64 --batch 2
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

OUTPUTS = ("token_ids", "num_kept", "status", "logprobs", "log_z", "mask")
ALONE = ("token_ids", "status")
"""What is also asked for alone: the token may then be settled by another way."""
SMALL = (1, 2, 3, 4, 5, 7, 8, 16, 31, 32, 33, 64, 100, 128, 257)
MIDDLE = (511, 513, 1000, 1024, 2049, 5000)
LARGE = (32000, 49152, 50257, 129280, 151936, 262144)
DTYPES = ("float32", "bfloat16", "float16")
MASKS = {"bits": 0.8, "bool": 0.1, "csr": 0.1}
"""Forms of masks, and how often they are asked for."""
LAYOUTS = {"dense": 0.8, "aligned": 0.1, "odd": 0.1}
"""How rows lie in memory: one behind the other; each on 16 bytes, with a gap; an odd number of elements apart."""
SCALARS = 0.15
"""How often numbers stand for some of a batch's parameters."""
ORDERS = {"top_k_first": 0.4, "min_p_first": 0.3, "joint": 0.3}
"""Orders of filters, and how often they are asked for."""
LEAST = {"exact_half_boundaries": 4, "score_ties": 2}
"""Kinds of cases with parameters of their own, and the smallest vocabulary that they are made for."""
MOST_TIES = 14
"""Rows of `score_ties` in a batch: two of each kind. Each takes tens of milliseconds to find."""


@dataclass(frozen=True)
class Job:
    """One batch: everything a worker needs to make it."""

    number: int
    rows: int
    vocab: int
    kind: str
    dtype: str
    mask: str = "bits"
    layout: str = "dense"
    scalars: bool = False
    filter_order: str = "top_k_first"


@dataclass(frozen=True)
class Batch:
    """A job's inputs and the reference's results, as bits."""

    job: Job
    logits: np.ndarray
    """The rows, and perhaps more columns: see `in_memory`."""
    parameters: dict[str, Any]
    """Vectors, or numbers."""
    expected: dict[str, np.ndarray]


def kinds() -> list[str]:
    """The names of all kinds of cases."""
    import cases

    return [*cases.CASES, *LEAST]


def jobs(rows: int, number: int, largest: int = LARGE[-1], most: int = 16384) -> Iterator[Job]:
    """Jobs of `rows` rows in all: nearly all small vocabularies for the count, and each larger one with each
    case kind. No vocabulary beyond `largest`, no batch of more than `most` rows.
    """
    rng = np.random.default_rng(number)
    serial, done = 0, 0
    for vocab, batch in [(v, 64) for v in MIDDLE] + [(v, 4) for v in LARGE]:
        for kind in kinds() if vocab <= largest else ():
            job = _job(rng, number * 1_000_000 + serial, min(batch, most), vocab, kind)
            serial, done = serial + 1, done + job.rows
            yield job
    while done < rows:
        kind = str(rng.choice(kinds()))
        vocab = max(LEAST.get(kind, 1), int(rng.choice([v for v in SMALL if v <= largest])))
        batch = min(most, max(256, min(16384, 400_000 // vocab, rows - done)))
        job = _job(rng, number * 1_000_000 + serial, batch, vocab, kind)
        serial, done = serial + 1, done + job.rows
        yield job


def _job(rng: np.random.Generator, number: int, rows: int, vocab: int, kind: str) -> Job:
    """A job with all else by chance."""
    ties = kind == "score_ties"
    dtype = "float32" if ties else str(rng.choice(DTYPES))  # rounding would break the ties
    mask, layout, order = (str(rng.choice(list(table), p=list(table.values()))) for table in (MASKS, LAYOUTS, ORDERS))
    if kind in LEAST:
        order = "top_k_first"
    scalars = kind not in LEAST and bool(rng.random() < SCALARS)
    return Job(number, min(rows, MOST_TIES) if ties else rows, vocab, kind, dtype, mask, layout, scalars, order)


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
    from detsample import reference

    rng = np.random.default_rng(job.number)
    logits, parameters = inputs(rng, job)
    wanted = {"filter_order": job.filter_order, "return_log_z": True, "return_mask": job.mask}
    out = reference.sample(logits, **parameters, **wanted)
    expected = results(out, np.asarray)
    expected |= {f"{name} alone": expected[name] for name in ALONE}
    return Batch(job, in_memory(logits, job.layout), parameters, expected)


def inputs(rng: np.random.Generator, job: Job) -> tuple[np.ndarray, dict[str, Any]]:
    """The logits of a job, in fp32, and its parameters."""
    import cases

    from detsample import reference

    made: Any = None
    if job.kind == "exact_half_boundaries":
        made = cases.exact_half_boundaries(rng, job.rows, job.vocab)
    elif job.kind == "score_ties":
        made = cases.score_ties(reference.gumbel_noise, rng, job.rows, job.vocab)
    if made is not None:
        return rounded(made.logits, job.dtype), made.parameters
    logits = rounded(cases.CASES[job.kind](rng, job.rows, job.vocab), job.dtype)
    parameters: dict[str, Any] = cases.parameters(rng, job.rows, job.vocab)
    if job.scalars:
        numbers = {key: value.item() for key, value in cases.parameters(rng, 1, job.vocab, invalid=False).items()}
        # As numbers, shares above 1 are refused.
        numbers |= {name: min(numbers[name], 1.0) for name in ("top_p", "min_p")}
        parameters |= {key: value for key, value in numbers.items() if rng.random() < 0.6}
    return logits, parameters


def in_memory(logits: np.ndarray, layout: str) -> np.ndarray:
    """Rows as the layout says, with NaN in the columns behind them, which nobody may look at."""
    vocab = logits.shape[1]
    gap = {"dense": 0, "aligned": 16 + -vocab % 16, "odd": 1 + vocab % 2}[layout]
    return np.pad(logits, ((0, 0), (0, gap)), constant_values=np.nan)


def results(out: Any, array: Any) -> dict[str, np.ndarray]:
    """An output as bits, by what brings its tensors to the host; a "csr" mask as its offsets, then its tokens."""
    found = {name: as_bits(array(getattr(out, name))) for name in OUTPUTS if name != "mask"}
    if hasattr(out.mask, "row_offsets"):
        return found | {"mask": np.append(array(out.mask.row_offsets), array(out.mask.token_ids))}
    return found | {"mask": array(out.mask)}


def as_bits(array: np.ndarray) -> np.ndarray:
    """Floats as the integers they are made of."""
    return array.view(np.int32) if array.dtype == np.float32 else array


class OnGpu:
    """What the frameworks have in common."""

    name = ""

    def prepare(self) -> None:
        """Compile all kernels, on all processors."""
        import detsample

        print(f"{detsample.warmup(self.name)} kernels compiled", flush=True)

    def sample(self, logits: Any, **how: Any) -> Any:
        """The kernels, through the call that users make."""
        import detsample

        return detsample.sample(logits, **how, shared_noise=True)

    def device(self) -> tuple[str, str]:
        """The GPU's name and its driver's version."""
        query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        told = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()[0]
        gpu, driver = told.split(", ")
        return gpu, driver


class Torch(OnGpu):
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


class Paddle(OnGpu):
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


class Interpreter:
    """Arrays, and the kernels in Triton's interpreter."""

    name = "numpy"
    version = np.__version__

    def prepare(self) -> None:
        """Nothing is compiled."""

    def tensor(self, array: np.ndarray, dtype: str | None = None) -> Any:
        """An array, in the element type if NumPy has it: the values are the same in fp32."""
        return array.astype(dtype) if dtype == "float16" else array

    def array(self, tensor: Any) -> np.ndarray:
        """The array itself."""
        return np.asarray(tensor)

    def sample(self, logits: Any, **how: Any) -> Any:
        """The kernels, without a GPU."""
        import kernel_path

        with np.errstate(all="ignore"):  # the kernels compute more than they use
            return kernel_path.sample(logits, **how)

    def device(self) -> tuple[str, str]:
        """What stands for a GPU's name and its driver's version."""
        return "none: Triton's interpreter", "none"


FRAMEWORKS = {"torch": Torch, "paddle": Paddle, "interpreter": Interpreter}


def run_kernels(framework: Any, batch: Batch) -> dict[str, np.ndarray]:
    """The kernels' results for a batch, as bits."""
    job = batch.job
    logits = framework.tensor(batch.logits, None if job.dtype == "float32" else job.dtype)
    parameters = {
        name: framework.tensor(value) if isinstance(value, np.ndarray) else value
        for name, value in batch.parameters.items()
    }
    rows = logits if job.layout == "dense" else logits[:, : job.vocab]
    parameters["filter_order"] = job.filter_order
    found = framework.sample(rows, **parameters, return_log_z=True, return_mask=job.mask)
    alone = framework.sample(rows, **parameters, return_logprobs=False, return_num_kept=False)
    told = {f"{name} alone": framework.array(getattr(alone, name)) for name in ALONE}
    return results(found, framework.array) | told


def wrong_rows(batch: Batch, name: str, found: np.ndarray) -> np.ndarray:
    """The rows of which an output differs."""
    expected, rows = batch.expected[name], batch.job.rows
    if name != "mask" or batch.job.mask != "csr":
        return np.flatnonzero((expected != found).reshape(rows, -1).any(axis=1))
    if found.size < expected.size:
        return np.arange(rows)
    # The tokens of a "csr" mask may be followed by any number of -1.
    places = np.flatnonzero(np.pad(expected, (0, found.size - expected.size), constant_values=-1) != found)
    of_tokens = np.searchsorted(expected[: rows + 1], places - (rows + 1), side="right") - 1
    return np.unique(np.where(places <= rows, places, of_tokens).clip(0, rows - 1))


def compare(batch: Batch, found: dict[str, np.ndarray], report: dict[str, Any]) -> None:
    """Count a batch's rows, and its mismatches by output."""
    report["rows"] += batch.job.rows
    report["tokens"] += batch.job.rows * batch.job.vocab
    by_kind = report["rows_by_kind"]
    by_kind[batch.job.kind] = by_kind.get(batch.job.kind, 0) + batch.job.rows
    for name in batch.expected:
        bad = wrong_rows(batch, name, found[name])
        if bad.size:
            report["mismatches"][name] = report["mismatches"].get(name, 0) + int(bad.size)
            row = int(bad[0])
            values = {key: value[row].item() if np.ndim(value) else value for key, value in batch.parameters.items()}
            print(f"MISMATCH {batch.job} {name}: {bad.size} rows, the first is row {row}, {values}", flush=True)


def check(framework: Any, todo: Iterator[Job], processes: int, seconds: float) -> dict[str, Any]:
    """The whole comparison, or as much of it as the time allows."""
    report: dict[str, Any] = {"rows": 0, "tokens": 0, "mismatches": {}, "rows_by_kind": {}}
    started = time.monotonic()
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes) as pool:
        for batch in pool.imap_unordered(make_batch, todo, chunksize=1):
            compare(batch, run_kernels(framework, batch), report)
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

    gpu, driver = framework.device()
    return {
        "gpu": gpu, "driver": driver, "python": platform.python_version(), "triton": triton.__version__,
        "framework": f"{framework.name} {framework.version}", "numpy": np.__version__,
        "detsample": detsample.__version__, "contract": str(detsample.CONTRACT_VERSION),
    }  # fmt: skip


def main() -> int:
    """Run the check and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--framework", choices=list(FRAMEWORKS), default="torch")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000, help="of the cases; default: fresh")
    parser.add_argument("--largest", type=int, default=LARGE[-1], help="leave out vocabularies beyond this")
    parser.add_argument("--batch", type=int, default=16384, help="rows that one call has at most")
    parser.add_argument("--processes", type=int, default=max(1, (multiprocessing.cpu_count() or 2) - 1))
    parser.add_argument("--seconds", type=float, default=3600.0, help="end the check after this long, with fewer rows")
    parser.add_argument("--errors", action="store_true", help="also measure errors over all inputs (torch)")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.framework == "interpreter":
        os.environ["TRITON_INTERPRET"] = "1"
    framework = FRAMEWORKS[options.framework]()
    report: dict[str, Any] = {"machine": machine(framework), "seed": options.seed}
    framework.prepare()
    todo = jobs(options.rows, options.seed, options.largest, options.batch)
    report["check"] = check(framework, todo, options.processes, options.seconds)
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
