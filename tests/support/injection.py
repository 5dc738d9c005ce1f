"""Every call of the system, and every allocation, fails once: is anything lost, doubled or left unusable?

    python tests/support/injection.py --failures 10000 --out docs/results/injection.json

As SQLite is tested: a scenario is run with its first call failing, then with its second, until one run has no failure
left. After each, what is on the disk is read and compared, and the same writer, file or reader is used again.

Some failing allocations of Python's end the process, in pyarrow's native code or in Python's own, at once or when
memory is collected; this package has none that could. So each allocation fails in a process of its own. A crash is
counted under the file of the innermost frame of Python. This process, which did not crash, then looks at what is on the
disk as after any other failure.
"""

from __future__ import annotations

import argparse
import errno
import faulthandler
import gc
import json
import mmap
import os
import pathlib
import platform
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow

from detsample import golden, rollout
from detsample.rollout import parquet
from detsample.rollout.auditing import audit_file

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


LOGITS = [np.random.default_rng(number).standard_normal((2, V), dtype=np.float32) for number in range(3)]


def _part(number: int) -> rollout.Record:
    drawn = rollout.draw(LOGITS[number], np.arange(2), position=number, top_p=0.9, top_n=1)
    return rollout.Record.of(drawn, [2 * number, 2 * number + 1])


PARTS = [_part(number) for number in range(3)]
GOLDEN: list[tuple[golden.Golden, np.ndarray]] = []
for _seed in (1, 2):
    _x = np.random.default_rng(_seed).standard_normal((2, V), dtype=np.float32)
    GOLDEN.append((golden.record(_x, np.arange(2)), _x))


DURABLE = mmap.mmap(-1, 1)
"""How many tokens a writer has said are on the disk: memory that a child that crashes leaves to its parent."""


def _there(folder: Path) -> list[int]:
    return sorted(s for record in rollout.read(folder) for s in record.sequence.tolist())


