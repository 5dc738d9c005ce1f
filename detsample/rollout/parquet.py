"""Records as Parquet: one table a file, complete in itself. Needs pyarrow (the extra `rollout`).

Parquet, because a trainer reads it with whatever it has (pyarrow, Polars, DuckDB, Spark, Ray Data, the datasets
libraries), because a column that repeats costs nothing, and because a file has its schema and its statistics.

Its own checksums are of pages of data. A flipped bit of the footer may change how many rows there are, or what they
mean, and nothing is said. So a file is sealed: the footer has the SHA-256 of all before it, and its own, taken while
the digits of that one are zeros. Between them no bit of the file is left out.
"""

from __future__ import annotations

import json
import os
import re
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import detsample
from detsample.rollout.kept_sets import KeptSets
from detsample.rollout.record import COLUMNS, Record

FORMAT = "detsample rollout 1"
KEY = b"detsample"
_BLANK = "0" * 64
_SEAL = re.compile(rb'"data_sha256": "([0-9a-f]{64})", "footer_sha256": "([0-9a-f]{64})"')
_TAIL = 8
"""Bytes behind the metadata of a footer: its length, and ``PAR1``."""

# Sorted by sequence and position, the first seven hardly change from row to row; the other integers are small.
REPEATING = [
    "sequence", "topp_seed", "temperature", "top_k", "top_p", "min_p",
    "status", "num_kept", "rank", "token_ids",
]  # fmt: skip
DELTAS = ("position", "kept_token_ids.list.element", "dropped_token_ids.list.element")
PLANES = ("logprobs", "log_z", "raw_logprobs", "entropy", "top_logprobs.list.element")

_LIST = pa.list_(pa.field("element", pa.int32(), nullable=False))
_REALS = pa.list_(pa.field("element", pa.float32(), nullable=False))
_SCHEMA = pa.schema(
    [pa.field(name, pa.from_numpy_dtype(dtype), nullable=False) for name, dtype in COLUMNS.items()]
    + [
        pa.field("kept_token_ids", _LIST),
        pa.field("dropped_token_ids", _LIST),
        pa.field("top_token_ids", _LIST, nullable=False),
        pa.field("top_logprobs", _REALS, nullable=False),
    ]
)


class RecordError(ValueError):
    """A file that is no record, is damaged, or is of another version."""


def write(file: Any, record: Record) -> None:
    """Write a record to an open binary file."""
    about = {
        "format": FORMAT,
        "contract_version": record.contract_version,
        "vocab": record.vocab,
        "top_n": record.top_token_ids.shape[1],
        "keep_sets": record.kept is not None,
        "detsample": detsample.__version__,
        "data_sha256": _BLANK,
        "footer_sha256": _BLANK,
    }
    stream = pa.BufferOutputStream()
    with pq.ParquetWriter(
        stream, _SCHEMA, compression="zstd", use_dictionary=REPEATING,
        column_encoding=dict.fromkeys(DELTAS, "DELTA_BINARY_PACKED")
        | dict.fromkeys(PLANES, "BYTE_STREAM_SPLIT"),
        write_page_checksum=True,
    ) as writer:  # fmt: skip
        writer.write_table(pa.Table.from_arrays(_arrays(record), schema=_SCHEMA), row_group_size=max(1, len(record)))
        writer.add_key_value_metadata({KEY: json.dumps(about).encode()})
    content = memoryview(stream.getvalue())
    start = len(content) - _footer_size(bytes(content[-_TAIL:]), len(content))
    file.write(content[:start])
    file.write(_sealed(bytes(content[start:]), sha256(content[:start]).hexdigest()))


def about(path: Path) -> dict[str, Any]:
    """What a file says of itself, after a look at its footer alone.

    Returns
    -------
    dict
        ``format``, ``contract_version``, ``vocab``, ``top_n``, ``keep_sets``, ``detsample``, ``tokens``, and the seals
        ``data_sha256`` and ``footer_sha256``.

    Raises
    ------
    RecordError
        If it cannot be read, is no record that this version reads, or its footer is damaged.
    """
    try:
        with path.open("rb") as file:
            return _said(path, _footer(file))
    except OSError as error:
        raise _unreadable(path, error) from error


def read(path: Path) -> Record:
    """Read a file back.

    Raises
    ------
    RecordError
        If it cannot be read, is no record, or a bit of it is not as it was written.
    """
    try:
        with path.open("rb") as file:
            footer = _footer(file)
            file.seek(0)
            content = file.read()
    except OSError as error:
        raise _unreadable(path, error) from error
    said = _said(path, footer)
    if sha256(memoryview(content)[: len(content) - len(footer)]).hexdigest() != said["data_sha256"]:
        raise RecordError(f"{path}: damaged: the data is not as it was written")
    try:
        table = pq.ParquetFile(pa.BufferReader(content)).read()
        return _record(table.combine_chunks(), said)
    except _NO_RECORD as error:
        raise RecordError(f"{path}: damaged: {error}") from error


_NO_RECORD = (pa.ArrowException, OSError, AttributeError, LookupError, TypeError, ValueError)
"""What pyarrow, json and NumPy raise over a file that is sealed and yet no record."""


def _unreadable(path: Path, error: OSError) -> RecordError:
    return RecordError(f"{path}: cannot be read: {error.strerror or error}")


