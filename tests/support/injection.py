"""Every call of the system, and every allocation, fails once: is anything lost, doubled or left unusable?

    python tests/support/injection.py --failures 10000 --out docs/results/injection.json

As SQLite is tested: a scenario is run with its first call failing, then with its second, until one run has no failure
left. After each, what is on the disk is read and compared, and the same writer, file or reader is used again.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import pathlib
import platform
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from detsample import golden, rollout
from detsample.rollout import parquet

CALLS = ("open", "fsync", "fstat", "replace", "rename", "link", "unlink", "mkdir", "close")
"""Of `os`; and of files that are open `write`, `flush` and `read`."""
ERRORS: dict[str, Callable[[], BaseException]] = {
    "full": lambda: OSError(errno.ENOSPC, "No space left on device"),
    "broken": lambda: OSError(errno.EIO, "Input/output error"),
    "signal": KeyboardInterrupt,
}


class Faults:
    """Counts calls and lets one fail, before it is made or, with `late`, when it has been made."""

    def __init__(self, at: int, error: Callable[[], BaseException], late: bool) -> None:
        self.at, self.error, self.late, self.seen, self.on = at, error, late, 0, False

    def call(self, real: Callable[..., Any], *given: Any, **named: Any) -> Any:
        """Make a call, or not."""
        if not self.on:
            return real(*given, **named)
        self.seen += 1
        if self.seen != self.at:
            return real(*given, **named)
        self.on = False  # one failure; what cleans up behind it works
        if self.late:
            found = File.half(real.__self__, *given) if real.__name__ == "write" else real(*given, **named)
            if isinstance(found, int) and real is REAL["open"]:
                REAL["close"](found)
        raise self.error()


class File:
    """An open file whose calls may fail; a write that fails has written half."""

    def __init__(self, file: Any, faults: Faults) -> None:
        self._file, self._faults = file, faults

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._file, name)
        if name not in ("write", "flush", "read"):
            return real
        return lambda *given: self._faults.call(real, *given)

    @staticmethod
    def half(file: Any, content: Any) -> Any:
        """Write the first half."""
        return file.write(memoryview(content)[: len(content) // 2])

    def __enter__(self) -> File:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


REAL = {name: getattr(os, name) for name in CALLS}


@contextmanager
def failing(faults: Faults) -> Iterator[None]:
    """Inside, one call fails."""
    real_open, real_fdopen = pathlib.Path.open, os.fdopen

    def opened(path: Path, *given: Any, **named: Any) -> Any:
        return File(faults.call(real_open, path, *given, **named), faults)

    def call(name: str) -> Callable[..., Any]:
        return lambda *given, **named: faults.call(REAL[name], *given, **named)

    try:
        for name in CALLS:
            setattr(os, name, call(name))
        pathlib.Path.open = opened  # type: ignore[method-assign,assignment]
        os.fdopen = lambda *given, **named: File(real_fdopen(*given, **named), faults)  # type: ignore[assignment]
        faults.on = True
        yield
    finally:
        faults.on = False
        for name in CALLS:
            setattr(os, name, REAL[name])
        pathlib.Path.open, os.fdopen = real_open, real_fdopen  # type: ignore[method-assign]


@contextmanager
def starving(at: int) -> Iterator[None]:
    """Inside, one allocation of Python's fails."""
    import _testcapi

    _testcapi.set_nomemory(at, at + 1)
    try:
        yield
    finally:
        _testcapi.remove_mem_hooks()


# ---- scenarios: what is done, and what must hold behind a failure

V = 12


def _part(number: int) -> rollout.Record:
    x = np.random.default_rng(number).standard_normal((2, V), dtype=np.float32)
    drawn = rollout.draw(x, np.arange(2), position=number, top_p=0.9, top_n=1)
    return rollout.Record.of(drawn, [2 * number, 2 * number + 1])


PARTS = [_part(number) for number in range(3)]
GOLDEN: list[tuple[golden.Golden, np.ndarray]] = []
for _seed in (1, 2):
    _x = np.random.default_rng(_seed).standard_normal((2, V), dtype=np.float32)
    GOLDEN.append((golden.record(_x, np.arange(2)), _x))


def _there(folder: Path) -> list[int]:
    return sorted(s for record in rollout.read(folder) for s in record.sequence.tolist())


def write(folder: Path, inject: Callable[[], Any]) -> BaseException | None:
    """A writer of three parts, of which each two become a file."""
    writer: rollout.Writer | None = None
    raised, number = None, 0
    try:
        with inject():
            writer = rollout.Writer(folder, batch_tokens=4)
            for part in PARTS:
                writer.append(part)
                number += 1
            writer.flush()
    except BaseException as error:
        raised = error
    if writer is None:
        writer = rollout.Writer(folder, batch_tokens=4)
    held = writer.durable + writer.pending
    taken = held // 2
    if held % 2 or taken not in (number, number + 1):
        raise AssertionError(f"{held} tokens are held behind {number} calls that returned")
    found = _there(folder)
    if found != list(range(len(found))) or len(found) < writer.durable:
        raise AssertionError(f"{writer.durable} tokens were durable, there are {found}")
    for part in PARTS[taken:]:
        writer.append(part)
    writer.close()
    if _there(folder) != list(range(6)) or writer.durable != 6:
        raise AssertionError(f"wrote 6 tokens, {writer.durable} are durable, there are {_there(folder)}")
    return raised


