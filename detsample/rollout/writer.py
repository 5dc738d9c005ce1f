"""A folder of records that only ever grows by whole files."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from detsample.rollout import parquet
from detsample.rollout.output import Draw
from detsample.rollout.parquet import RecordError
from detsample.rollout.reader import files
from detsample.rollout.record import Record

BATCH_TOKENS = 1 << 16
BATCH_IDS = 1 << 25
"""Ids of kept sets in memory at which a batch is written, however few its tokens: 128 MiB."""


Kind = tuple[int, int, int, bool]
"""`Record.kind`: what the files of a folder share."""


@dataclass
class _Batch:
    """What is in memory, and the number of the file that it will be.

    A batch is followed by the next in one assignment. Whatever interrupts a flush, be it an error of the disk behind
    the rename or a signal, leaves it with its number, and the next flush writes the same file again.
    """

    number: int
    durable: int
    parts: list[Record] = field(default_factory=list)
    tokens: int = 0
    ids: int = 0

    def add(self, part: Record) -> None:
        self.parts.append(part)
        self.tokens += len(part)
        self.ids += 0 if part.kept is None else len(part.kept.token_ids)


class Writer:
    """Appends draws to a folder, in batches of which each becomes a file.

    A batch is written under another name, flushed to the disk, and then renamed: at any moment each ``*.parquet``
    file of the folder is whole. A writer that is killed, or a machine that loses power, loses the batch in memory
    and nothing else. Several writers, in one or in several processes, may append to one folder. One writer is not
    for several threads at once.

    Parameters
    ----------
    folder : path
        Made if it is not there; a new writer continues behind the files in it.
    batch_tokens : int
        How many tokens make a batch.
    keep_sets : bool
        Whether to record the kept sets; without it those of records are left out as well.
    progress : callable, optional
        Told the number of tokens on the disk after each batch.

    Attributes
    ----------
    durable : int
        How many tokens this writer has on the disk.
    pending : int
        How many are in memory.

    Raises
    ------
    TypeError, ValueError
        If `batch_tokens` is no integer above 0.
    OSError
        If the folder cannot be made or read.
    RecordError
        If the folder's last file cannot be read, or is no record of this contract version.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> from detsample import rollout
    >>> folder = tempfile.mkdtemp()
    >>> with Writer(folder) as writer:
    ...     for position in range(3):
    ...         drawn = rollout.draw(np.zeros((2, 10), np.float32), np.array([5, 6]), position=position)
    ...         writer.append(drawn, sequence=np.array([0, 1]))
    >>> [(len(record), record.position.tolist()) for record in rollout.read(folder)]
    [(6, [0, 1, 2, 0, 1, 2])]
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        batch_tokens: int = BATCH_TOKENS,
        keep_sets: bool = True,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        if isinstance(batch_tokens, bool) or not isinstance(batch_tokens, (int, np.integer)):
            raise TypeError(f"batch_tokens must be an integer, got {batch_tokens!r}")
        if batch_tokens < 1:
            raise ValueError(f"batch_tokens must be at least 1, got {batch_tokens}")
        self._folder = Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        there = files(self._folder)
        self._kind = _kind(there[-1]) if there else None
        self._batch = _Batch(_number(there[-1]) + 1 if there else 0, 0)
        self._name = secrets.token_hex(4)  # no two writers ever choose one file name
        self._batch_tokens, self._keep_sets, self._progress = batch_tokens, keep_sets, progress

    @property
    def pending(self) -> int:
        """How many tokens are in memory."""
        return self._batch.tokens

    @property
    def durable(self) -> int:
        """How many tokens this writer has on the disk."""
        return self._batch.durable

    def append(self, draw: Draw | Record, *, sequence: Any = None) -> None:
        """Take a draw; waits for the device, and for the disk when a batch is full.

        Parameters
        ----------
        draw : Draw or Record
            Of B tokens.
        sequence : int or integer array [B]
            Which sequence each token is of; of a draw only, a record says it itself.

        Raises
        ------
        TypeError
            If it is neither, or `sequence` is missing, not wanted, or no integers.
        ValueError
            If it is of another contract version or vocabulary than what is there, has another number of first tokens,
            or has kept sets where the folder has none, or none where it has them: `load` could not join them. Or
            `sequence` has another length.
        OSError
            If a full batch could not be written. It stays in memory, this draw with it, and the next `flush` or
            `close` writes it.
        """
        if isinstance(draw, Record) != (sequence is None):
            raise TypeError(f"sequence must be given for a Draw, and only for one, got {sequence!r}")
        part = draw if isinstance(draw, Record) else Record.of(draw, sequence, keep_sets=self._keep_sets)
        part = part if self._keep_sets else replace(part, kept=None)
        if self._kind not in (None, part.kind):
            raise ValueError(f"draw must be of {_said(self._kind)} like the folder, got {_said(part.kind)}")
        self._kind = part.kind
        self._batch.add(part)
        if self._batch.tokens >= self._batch_tokens or self._batch.ids >= BATCH_IDS:
            self.flush()

    def flush(self) -> None:
        """Write the batch in memory, if there is one; when this returns it survives a loss of power.

        Raises
        ------
        OSError
            If it could not be written, or the disk does not say that it was. It stays in memory, and the next call
            writes the same file again.
        """
        batch = self._batch
        tokens = sum(map(len, batch.parts))
        if tokens:
            self._write(batch.number, Record.concatenate(batch.parts).in_order())
            self._batch = _Batch(batch.number + 1, batch.durable + tokens)
        if self._progress is not None:
            self._progress(self.durable)

    def close(self) -> None:
        """Write what is in memory."""
        self.flush()

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()  # after an error, too: what was appended was drawn

    def _write(self, number: int, record: Record) -> None:
        name = f"{number:08d}-{self._name}"
        temporary, final = self._folder / f".{name}.tmp", self._folder / f"{name}.parquet"
        try:
            with temporary.open("wb") as file:  # what an earlier try could not remove is this writer's own
                parquet.write(file, record)
                file.flush()
                os.fsync(file.fileno())
            os.rename(temporary, final)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(self._folder)


def _kind(path: Path) -> Kind:
    import detsample

    said = parquet.about(path)
    if said["contract_version"] != detsample.CONTRACT_VERSION:
        raise RecordError(
            f"{path}: expected contract version {detsample.CONTRACT_VERSION}, got {said['contract_version']}; "
            "records of two versions do not go into one folder"
        )
    return said["contract_version"], said["vocab"], said["top_n"], said["keep_sets"]


def _said(kind: Kind | None) -> str:
    """A kind in words."""
    assert kind is not None
    sets = "with" if kind[3] else "without"
    return f"contract version {kind[0]}, vocabulary {kind[1]}, {kind[2]} first tokens, {sets} kept sets"


def _number(path: Path) -> int:
    """The number that a file's name begins with."""
    digits = re.match("[0-9]+", path.name)
    assert digits is not None  # `files` sees to it
    return int(digits[0])


def _sync_folder(folder: Path) -> None:
    """Make a rename in the folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
