"""Writers of rollout records killed at any moment: does the folder always read back to the last complete batch?

    python tests/support/rollout_kills.py --kills 200 --out docs/results/rollout-kills.json

Each child appends batches to one folder and tells, through a pipe, when one is on the disk; it is killed (SIGKILL)
after a random time. Then every file is read and compared with what its number says it must hold. The next child
goes on in the same folder.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import platform
import resource
import signal
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

VOCAB = 200
ROWS = 64
STEPS = 4  # appends that make a batch
STAGES = ("opened", "half written", "written", "flushed", "renamed")


def step(number: int) -> Any:
    """The record of an append, a function of its number alone."""
    from detsample import rollout

    rng = np.random.default_rng(number)
    logits = rng.standard_normal((ROWS, VOCAB), dtype=np.float32) * np.float32(3)
    drawn = rollout.draw(logits, np.arange(ROWS), position=number, top_p=0.9, top_n=2)
    return rollout.Record.of(drawn, np.arange(ROWS))


def batch(number: int) -> Any:
    """What the file of this number must hold."""
    from detsample import rollout

    return rollout.Record.concatenate([step(number * STEPS + i) for i in range(STEPS)]).in_order()


def write(folder: str, first: int, pipe: Connection, stage: str | None = None) -> None:
    """A child's life: batches until it is killed; with a stage, until it kills itself there in its third batch."""
    from detsample import rollout

    writer = rollout.Writer(folder, batch_tokens=ROWS * STEPS)
    pipe.send("ready")
    number = first
    while True:
        if stage is not None and number == first + 2:
            die_at(stage)
        for i in range(STEPS):
            writer.append(step(number * STEPS + i))
        pipe.send(number)
        number += 1


def die_at(stage: str) -> None:
    """Arrange for this process to be killed at a stage of the next batch's way to the disk."""
    from detsample import files
    from detsample.rollout import parquet, writer

    def die(*_: Any) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)

    real = parquet.write
    if stage == "opened":
        writer.parquet.write = die  # type: ignore[assignment]
    elif stage == "half written":

        def half(file: Any, record: Any) -> None:
            real(file, record)
            file.flush()
            os.truncate(file.fileno(), os.fstat(file.fileno()).st_size // 2)
            die()

        writer.parquet.write = half  # type: ignore[assignment]
    elif stage == "written":
        os.fsync = die  # type: ignore[assignment]
    elif stage == "flushed":
        os.replace = die  # type: ignore[assignment]
    elif stage == "renamed":
        files.sync_folder = die  # type: ignore[assignment]


class Folder:
    """What is known of a folder from outside: what it must hold, and what was seen of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.digests: dict[str, str] = {}

    def check(self, acknowledged: int) -> int:
        """Every file is whole, old ones are unchanged, and at least `acknowledged` batches are there; how many."""
        from detsample import rollout

        found = rollout.files(self.path)
        assert len(found) >= acknowledged, f"{acknowledged} batches were on the disk, {len(found)} are left"
        for number, file in enumerate(found):
            assert int(file.name.partition("-")[0]) == number, f"a gap before {file.name}"
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            if self.digests.setdefault(file.name, digest) != digest:
                raise AssertionError(f"{file.name} changed after it was written")
        for number, file in list(enumerate(found))[max(0, self._seen) :]:
            (record,) = rollout.read(file)
            assert_same(record, batch(number))
        self._seen = len(found)
        return len(found)

    _seen = 0


def assert_same(found: Any, expected: Any) -> None:
    """Two records are equal to the last bit."""
    from detsample.rollout.record import COLUMNS

    assert found.kind == expected.kind
    for name in (*COLUMNS, "top_token_ids", "top_logprobs"):
        one, other = getattr(found, name), getattr(expected, name)
        assert one.dtype == other.dtype, name
        assert one.tobytes() == other.tobytes(), name
    if found.kept is not None:
        assert found.kept.same(expected.kept).all()


def forks() -> Any:
    """Children that start with everything imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["rollout_kills", "detsample.rollout.writer"])
    return context


def one_kill(context: Any, folder: Folder, first: int, seconds: float | None, stage: str | None = None) -> int:
    """Let a child write and be killed; how many batches there are then."""
    mine, theirs = context.Pipe(duplex=False)
    child = context.Process(target=write, args=(str(folder.path), first, theirs, stage))
    child.start()
    theirs.close()
    assert mine.recv() == "ready"
    if seconds is not None:
        time.sleep(seconds)
        child.kill()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL, child.exitcode
    acknowledged = first
    try:
        while True:
            acknowledged = mine.recv() + 1
    except EOFError:
        pass
    return folder.check(acknowledged)


def fork(count: int) -> dict[str, Any]:
    """Fork a writer with tokens in memory again and again; parent and children all append and write."""
    from detsample import rollout

    with tempfile.TemporaryDirectory() as path:
        writer = rollout.Writer(path, batch_tokens=ROWS * STEPS)
        children = []
        for number in range(count):
            writer.append(step(2 * number))
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    writer.append(step(2 * number + 1))
                    writer.close()
                    status = 0 if writer.durable == ROWS else 2
                finally:
                    os._exit(status)
            children.append(child)
        writer.close()
        failed = sum(os.waitpid(child, 0)[1] != 0 for child in children)
        found = [p for record in rollout.read(path) for p in record.position.tolist()]
    expected = dict.fromkeys(range(2 * count), ROWS)
    return {
        "forks_of_a_writer_with_tokens_in_memory": count,
        "children_that_failed": failed,
        "tokens": len(found),
        "tokens_lost": sum(expected.values()) - sum(min(found.count(p), ROWS) for p in expected),
        "tokens_twice": len(found) - sum(min(found.count(p), ROWS) for p in expected),
        "written_by_the_parent": writer.durable,
    }


def main() -> None:
    """Kill, check, and write down what was seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--forks", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--longest", type=float, default=0.6, help="seconds until a kill, at most")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rng, context, started = np.random.default_rng(options.seed), forks(), time.monotonic()
    with tempfile.TemporaryDirectory() as path:
        folder, batches = Folder(Path(path)), 0
        for _ in range(options.kills):
            batches = one_kill(context, folder, batches, float(rng.uniform(0, options.longest)))
        torn = len(list(Path(path).glob(".*.tmp")))
    found = {
        "what": "writers killed (SIGKILL) at random moments; every file read back equal to what it must hold",
        "kills": options.kills,
        "batches_on_disk": batches,
        "tokens_on_disk": batches * ROWS * STEPS,
        "kills_in_the_middle_of_a_file": torn,
        "batches_lost_after_they_were_acknowledged": 0,
        "files_damaged": 0,
        **fork(options.forks),
        "most_memory_of_a_process_mb": round(
            max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024
        ),
        "seconds": round(time.monotonic() - started, 1),
        "python": platform.python_version(),
        "file_system_of": tempfile.gettempdir(),
    }
    print(json.dumps(found, indent=2))
    if options.out:
        options.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
