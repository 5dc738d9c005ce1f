"""Writes a folder of records. The folder grows by whole files only."""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import numpy as np

from detsample.files import make_folder, whole
from detsample.rollout import parquet, validity
from detsample.rollout.folder import claim, files, number_of
from detsample.rollout.output import Draw
from detsample.rollout.parquet import MOST_IDS, about, kind_of
from detsample.rollout.record import Kind, Record
from detsample.sampler.parameters import as_integer

BATCH_TOKENS = 1 << 16
BATCH_MOST = parquet.MOST_TOKENS
BATCH_IDS = 1 << 25
"""Ids of kept sets in memory at which a batch is written, however few its tokens: 128 MiB."""


@dataclass
class _Batch:
    """The tokens in memory, and the number of the file that they will become.

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

    def split(self) -> tuple[Record, _Batch]:
        """The next file, by sequence and position, and the batch behind it, with what no one file may hold."""
        whole = Record.concatenate(self.parts).in_order()
        rows = min(len(whole), BATCH_MOST)
        if whole.kept is not None:
            rows = min(rows, max(1, int(np.searchsorted(whole.kept.row_offsets, MOST_IDS, "right")) - 1))
        behind = _Batch(self.number + 1, self.durable + rows)
        if rows < len(whole):
            behind.add(whole.rows(slice(rows, None)))
        return whole.rows(slice(rows)), behind


class _Owned:
    """The state of a writer in one process: a name for its files that no other process has, its batch, and a lock."""

    def __init__(self, number: int) -> None:
        self.name = secrets.token_hex(8)
        self.batch = _Batch(number, 0)
        self.lock = threading.RLock()
        self.flushing = False


class Writer:
    """Appends draws to a folder, in batches. Each batch becomes a file.

    A batch is written under another name, flushed to the disk, and then renamed: at any moment each ``*.parquet``
    file of the folder is whole. A writer that is killed, or a machine that loses power, loses the batch in memory
    and nothing else. Several writers, in one or in several processes, may append to one folder; all of one kind.

    Threads may share a writer: one appends after the other. After a fork each process has its own: the child's begins
    with nothing in memory and nothing on the disk, for what was appended before is the parent's, which writes it. A
    writer cannot be pickled: make one where it is needed.

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
        How many tokens this writer has on the disk, of this process.
    pending : int
        How many are in memory.

    Raises
    ------
    TypeError, ValueError
        If `batch_tokens` is no integer from 1 to 2^24.
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
        self._batch_tokens = as_integer("batch_tokens", batch_tokens, 1, BATCH_MOST)
        self._keep_sets, self._progress = keep_sets, progress
        self._folder = Path(folder)
        make_folder(self._folder)
        there = files(self._folder)
        self._kind = kind_of(about(there[-1])) if there else None
        self._claimed = False
        self._owned: dict[int, _Owned] = {}
        self._first = number_of(there[-1]) + 1 if there else 0
        self._own()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Writer cannot be pickled or copied: make one of the same folder where it is needed")

    def _own(self) -> _Owned:
        """The state of the writer in this process. After a fork the child finds its parent's state and gets one of its
        own.
        """
        process = os.getpid()
        if process not in self._owned:
            behind = max([owned.batch.number for owned in self._owned.values()], default=self._first)
            self._owned.setdefault(process, _Owned(behind))  # one of several threads is the first
            for other in set(self._owned) - {process}:
                self._owned.pop(other, None)
        return self._owned[process]

    @property
    def pending(self) -> int:
        """How many tokens are in memory."""
        return self._own().batch.tokens

    @property
    def durable(self) -> int:
        """How many tokens this writer has on the disk."""
        return self._own().batch.durable

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
        validity.check(part)
        own = self._own()
        with own.lock:
            self._agree(part.kind)
            own.batch.add(part)
            full = own.batch.tokens >= self._batch_tokens or own.batch.ids >= BATCH_IDS
        if full:
            self.flush()

    def _agree(self, kind: Kind) -> None:
        """Raise unless the folder is of this kind. Record the kind in the folder if it is not recorded yet."""
        if self._kind in (None, kind) and not self._claimed:
            self._kind, self._claimed = claim(self._folder, kind), True
        if self._kind != kind:
            raise ValueError(f"draw must be of {self._kind} like the folder, got {kind}")

    def flush(self) -> None:
        """Write the batch in memory, if there is one; when this returns it survives a loss of power.

        Raises
        ------
        OSError
            If it could not be written, or the disk does not say that it was. It stays in memory, and the next call
            writes the same file again.
        RuntimeError
            If it is called from a signal handler that interrupts a flush of the same thread. Nothing is lost; the
            flush itself fails and may be repeated.
        """
        own = self._own()
        with own.lock:
            if own.flushing:
                raise RuntimeError("this writer is being flushed by this very thread: a signal handler must not do it")
            try:
                own.flushing = True
                while own.batch.tokens:
                    record, behind = own.batch.split()
                    with whole(self._folder / f"{own.batch.number:08d}-{own.name}.parquet") as file:
                        parquet.write(file, record)
                    own.batch = behind
            finally:
                own.flushing = False
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
        self.close()  # also after an error: what was appended has been drawn
