"""Readers fuzzed by Atheris: an input that reaches a new branch of this package is kept, and changed further.

    pip install atheris
    python tests/support/guided_fuzzing.py --runs 100000 --out docs/results/guided-fuzzing.json --keep

`fuzzing.py` says what a reader may do with an input, and makes most of the changes. libFuzzer ends a process for a
traceback, a crash, ten seconds or 2 GB with one input; each reader has a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import fuzzing

LONGEST = 1 << 14
KEPT = 24
"""The most inputs of a reader that `--keep` adds to the corpus: the smallest."""


def fuzz(name: str, runs: int, grown: Path, told: Path) -> None:
    """Fuzz one reader; ends the process."""
    import atheris

    with atheris.instrument_imports(include=["detsample"]):
        from detsample import golden, rollout  # noqa: F401
        from detsample.golden import record  # noqa: F401
        from detsample.rollout import folder, parquet, validity  # noqa: F401

    counts: Counter[str] = Counter()
    path = Path(tempfile.mkdtemp(dir=fuzzing.in_memory())) / fuzzing.NAMES[name]

    def one(content: bytes) -> None:
        path.write_bytes(fuzzing.SEALED.get(name, bytes)(content))
        counts[fuzzing.READERS[name](path)] += 1
        if counts.total() % 500 == 0 or counts.total() >= runs:
            told.write_text(json.dumps(counts))

    def mutate(content: bytes, longest: int, seed: int) -> bytes:
        if seed % 4 == 0:
            return bytes(atheris.Mutate(content, longest))
        return fuzzing.other(name, random.Random(seed), content)[:longest]

    limits = [
        "-timeout=10",
        "-rss_limit_mb=2048",
        f"-max_len={LONGEST}",
        f"-artifact_prefix={grown}-",
        "-mutate_depth=1",
    ]
    for number, content in enumerate(fuzzing.corpus(name)):
        (grown / f"seed-{number}").write_bytes(content)
    given = [*limits, f"-runs={runs}", str(grown)]
    atheris.Setup([sys.argv[0], *given], one, custom_mutator=mutate)
    atheris.Fuzz()


def main() -> None:
    """Fuzz the readers one after the other, and write down what was seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100_000, help="inputs of all readers together")
    parser.add_argument("--keep", action="store_true", help="add to tests/data/corpus/grown what reached something new")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        name, grown, told = options.one
        fuzz(name, options.runs, Path(grown), Path(told))
    found = guided(options.runs, options.keep)
    print(json.dumps(found, indent=2))
    if options.out:
        options.out.write_text(json.dumps(found, indent=2) + "\n")


def guided(runs: int, keep: bool = False) -> dict[str, object]:
    """Fuzz all readers; what was seen. A finding is an AssertionError that has what libFuzzer said."""
    started, readers = time.monotonic(), {}
    for name, share in fuzzing.SHARES.items():
        with tempfile.TemporaryDirectory() as made:
            grown, told = Path(made) / name, Path(made) / "told"
            grown.mkdir()
            _process(name, runs * share // sum(fuzzing.SHARES.values()), grown, told)
            new = [path for path in grown.iterdir() if not path.name.startswith("seed-")]
            begun = len(fuzzing.corpus(name))
            readers[name] = {**json.loads(told.read_text()), "began_with": begun, "reached_something_new": len(new)}
            for path in sorted(new, key=lambda path: path.stat().st_size)[: KEPT if keep else 0]:
                folder = fuzzing.CORPUS / "grown" / name
                folder.mkdir(parents=True, exist_ok=True)
                (folder / path.name[:16]).write_bytes(path.read_bytes())
    return {
        "what": "files changed by Atheris towards branches of this package not reached before; golden files and "
        "records are sealed anew; each input was refused by name or read as a whole record",
        "inputs": sum(r.get("read", 0) + r.get("refused", 0) for r in readers.values()),
        "by_reader": readers,
        "tracebacks": 0,
        "hangs_of_10_seconds": 0,
        "crashes": 0,
        "limit_of_memory_mb": 2048,
        "seconds": round(time.monotonic() - started),
        "python": platform.python_version(),
    }


def _process(name: str, runs: int, grown: Path, told: Path) -> None:
    command = [sys.executable, __file__, "--runs", str(runs), "--one", name, str(grown), str(told)]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, env=os.environ | {"PYTHONPATH": str(root)})
    if done.returncode:
        kept = Path(tempfile.mkdtemp()) / "found"
        for file in grown.parent.glob(f"{name}-*"):
            file.rename(f"{kept}-{file.name}")
        raise AssertionError(f"{name}, the input is {kept}-*: {done.stdout[-2000:]}{done.stderr[-4000:]}")


if __name__ == "__main__":
    main()