def _footer_size(tail: bytes, size: int) -> int:
    """How many bytes of a Parquet file are its footer, of its last eight; 0 if it is none."""
    footer = int.from_bytes(tail[:4], "little") + _TAIL
    return footer if len(tail) == _TAIL and tail[4:] == b"PAR1" and footer <= size else 0


def _footer(file: BinaryIO) -> bytes:
    """The footer of an open file, with its length and ``PAR1``; nothing if there is none."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _TAIL))
    footer = _footer_size(file.read(), size)
    file.seek(size - footer)
    return file.read()


def _sealed(footer: bytes, data: str) -> bytes:
    """The footer with the two digests in their places, which are blank."""
    (blank,) = _SEAL.finditer(footer)
    filled = footer[: blank.start(1)] + data.encode() + footer[blank.end(1) :]
    return filled[: blank.start(2)] + sha256(filled).hexdigest().encode() + filled[blank.end(2) :]


def _said(path: Path, footer: bytes) -> dict[str, Any]:
    """What a footer says of the file, once its seal is found whole: pyarrow is not given what is damaged."""
    seal = _SEAL.search(footer)
    if seal is None:
        raise RecordError(f"{path}: not a record, or damaged: it has no footer with the seal of one")
    blank = footer[: seal.start(2)] + _BLANK.encode() + footer[seal.end(2) :]
    if sha256(blank).hexdigest().encode() != seal[2]:
        raise RecordError(f"{path}: damaged: the footer is not as it was written")
    try:
        metadata = pq.read_metadata(pa.BufferReader(footer))
        found = json.loads((metadata.metadata or {})[KEY])
        told = found["format"]
        known = {**found, "tokens": metadata.num_rows}
    except _NO_RECORD as error:
        raise RecordError(f"{path}: not a record, or damaged: {error}") from error
    if told != FORMAT:
        raise RecordError(f"{path}: expected the format {FORMAT!r}, got {told!r}")
    return known


def _arrays(record: Record) -> list[pa.Array]:
    n = record.top_token_ids.shape[1]
    steps = np.arange(len(record) + 1, dtype=np.int64) * n
    return [
        *(pa.array(getattr(record, name)) for name in COLUMNS),
        _listed(record, dropped=False),
        _listed(record, dropped=True),
        _lists(steps, record.top_token_ids.reshape(-1)),
        _lists(steps, record.top_logprobs.reshape(-1)),
    ]


def _listed(record: Record, *, dropped: bool) -> pa.Array:
    """The lists of the rows that list what they keep, or drop; null for the others."""
    sets = record.kept
    if sets is None:
        return pa.nulls(len(record), _LIST)
    mine = np.flatnonzero(sets.dropped == dropped)
    chosen = sets.rows(mine)
    counts = np.zeros(len(record), np.int64)
    counts[mine] = chosen.listed
    return _lists(np.append(0, np.cumsum(counts)), chosen.token_ids, missing=sets.dropped != dropped)


def _lists(offsets: np.ndarray, values: np.ndarray, missing: np.ndarray | None = None) -> pa.Array:
    kind = _LIST if values.dtype == np.int32 else _REALS
    mask = None if missing is None else pa.array(missing)
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(values), type=kind, mask=mask)


def _record(table: pa.Table, said: dict[str, Any]) -> Record:
    columns: dict[str, Any] = {name: _numbers(table, name).astype(dtype, copy=False) for name, dtype in COLUMNS.items()}
    n = said["top_n"]
    return Record(
        said["contract_version"],
        said["vocab"],
        **columns,
        top_token_ids=_values(table, "top_token_ids").reshape(-1, n) if n else _none(table, np.int32),
        top_logprobs=_values(table, "top_logprobs").reshape(-1, n) if n else _none(table, np.float32),
        kept=_kept(table, said["vocab"]),
    )


def _none(table: pa.Table, dtype: type) -> np.ndarray:
    return np.empty((table.num_rows, 0), dtype)


def _column(table: pa.Table, name: str) -> pa.Array:
    chunks = table.column(name).chunks
    return chunks[0] if chunks else pa.array([], table.schema.field(name).type)


def _numbers(table: pa.Table, name: str) -> np.ndarray:
    return _column(table, name).to_numpy(zero_copy_only=False)


def _values(table: pa.Table, name: str) -> np.ndarray:
    return _column(table, name).flatten().to_numpy(zero_copy_only=False)


def _counts(array: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """How long each list is, and which there are."""
    there = np.asarray(array.is_valid())
    return np.asarray(array.value_lengths().fill_null(0)).astype(np.int64), there


def _kept(table: pa.Table, vocab: int) -> KeptSets | None:
    kept, dropped = _column(table, "kept_token_ids"), _column(table, "dropped_token_ids")
    kept_counts, is_kept = _counts(kept)
    dropped_counts, is_dropped = _counts(dropped)
    if len(kept) and not (is_kept | is_dropped).any():
        return None
    offsets = np.append(0, np.cumsum(kept_counts + dropped_counts))
    ids = np.empty(offsets[-1], np.int32)
    of_dropped = np.repeat(is_dropped, kept_counts + dropped_counts)
    ids[~of_dropped] = kept.flatten().to_numpy(zero_copy_only=False)
    ids[of_dropped] = dropped.flatten().to_numpy(zero_copy_only=False)
    return KeptSets(vocab, offsets, ids, is_dropped)
