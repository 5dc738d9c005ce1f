"""Reading a folder of records."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from detsample.rollout import parquet
from detsample.rollout.record import Record


def files(path: str | os.PathLike[str]) -> list[Path]:
    """The record's files in the order in which they were begun; the path itself if it is a file.

    What is being written has another name until it is whole, and is not among them.

    Raises
    ------
    FileNotFoundError
        If there is nothing at the path.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise FileNotFoundError(f"path must be a folder of records or one of its files, got {path}")
    return sorted(path.glob("[0-9]*-*.parquet"))


def read(
    path: str | os.PathLike[str], *, progress: Callable[[int, int], None] | None = None
) -> Iterator[Record]:
    """Read a folder of records, a file at a time.

    Parameters
    ----------
    path : path
        A folder, or one of its files.
    progress : callable, optional
        Told (tokens read, tokens in all) after each file.

    Yields
    ------
    Record
        A file's tokens, by sequence and position.

    Raises
    ------
    FileNotFoundError
        If there is nothing at the path.
    RecordError
        If a file is no record, or is damaged; it names the file.

    Examples
    --------
    >>> import tempfile
    >>> sum(len(record) for record in read(tempfile.mkdtemp()))
    0
    """
    found = files(path)
    total = sum(parquet.about(file)["tokens"] for file in found) if progress is not None else 0
    done = 0
    for file in found:
        record = parquet.read(file)
        yield record
        done += len(record)
        if progress is not None:
            progress(done, total)


def load(path: str | os.PathLike[str], *, progress: Callable[[int, int], None] | None = None) -> Record:
    """Read a whole folder into one record, by sequence and position; as `read`, but all in memory.

    Raises
    ------
    ValueError
        If the folder is empty, or its files differ in what they record.
    """
    parts = list(read(path, progress=progress))
    if not parts:
        raise ValueError(f"path must be a folder with at least one record, got {path}")
    return Record.concatenate(parts).in_order()
