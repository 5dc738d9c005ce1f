"""A folder of records: which files it has, and which kind of record they hold."""

from __future__ import annotations

import json
import os
import re
import secrets
from pathlib import Path

from detsample.files import sync_folder, whole
from detsample.rollout import validity
from detsample.rollout.parquet import RecordError
from detsample.rollout.record import Kind

KIND_FILE = ".kind.json"
"""Programs that read a folder of Parquet files leave out names that begin with a dot."""


def files(path: str | os.PathLike[str]) -> list[Path]:
    """The record's files in the order in which they were begun; the path itself if it is a file.

    A file that is still being written has another name and is not among them.

    Parameters
    ----------
    path : path
        A folder that a `Writer` filled, or one of its files.

    Returns
    -------
    list of Path
        None of them for a folder without records.

    Raises
    ------
    FileNotFoundError
        If there is nothing at the path.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> from detsample import rollout
    >>> folder = tempfile.mkdtemp()
    >>> with rollout.Writer(folder) as writer:
    ...     writer.append(rollout.draw(np.zeros((3, 10), np.float32), 7, position=np.arange(3)), sequence=0)
    >>> [file.name[:9] for file in files(folder)]
    ['00000000-']
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"path must be a folder of records or one of its files, got {path}")
    if not path.is_dir():
        return [path]
    return sorted(path.glob("[0-9]*-*.parquet"), key=lambda file: (number_of(file), file.name))


def number_of(path: Path) -> int:
    """The number that a file's name begins with."""
    digits = re.match("[0-9]{1,18}", path.name)
    assert digits is not None  # `files` sees to it
    return int(digits[0])


def claim(folder: Path, kind: Kind) -> Kind:
    """Record the kind of a folder, unless it is recorded already, and return the recorded kind. If several writers
    begin at once, one of them is the first, and all get the same kind.

    Raises
    ------
    RecordError
        If the file that is there does not say a kind.
    OSError
        If nothing can be written.
    """
    path, mine = folder / KIND_FILE, folder / f".{secrets.token_hex(8)}.kind"
    if not path.exists():
        try:
            with whole(mine) as file:
                file.write(json.dumps(kind._asdict()).encode())
            try:
                os.link(mine, path)  # unlike a rename, this fails if the file is there already
            except FileExistsError:
                pass
            except OSError:  # a file system without links: if two writers begin at once, the last one counts
                os.replace(mine, path)
        finally:
            mine.unlink(missing_ok=True)
        sync_folder(folder)
    try:
        found = Kind(**json.loads(path.read_bytes()[:4096]))
        validity.check_kind(found)
    except (TypeError, ValueError, RecursionError) as error:
        raise RecordError(f"{path}: does not say of which kind the folder's records are: {error}") from error
    return found
