"""Files that appear whole, under their name, on the disk, or not at all."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


@contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """Write a file under a name that nobody else has, and give it its own when all of it is on the disk.

    Whatever stands under `path` is replaced in one step: a reader finds the old file or the new one. When this returns
    without an error, the file survives a loss of power.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with whole(folder / "note.txt") as file:
    ...     size = file.write(b"all of it")
    >>> [path.name for path in folder.iterdir()]
    ['note.txt']
    """
    # Random, not the process's number: threads share that, and so do containers. Short, whatever `path` is called.
    part = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        with part.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, so that they survive a loss of power."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make what was renamed or made in a folder durable, where folders can be opened: Windows keeps names by itself."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading, if it is one: a device has no end, and a pipe waits for somebody to write.

    Raises
    ------
    OSError
        If it is none, or cannot be opened.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(f"not a regular file: {path}")
    return os.fdopen(handle, "rb")
