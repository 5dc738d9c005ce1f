"""Reading a folder of records."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from detsample.rollout import parquet
from detsample.rollout.folder import files
from detsample.rollout.record import Record


def read(path: str | os.PathLike[str], *, progress: Callable[[int, int], None] | None = None) -> Iterator[Record]:
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
        If a file cannot be read, is no record, or is damaged; it names the file.

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
    """Read a whole folder into one record, by sequence and position; otherwise as `read`.

    Returns
    -------
    Record
        Of all tokens.

    Raises
    ------
    ValueError
        If the folder is empty, or its files differ in what they record.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> from detsample import rollout
    >>> folder, logits = tempfile.mkdtemp(), np.zeros((2, 10), np.float32)
    >>> with rollout.Writer(folder) as writer:
    ...     for position in (0, 1):
    ...         writer.append(rollout.draw(logits, np.array([7, 8]), position=position), sequence=np.array([4, 3]))
    ...         writer.flush()
    >>> record = load(folder)
    >>> record.sequence.tolist(), record.position.tolist()
    ([3, 3, 4, 4], [0, 1, 0, 1])
    """
    parts = list(read(path, progress=progress))
    if not parts:
        raise ValueError(f"path must be a folder with at least one record, got {path}")
    return Record.concatenate(parts).in_order()
