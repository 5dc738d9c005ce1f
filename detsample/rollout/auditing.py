"""Replays many files, on all cores, or on a cluster through any executor."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from detsample.rollout import parquet
from detsample.rollout.folder import files
from detsample.rollout.parquet import RecordError
from detsample.rollout.record import Record
from detsample.rollout.replaying import Replay, replay

LOGITS_AT_A_TIME = 1 << 22
"""Limits the memory of a worker: 16 MiB of fp32 logits, and the reference's working memory for them. No result depends
on it.
"""

LogitsOf = Callable[[Record], Any]
"""The logits [n, V] of a record's n tokens, alone or as ``(logits, allowed, processing)``."""


@dataclass(frozen=True)
class FileAudit:
    """The audit of one file.

    Attributes
    ----------
    path : Path
    replay : Replay
        The replay of the tokens, up to where the file could be read.
    error : str or None
        Why the file could not be read.
    """

    path: Path
    replay: Replay
    error: str | None = None

    @property
    def same(self) -> bool:
        """Whether the file could be read, and its tokens are those that its seeds draw."""
        return self.error is None and self.replay.same

    def __str__(self) -> str:
        return self.error or f"{self.path}: {self.replay}"


@dataclass(frozen=True)
class Audit:
    """The result of an audit, with files in the order of their names.

    Attributes
    ----------
    files : tuple of FileAudit
    """

    files: tuple[FileAudit, ...]

    @property
    def tokens(self) -> int:
        """How many tokens were replayed."""
        return sum(file.replay.tokens for file in self.files)

    @property
    def same(self) -> bool:
        """Whether every token of every file is what its seed draws, to the last bit."""
        return all(file.same for file in self.files)

    @property
    def bad(self) -> tuple[FileAudit, ...]:
        """The files that are not."""
        return tuple(file for file in self.files if not file.same)

    def __str__(self) -> str:
        if self.same:
            return f"{self.tokens:,} tokens in {len(self.files)} files, all as recorded"
        lines = [f"{len(self.bad)} of {len(self.files)} files are not as recorded:", *map(str, self.bad)]
        return "\n  ".join(lines)


def audit(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    logits_of: LogitsOf,
    *,
    executor: Executor | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Audit:
    """Replay every file of some records.

    Parameters
    ----------
    paths : path or paths
        Folders of records, or files.
    logits_of : callable
        Given a `Record` of n tokens, their logits [n, V], from any model: an array, or a tensor on the CPU or a GPU.
        Where the draw had `allowed` or `processing`, a tuple of the logits and these two (or None). The function is
        sent to other processes, so it must be one of a module, or a `functools.partial` of one. It is called with a
        part of a file at a time.
    executor : concurrent.futures.Executor, optional
        What runs the audit of the files: any executor, such as that of Dask (``Client.get_executor()``), where the
        workers see the files under the same names. By default a process for each core of this machine, started anew
        (spawn).
    progress : callable, optional
        Told (tokens replayed, tokens in all) after each file.

    Returns
    -------
    Audit

    Raises
    ------
    FileNotFoundError
        If there is nothing at a path.
    ValueError
        If no path is given, or a folder has no record, because there is nothing to check.

    Notes
    -----
    A file that cannot be read, is damaged or is of another contract version is reported in the result and keeps no
    other from being replayed. What `logits_of` raises is raised.

    Examples
    --------
    >>> import tempfile
    >>> from concurrent.futures import ThreadPoolExecutor
    >>> import numpy as np
    >>> from detsample import rollout
    >>> logits = np.random.default_rng(0).standard_normal((4, 100), dtype=np.float32)
    >>> folder = tempfile.mkdtemp()
    >>> for part in (slice(0, 2), slice(2, 4)):
    ...     with rollout.Writer(folder) as writer:
    ...         writer.append(rollout.draw(logits[part], 7, position=np.arange(4)[part]), sequence=0)
    >>> def logits_of(record):  # what a model computes; here position p has row p
    ...     return logits[record.position]
    >>> with ThreadPoolExecutor() as executor:  # in threads, for the function is not one of a module
    ...     print(audit(folder, logits_of, executor=executor))
    4 tokens in 2 files, all as recorded
    """
    given = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    found = [file for path in given for file in _files(path)]
    if not found:
        raise ValueError("paths must name at least one folder or file, got none")
    if executor is not None:
        return _audit(found, logits_of, executor, progress)
    processes = min(len(found), _processors())
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        return _audit(found, logits_of, pool, progress)


def _processors() -> int:
    """How many processors this process may use, as far as the system tells: macOS and Windows have no affinities."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else min(os.cpu_count() or 1, 61)  # Windows waits for no more


def _files(path: str | os.PathLike[str]) -> list[Path]:
    found = files(path)
    if not found:
        raise ValueError(f"paths must be folders with at least one record, got {os.fspath(path)}, which has none")
    return found


def _audit(
    found: list[Path], logits_of: LogitsOf, executor: Executor, progress: Callable[[int, int], None] | None
) -> Audit:
    futures: dict[Future[FileAudit], int] = {
        executor.submit(audit_file, file, logits_of): number for number, file in enumerate(found)
    }
    total = sum(_tokens(file) for file in found) if progress is not None else 0
    done, results = 0, dict[int, FileAudit]()
    for future in as_completed(futures):
        results[futures[future]] = future.result()
        done += results[futures[future]].replay.tokens
        if progress is not None:
            progress(done, total)
    return Audit(tuple(results[number] for number in range(len(found))))


def _tokens(file: Path) -> int:
    try:
        return int(parquet.about(file)["tokens"])
    except RecordError:
        return 0


def audit_file(path: Path, logits_of: LogitsOf) -> FileAudit:
    """Replay one file, a part at a time. `audit` calls this in its workers."""
    try:
        record = parquet.read(path)
    except RecordError as error:
        return FileAudit(path, Replay(0), str(error))
    except MemoryError:
        return FileAudit(path, Replay(0), f"{path}: cannot be read: there is not enough memory")
    return FileAudit(path, Replay.join(map(partial(_replay, logits_of), _parts(record))))


def _replay(logits_of: LogitsOf, part: Record) -> Replay:
    given = logits_of(part)
    return replay(part, *(given if isinstance(given, tuple) else (given,)))


def _parts(record: Record) -> Iterator[Record]:
    step = max(1, LOGITS_AT_A_TIME // record.vocab)
    return (record.rows(slice(start, start + step)) for start in range(0, len(record), step))