def write(folder: Path, inject: Callable[[], Any]) -> BaseException | None:
    """A writer of three parts, of which each two become a file."""
    writer: rollout.Writer | None = None
    raised, number, DURABLE[0] = None, 0, 0
    try:
        with inject():
            writer = rollout.Writer(folder, batch_tokens=4, progress=lambda tokens: DURABLE.__setitem__(0, tokens))
            for part in PARTS:
                writer.append(part)
                number += 1
            writer.flush()
    except BaseException as error:
        raised = error
    if writer is None:
        written(folder)
        return raised
    held = writer.durable + writer.pending
    if held % 2 or held // 2 not in (number, number + 1) or writer.durable < DURABLE[0]:
        raise AssertionError(f"{held} tokens are held behind {number} calls that returned")
    DURABLE[0] = writer.durable
    written(folder, writer, held // 2)
    return raised


def written(folder: Path, writer: rollout.Writer | None = None, taken: int | None = None) -> None:
    """What a writer said was durable is there, and the rest can be written, by it or, where it is gone, by another."""
    found = _there(folder)
    if found != list(range(len(found))) or len(found) < DURABLE[0]:
        raise AssertionError(f"{DURABLE[0]} tokens were durable, there are {found}")
    writer = writer or rollout.Writer(folder, batch_tokens=4)
    for part in PARTS[len(found) // 2 if taken is None else taken :]:
        writer.append(part)
    writer.close()
    if _there(folder) != list(range(6)):
        raise AssertionError(f"wrote 6 tokens, {writer.durable} are durable, there are {_there(folder)}")


def save(folder: Path, inject: Callable[[], Any]) -> BaseException | None:
    """A golden file with its logits, written anew over another."""
    raised = None
    _save(folder, 0)
    try:
        with inject():
            _save(folder, 1)
    except BaseException as error:
        raised = error
    saved(folder)
    return raised


def _save(folder: Path, number: int) -> None:
    made, x = GOLDEN[number]
    golden.save(made, folder / "g.json", x)


def saved(folder: Path) -> None:
    """There is the old file or the new one, with its logits; and the next save saves."""
    for _ in range(2):
        found = golden.load(folder / "g.json")
        x = golden.load_logits(folder / "g.json", found)
        if x is None or not any(found.rows == made.rows and x.tobytes() == y.tobytes() for made, y in GOLDEN):
            raise AssertionError("neither the old file nor the new one")
        _save(folder, 1)
    if found.rows != GOLDEN[1][0].rows:
        raise AssertionError("the next save did not save")


def read(folder: Path, inject: Callable[[], Any]) -> BaseException | None:
    """A record's file, a golden file and its logits, read."""
    with rollout.Writer(folder) as writer:
        writer.append(PARTS[0])
    raised = None
    _save(folder, 0)
    try:
        with inject():
            _read(folder)
    except BaseException as error:
        raised = error
    _read(folder)
    return raised


def _read(folder: Path) -> None:
    """All of it is there and can be read."""
    (path,), file = rollout.files(folder), folder / "g.json"
    if parquet.about(path)["tokens"] != len(parquet.read(path)) or golden.load_logits(file, golden.load(file)) is None:
        raise AssertionError("read, and is not what was written")


def audit(folder: Path, inject: Callable[[], Any]) -> BaseException | None:
    """Two files of records, of which an audit tells."""
    for part in PARTS[:2]:
        with rollout.Writer(folder) as writer:
            writer.append(part)
    raised: BaseException | None = None
    try:
        with inject():
            found = [audit_file(path, _logits) for path in rollout.files(folder)]
        raised = next((Told(str(file)) for file in found if not file.same), None)
    except BaseException as error:
        raised = error
    if isinstance(raised, Told) and re.search("damaged|not a record", str(raised)):
        raise AssertionError(str(raised)) from raised
    audited(folder)
    return raised


class Told(rollout.RecordError):
    """An audit says of a whole file that it could not be read."""


def audited(folder: Path) -> None:
    """All is as recorded."""
    if not all(audit_file(path, _logits).same for path in rollout.files(folder)):
        raise AssertionError("whole files are not as recorded")


def _logits(record: rollout.Record) -> np.ndarray:
    return LOGITS[int(record.position[0])]


SCENARIOS = {"write": (write, written), "save": (save, saved), "read": (read, _read), "audit": (audit, audited)}
"""What is done, and what must hold behind it whatever happened."""
CLEAR = (OSError, MemoryError, KeyboardInterrupt, rollout.RecordError, golden.GoldenError)


def calls_failing(name: str, error: str, late: bool, folder: Path) -> Counter[str]:
    """Each call of a scenario fails once; what was raised."""
    told: Counter[str] = Counter()
    for at in range(1, 1000):
        faults = Faults(at, ERRORS[error], late)
        raised = SCENARIOS[name][0](_new(folder), lambda faults=faults: failing(faults))
        if faults.seen < at:
            return told
        if raised is not None and not isinstance(raised, CLEAR):
            raise AssertionError(f"{name}: {type(raised).__name__}: {raised}") from raised
        told[_what(name, raised)] += 1
    raise AssertionError("a scenario without end")


def allocations_failing(name: str, first: int, count: int, folder: Path) -> Counter[str]:
    """So many allocations of a scenario fail, each once; what was raised, and how often pyarrow crashed.

    The error is not always a MemoryError: Python's `open` and `zipfile` make a TypeError and a ValueError of some.
    """
    told: Counter[str] = Counter()
    SCENARIOS[name][0](_new(folder), nullcontext)  # imports what it needs
    gc.freeze()  # a child looks at its own objects only
    for at in range(first, first + count):
        what, status = _in_child(name, at, _new(folder))
        if status > 0:
            raise AssertionError(f"{name}, allocation {at}: {what}")
        if status < 0:
            SCENARIOS[name][1](folder / "it")
        told[what] += 1
    return told


def _new(folder: Path) -> Path:
    shutil.rmtree(folder / "it", ignore_errors=True)
    (folder / "it").mkdir()
    return folder / "it"


def _what(name: str, raised: BaseException | None) -> str:
    return f"{name}: {'passed over' if raised is None else type(raised).__name__}"


def _in_child(name: str, at: int, place: Path) -> tuple[str, int]:
    """Let an allocation fail in a process of its own: what was raised or where it crashed, and the exit status."""
    trace = place.with_name("trace")
    child = os.fork()
    if child == 0:
        status = 1
        with suppress(BaseException), trace.open("w") as file:
            faulthandler.enable(file)
            try:
                raised = SCENARIOS[name][0](place, lambda: starving(at))
                gc.collect()
                file.write(_what(name, raised))
                status = 0
            except BaseException:
                traceback.print_exc(file=file)
        os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    said = trace.read_text()
    if status < 0:
        frame = re.search(r'call first\):.*?File "[^"]*?((?:pyarrow|numpy|detsample)/[^"]*|[^"/]*)"', said, re.DOTALL)
        said = f"{name}: {signal.Signals(-status).name} in {frame[1] if frame else said}"
    return said, status


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
                    told += calls_failing(name, error, late, folder)
        for first in range(1, 1_000_000, 50):
            for name in SCENARIOS:
                allocations += allocations_failing(name, first, 50, folder)
            felt = _failures(told) + _failures(allocations)
            _write(told, allocations, felt, time.monotonic() - started, options.out)
            print(first, felt, file=sys.stderr, flush=True)
            if felt >= options.failures:
                break


def _failures(told: Counter[str]) -> int:
    """How many were felt: behind a scenario's last allocation none fails, and Python does without some."""
    return sum(count for what, count in told.items() if "passed over" not in what)


def _write(told: Counter[str], allocations: Counter[str], felt: int, seconds: float, out: Path | None) -> None:
    crashed = sum(count for what, count in allocations.items() if " in " in what)
    largest = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    found = {
        "what": "every call of the system and of files failed once, and Python's allocations one by one; nothing was "
        "lost or there twice, and the next call worked, also behind a crash (in native code, of which this package has "
        "none)",
        "failures": felt,
        "of_these_crashes_in_native_code": crashed,
        "calls": dict(sorted(told.items())),
        "allocations": dict(sorted(allocations.items())),
        "most_memory_mb": round(largest / 1024),
        "seconds": round(seconds),
        "python": platform.python_version(),
        "pyarrow": pyarrow.__version__,
    }
    if out:
        out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
