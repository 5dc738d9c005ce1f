"""Times of this checkout beside those of another one, in turn on one GPU: what a change has cost, or gained.

    git archive f9f6486 detsample reference | tar x -C /tmp/before; mv /tmp/before/reference /tmp/before/detsample/
    python tests/support/before_and_after.py /tmp/before --out docs/results/h200-before-and-after.json

Both packages are imported in one process, each with its modules put in place while it is used. Each is warmed up first,
in a process of its own, because both would otherwise be compiled one kernel after the other.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = {
    "none token": "no filter, token only", "none logz": "no filter",
    "k50p95m": "k=50 p=.95 min_p=.05", "p95": "p=.95", "minp": "min_p=.1", "mixed": "mixed",
}  # fmt: skip
"""What results call the settings of `detsample.bench.cases`."""
ROWS = (1, 8, 64, 128, 256)
PASSES = 2
REPLAYS = 12


class Checkout:
    """A package `detsample` in a folder; within the context its modules are those that are imported."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)
        self.modules: dict[str, Any] = {}

    def __enter__(self) -> Any:
        take_out()
        sys.modules.update(self.modules)
        sys.path.insert(0, self.folder)
        return importlib.import_module("detsample")

    def __exit__(self, *raised: object) -> None:
        self.modules = take_out()
        sys.path.remove(self.folder)


def take_out() -> dict[str, Any]:
    """Take the package's modules out of those that are imported, and return them."""
    names = [name for name in sys.modules if name.partition(".")[0] in ("detsample", "reference")]
    return {name: sys.modules.pop(name) for name in names}


def captured(checkout: Checkout, inputs: list[Any], seeds: Any, given: dict[str, Any]) -> tuple[Any, list[Any]]:
    """A graph with a call for each input, and the calls' results."""
    import torch

    with checkout as package:
        calls = [functools.partial(package.sample, x, seeds, **given) for x in inputs]
        with torch.cuda.stream(torch.cuda.Stream()):
            calls[0]()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            results = [call() for call in calls]
    return graph, results


def replayed(graph: Any, calls: int) -> float:
    """Microseconds of a call in one replay."""
    import torch

    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    graph.replay()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) * 1000 / calls


def timed(
    checkouts: dict[str, Checkout], inputs: list[Any], seeds: Any, given: dict[str, Any]
) -> dict[str, list[float]]:
    """For each checkout the least and the most of the medians of its passes."""
    graphs = {name: captured(checkout, inputs, seeds, given) for name, checkout in checkouts.items()}
    medians: dict[str, list[float]] = {name: [] for name in graphs}
    for _ in range(PASSES):
        for name, (graph, _results) in graphs.items():
            median = statistics.median(replayed(graph, len(inputs)) for _ in range(REPLAYS))
            medians[name].append(round(median, 1))
    return {name: [min(values), max(values)] for name, values in medians.items()}


def warmed(folder: Path) -> subprocess.Popen[bytes]:
    """A process that compiles a checkout's kernels into Triton's cache."""
    call = "sample(x, x.new_zeros(len(x)).long(), top_p=x[:, 0] * 0 + 0.9, top_k=x[:, 0].long() * 0)"
    lines = "for n in (1, 16):\n x = torch.zeros(n, 9008, device='cuda')\n detsample." + call
    return subprocess.Popen([sys.executable, "-c", f"import torch, detsample\n{lines}"], cwd=folder)


def machine() -> str:
    """What the times are of."""
    import torch
    import triton

    versions = f"Python {platform.python_version()}, torch {torch.__version__}, Triton {triton.__version__}"
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0]
    return f"{torch.cuda.get_device_name()}, driver {driver}, {versions}"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="a folder with the other checkout")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    folders = {"before": options.before.resolve(), "after": ROOT}
    for process in [warmed(folder) for folder in folders.values()]:
        process.wait()

    import torch

    checkouts = {name: Checkout(folder) for name, folder in folders.items()}
    with checkouts["after"]:
        cases = importlib.import_module("detsample.bench.cases")
        timing = importlib.import_module("detsample.bench.timing")
        report = importlib.import_module("detsample.bench.report")
    kinds: dict[str, Callable[[int, int], Any]] = {"llm": cases.llm, "x1": cases.normal(1.0)}
    times: dict[str, dict[str, list[float]]] = {}
    torch.manual_seed(1)  # a batch takes as long as its worst row: another run is to have the same batches
    for kind, make in kinds.items():
        for rows in ROWS:
            vocab = report.vocab_of(rows)
            inputs = [make(rows, vocab) for _ in range(timing.copies_for(rows * vocab * 4))]
            seeds = torch.randint(-(2**62), 2**62, (rows,), device="cuda")
            for short, name in SETTINGS.items():
                given = cases.arguments(cases.SETTINGS[name], rows)
                given.pop("return_num_kept", None)  # which the other checkout may not know
                line = timed(checkouts, inputs, seeds, given)
                times[f"{kind} {short} {rows}"] = line
                print(f"{kind} {short} {rows}: {line}", flush=True)
    found = {
        "what": "Microseconds a call, in turn on one machine in one run; least and most of the medians of two passes",
        "machine": machine(),
        "rows": "fp32, all parameters vectors; llm and randn x 1 rows, and V, as in detsample.bench",
        "times": times,
    }
    options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
