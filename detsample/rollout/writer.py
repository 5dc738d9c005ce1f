"""A folder of records that only ever grows by whole files."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from detsample.rollout import parquet
from detsample.rollout.output import Draw
from detsample.rollout.parquet import RecordError
from detsample.rollout.reader import files
from detsample.rollout.record import Record

BATCH_TOKENS = 1 << 16
BATCH_IDS = 1 << 25
"""Ids of kept sets in memory at which a batch is written, however few its tokens: 128 MiB."""


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
        Whether to record the kept sets.
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
    RecordError
        If the folder's last file is no record of this contract version.

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
        if batch_tokens < 1:
            raise ValueError(f"batch_tokens must be at least 1, got {batch_tokens}")
        self._folder = Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        there = files(self._folder)
        self._kind = _contract_and_vocab(there[-1]) if there else None
        self._number = int(there[-1].name.partition("-")[0]) + 1 if there else 0
        self._name = secrets.token_hex(4)  # no two writers ever choose one file name
        self._batch_tokens, self._keep_sets, self._progress = batch_tokens, keep_sets, progress
        self._parts: list[Record] = []
        self._ids = 0
        self.pending = 0
        self.durable = 0

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
        ValueError
            If it is of another contract version, vocabulary or number of first tokens than what is there.
        """
        if isinstance(draw, Record) != (sequence is None):
            raise TypeError(f"sequence must be given for a Draw, and only for one, got {sequence!r}")
        part = draw if isinstance(draw, Record) else Record.of(draw, sequence, keep_sets=self._keep_sets)
        kind = part.kind[:2]
        if self._kind not in (None, kind):
            raise ValueError(f"draw must be of (contract version, vocabulary) {self._kind} like the folder, got {kind}")
        if self._parts and part.kind != self._parts[0].kind:
            self.flush()
        self._kind = kind
        self._parts.append(part)
        self.pending += len(part)
        self._ids += 0 if part.kept is None else len(part.kept.token_ids)
        if self.pending >= self._batch_tokens or self._ids >= BATCH_IDS:
            self.flush()

    def flush(self) -> None:
        """Write the batch in memory, if there is one; when this returns it survives a loss of power."""
        if self.pending:
            self._write(Record.concatenate(self._parts).in_order())
            self.durable += self.pending
        self._parts, self._ids, self.pending = [], 0, 0
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

    def _write(self, record: Record) -> None:
        name = f"{self._number:08d}-{self._name}"
        temporary, final = self._folder / f".{name}.tmp", self._folder / f"{name}.parquet"
        try:
            with temporary.open("xb") as file:
                parquet.write(file, record)
                file.flush()
                os.fsync(file.fileno())
            os.rename(temporary, final)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        self._number += 1
        _sync_folder(self._folder)


def _contract_and_vocab(path: Path) -> tuple[int, int]:
    import detsample

    said = parquet.about(path)
    if said["contract_version"] != detsample.CONTRACT_VERSION:
        raise RecordError(
            f"{path}: expected contract version {detsample.CONTRACT_VERSION}, got {said['contract_version']}; "
            "records of two versions do not go into one folder"
        )
    return said["contract_version"], said["vocab"]


def _sync_folder(folder: Path) -> None:
    """Make a rename in the folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