def save(folder: Path, inject: Callable[[], Any]) -> BaseException | None:
    """A golden file with its logits, written anew over another."""
    file, raised = folder / "g.json", None
    golden.save(*_swapped(GOLDEN[0], file))
    try:
        with inject():
            golden.save(*_swapped(GOLDEN[1], file))
    except BaseException as error:
        raised = error
    for _ in range(2):
        read = golden.load(file)
        x = golden.load_logits(file, read)
        if x is None or not any(read.rows == made.rows and x.tobytes() == y.tobytes() for made, y in GOLDEN):
            raise AssertionError("neither the old file nor the new one")
        golden.save(*_swapped(GOLDEN[1], file))
    if read.rows != GOLDEN[1][0].rows:
        raise AssertionError("the next save did not save")
    return raised


def _swapped(made: tuple[golden.Golden, np.ndarray], file: Path) -> tuple[golden.Golden, Path, np.ndarray]:
    return made[0], file, made[1]


def read(folder: Path, inject: Callable[[], Any]) -> BaseException | None:
    """A record's file, a golden file and its logits, read."""
    with rollout.Writer(folder) as writer:
        writer.append(PARTS[0])
    (path,) = rollout.files(folder)
    file, raised = folder / "g.json", None
    golden.save(*_swapped(GOLDEN[0], file))
    try:
        with inject():
            parquet.about(path)
            parquet.read(path)
            golden.load_logits(file, golden.load(file))
    except BaseException as error:
        raised = error
    if len(parquet.read(path)) != 2 or golden.load_logits(file, golden.load(file)) is None:
        raise AssertionError("cannot be read again")
    return raised


SCENARIOS = {"write": write, "save": save, "read": read}
CLEAR = (OSError, MemoryError, KeyboardInterrupt, rollout.RecordError, golden.GoldenError)


def calls_failing(name: str, error: str, late: bool, folder: Path) -> Counter[str]:
    """Each call of a scenario fails once; what was raised."""
    told: Counter[str] = Counter()
    for at in range(1, 1000):
        faults = Faults(at, ERRORS[error], late)
        raised = _once(name, lambda faults=faults: failing(faults), folder)
        if faults.seen < at:
            return told
        if raised is not None and not isinstance(raised, CLEAR):
            raise AssertionError(f"{name}: {type(raised).__name__}: {raised}") from raised
        _count(told, name, raised)
    raise AssertionError("a scenario without end")


def allocations_failing(name: str, first: int, count: int, folder: Path) -> Counter[str]:
    """So many allocations of a scenario fail, each once; what was raised.

    The error is not always a MemoryError: Python's `open` and `zipfile` make a TypeError and a ValueError of some.
    """
    told: Counter[str] = Counter()
    for at in range(first, first + count):
        raised = _once(name, lambda at=at: starving(at), folder)
        _count(told, name, raised)
    return told


def _once(name: str, inject: Callable[[], Any], folder: Path) -> BaseException | None:
    place = folder / "it"
    place.mkdir()
    try:
        return SCENARIOS[name](place, inject)
    finally:
        shutil.rmtree(place)


def _count(told: Counter[str], name: str, raised: BaseException | None) -> None:
    told[f"{name}: {'passed over' if raised is None else type(raised).__name__}"] += 1


def in_child(act: Callable[[], Counter[str]]) -> Counter[str]:
    """Do it in a process of its own: a crash there is told, and is not the end."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        with suppress(BaseException):
            try:
                os.write(theirs, json.dumps(act()).encode())
                status = 0
            except BaseException as error:
                os.write(theirs, f"{type(error).__name__}: {error}"[:4000].encode())
        os._exit(status)
    os.close(theirs)
    with os.fdopen(ours, "rb") as pipe:
        said = pipe.read().decode()
    status = os.waitpid(child, 0)[1]
    if status:
        raise AssertionError(f"exit status {status}: {said}")
    return Counter(json.loads(said))


def main() -> None:
    """Let everything fail, and write down what was seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--failures", type=int, default=10_000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    started, told, allocations = time.monotonic(), Counter[str](), Counter[str]()
    there = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=there) as made:
        folder = Path(made)
        for name in SCENARIOS:
            for error in ERRORS:
                for late in (False, True):
                    told += in_child(partial(calls_failing, name, error, late, folder))
        first, broken = dict.fromkeys(SCENARIOS, 1), []
        while _failures(told) + _failures(allocations) < options.failures:
            for name in SCENARIOS:
                try:
                    act = partial(allocations_failing, name, first[name], 50, folder)
                    allocations += in_child(act)
                except AssertionError as error:
                    broken.append(f"{name}, allocations from {first[name]}: {error}")
                    shutil.rmtree(folder / "it", ignore_errors=True)
                first[name] += 50
            _write(told, allocations, broken, time.monotonic() - started, options.out)
            print(_failures(told) + _failures(allocations), broken[-1:], file=sys.stderr, flush=True)


def _failures(told: Counter[str]) -> int:
    """How many were felt: behind a scenario's last allocation none fails, and Python does without some."""
    return sum(count for what, count in told.items() if "passed over" not in what)


def _write(told: Counter[str], allocations: Counter[str], broken: list[str], seconds: float, out: Path | None) -> None:
    found = {
        "what": "every call of the system and of files failed once, and Python's allocations one by one; nothing was "
        "lost or there twice, and the next call worked",
        "failures": _failures(told) + _failures(allocations),
        "calls": dict(sorted(told.items())),
        "allocations": dict(sorted(allocations.items())),
        "broken": broken,
        "seconds": round(seconds),
        "python": platform.python_version(),
    }
    if out:
        out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
