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

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ModuleNotFoundError as error:
    raise ImportError("records of rollouts need pyarrow: pip install 'detsample[rollout]'") from error

import detsample
from detsample.files import open_regular
from detsample.rollout import validity
from detsample.rollout.kept_sets import KeptSets
from detsample.rollout.record import COLUMNS, Kind, Record

FORMAT, PLAIN = "detsample rollout 3", "detsample rollout 2"
"""A file is plain where the column `applied` would be all zeros, and does without it."""
KEY = b"detsample"
_BLANK = "0" * 64
_SEAL = re.compile(rb'"data_sha256": "([0-9a-f]{64})", "footer_sha256": "([0-9a-f]{64})"')
_LARGEST_FOOTER, _SPARE = 1 << 20, 1 << 16
MOST_TOKENS, MOST_IDS = 1 << 24, 1 << 27
"""The most tokens and ids that one file may have. They limit the memory that a file can ask a reader for: 2 GB and 0.5
GB.
"""
LARGEST_FILE = 1 << 32
_TAIL = 8
"""Bytes behind the metadata of a footer: its length, and ``PAR1``."""

# Sorted by sequence and position, the first seven hardly change from row to row; the other integers are small.
REPEATING = [
    "sequence", "topp_seed", "temperature", "top_k", "top_p", "min_p",
    "status", "num_kept", "rank", "token_ids",
]  # fmt: skip
DELTAS = ("position", "kept_token_ids.list.element", "dropped_token_ids.list.element")
PLANES = ("logprobs", "log_z", "raw_logprobs", "entropy", "top_logprobs.list.element")

MOST_OFFSET = (1 << 31) - 1
"""Offsets of lists are int32."""
_SETS = ("kept_token_ids", "dropped_token_ids")
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
    """A file is not a record, is damaged, or is of another version."""


def write(file: Any, record: Record) -> None:
    """Write a record to an open binary file. It is one that `validity` has checked, of a size that a file may have."""
    table, form = pa.Table.from_arrays(_arrays(record), schema=_SCHEMA), FORMAT
    if not record.applied.any():
        table, form = table.drop_columns(["applied"]), PLAIN
    about = {
        "format": form,
        "contract_version": record.contract_version,
        "vocab": record.vocab,
        "top_n": record.top_token_ids.shape[1],
        "keep_sets": record.kept is not None,
        "filter_order": record.filter_order,
        "detsample": detsample.__version__,
        "data_sha256": _BLANK,
        "footer_sha256": _BLANK,
    }
    stream = pa.BufferOutputStream()
    with pq.ParquetWriter(
        stream, table.schema, compression="zstd", use_dictionary=REPEATING,
        column_encoding=dict.fromkeys(DELTAS, "DELTA_BINARY_PACKED")
        | dict.fromkeys(PLANES, "BYTE_STREAM_SPLIT"),
        write_page_checksum=True,
    ) as writer:  # fmt: skip
        writer.write_table(table, row_group_size=max(1, len(record)))
        writer.add_key_value_metadata({KEY: json.dumps(about).encode()})
    content = memoryview(stream.getvalue())
    start = len(content) - _footer_size(bytes(content[-_TAIL:]), len(content))
    file.write(content[:start])
    file.write(_sealed(bytes(content[start:]), sha256(content[:start]).hexdigest()))


def about(path: Path) -> dict[str, Any]:
    """What a file says of itself. Only its footer is read.

    Returns
    -------
    dict
        ``format``, ``contract_version``, ``vocab``, ``top_n``, ``keep_sets``, ``filter_order``, ``detsample``,
        ``tokens``, and the seals ``data_sha256`` and ``footer_sha256``.

    Raises
    ------
    RecordError
        If it cannot be read, is no record that this version reads, or its footer is damaged.
    """
    try:
        with open_regular(path) as file:
            return _said(path, *_footer(path, file))
    except OSError as error:
        raise _unreadable(path, error) from error


def kind_of(said: dict[str, Any]) -> Kind:
    """The kind of record that a file says it is."""
    return Kind(*(said[name] for name in Kind._fields))


def read(path: Path) -> Record:
    """Read a file whole, and check every bit of it, and that its numbers are those of a record.

    Raises
    ------
    RecordError
        If it cannot be read, is no record that this version reads, or is damaged; the message names the file.
    MemoryError
        If it does not fit into memory: that says nothing of the file.
    """
    try:
        with open_regular(path) as file:
            footer, size = _footer(path, file)
            said = _said(path, footer, size)  # before anything is allocated for the data
            file.seek(0)
            content = file.read(size)
    except OSError as error:
        raise _unreadable(path, error) from error
    if sha256(memoryview(content)[: len(content) - len(footer)]).hexdigest() != said["data_sha256"]:
        raise RecordError(f"{path}: damaged: the data is not as it was written")
    try:
        table = pq.ParquetFile(pa.BufferReader(content)).read()
        record = _record(table.combine_chunks(), said)
        validity.check(record)
    except MemoryError:
        raise
    except _NO_RECORD as error:
        raise RecordError(f"{path}: not a record: {error}") from error
    return record


_NO_RECORD = (
    pa.ArrowException, OSError, AttributeError, LookupError, TypeError, ValueError, ArithmeticError, RecursionError,
)  # fmt: skip
"""What pyarrow, json and NumPy raise for a file that has a valid seal and is still not a record."""


def _unreadable(path: Path, error: OSError) -> RecordError:
    return RecordError(f"{path}: cannot be read: {error.strerror or error}")


def _footer_size(tail: bytes, size: int) -> int:
    """How many bytes of a Parquet file are its footer, of its last eight; 0 if it is none."""
    footer = int.from_bytes(tail[:4], "little") + _TAIL
    return footer if len(tail) == _TAIL and tail[4:] == b"PAR1" and footer <= min(size, _LARGEST_FOOTER) else 0


def _footer(path: Path, file: BinaryIO) -> tuple[bytes, int]:
    """The footer of an open file, with its length and ``PAR1``, or nothing if there is none; and the file's size."""
    size = file.seek(0, os.SEEK_END)
    if size > LARGEST_FILE:
        raise RecordError(f"{path}: not a record: a record has at most {LARGEST_FILE} bytes, got {size}")
    file.seek(max(0, size - _TAIL))
    footer = _footer_size(file.read(_TAIL), size)
    file.seek(size - footer)
    return file.read(footer), size


def _sealed(footer: bytes, data: str) -> bytes:
    """The footer with the two digests written into their places, which were blank."""
    (blank,) = _SEAL.finditer(footer)
    filled = footer[: blank.start(1)] + data.encode() + footer[blank.end(1) :]
    return filled[: blank.start(2)] + sha256(filled).hexdigest().encode() + filled[blank.end(2) :]


def _said(path: Path, footer: bytes, size: int) -> dict[str, Any]:
    """What a footer says of the file. Its seal is checked first, so that pyarrow never gets a damaged file."""
    seal = _SEAL.search(footer)
    if seal is None:
        raise RecordError(f"{path}: not a record, or damaged: it has no footer with the seal of one")
    blank = footer[: seal.start(2)] + _BLANK.encode() + footer[seal.end(2) :]
    if sha256(blank).hexdigest().encode() != seal[2]:
        raise RecordError(f"{path}: damaged: the footer is not as it was written")
    try:
        metadata = pq.read_metadata(pa.BufferReader(footer))
        found = json.loads((metadata.metadata or {})[KEY])
        _check_format(found)
        validity.check_kind(kind_of(found))
        _check_totals(metadata, found, size - len(footer))
    except MemoryError:
        raise
    except _NO_RECORD as error:
        raise RecordError(f"{path}: not a record that this version reads: {error}") from error
    return {**found, "tokens": metadata.num_rows}


def _check_format(found: Any) -> None:
    if found["format"] == "detsample rollout 1" or found["contract_version"] == 1:
        raise RecordError(f"it was written under contract 1, and {FIRST_CONTRACT}")
    if found["format"] not in (FORMAT, PLAIN):
        raise RecordError(f"expected the format {FORMAT!r} or {PLAIN!r}, got {found['format']!r:.80}")
    if found["contract_version"] != detsample.CONTRACT_VERSION:
        got = f"expected contract version {detsample.CONTRACT_VERSION}, got {found['contract_version']!r:.80}"
        raise RecordError(f"{got}: other contracts draw other tokens from the same seeds and logits")


FIRST_CONTRACT = "the same seeds and logits give other tokens under contract 2: it cannot be replayed, only drawn anew"


def _check_totals(metadata: pq.FileMetaData, found: dict[str, Any], data: int) -> None:
    """Check that the columns are those of a record, lie one behind the other, fill the file, and hold no more than a
    record may. At this point no data has been read, and no memory has been allocated for it.
    """
    rows, groups, top_n = metadata.num_rows, metadata.num_row_groups, found["top_n"]
    schema = _SCHEMA.remove(_SCHEMA.get_field_index("applied")) if found["format"] == PLAIN else _SCHEMA
    if not schema.equals(metadata.schema.to_arrow_schema(), check_metadata=False):
        raise RecordError("its columns are not those of a record")
    if not (0 <= rows <= MOST_TOKENS and groups == 1 and metadata.row_group(0).num_rows == rows):
        raise RecordError(f"expected one row group of at most {MOST_TOKENS} tokens, got {groups} and {rows} tokens")
    at = len(b"PAR1")
    for index, name in enumerate(schema.names):
        column = metadata.row_group(0).column(index)
        start = column.data_page_offset if column.dictionary_page_offset is None else column.dictionary_page_offset
        most = rows + MOST_IDS if name in _SETS else rows * max(1, top_n if name.startswith("top_") else 1)
        if not (rows <= column.num_values <= most and 0 <= column.total_uncompressed_size <= _SPARE + 32 * most):
            raise RecordError(f"{name} is to have {rows} to {most} values, got {column.num_values}")
        if start != at or column.total_compressed_size < 0:
            raise RecordError(f"{name} is to begin at byte {at}, got {start}")
        at += column.total_compressed_size
    if at != data:
        raise RecordError(f"its columns are to fill {data} bytes, got {at}")


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
    if offsets[-1] > MOST_OFFSET:
        raise ValueError(f"a column of lists must have at most {MOST_OFFSET} values, got {offsets[-1]}")
    kind = _LIST if values.dtype == np.int32 else _REALS
    mask = None if missing is None else pa.array(missing)
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(values), type=kind, mask=mask)


def _record(table: pa.Table, said: dict[str, Any]) -> Record:
    if said["format"] == PLAIN:
        table = table.append_column("applied", pa.array(np.zeros(table.num_rows, COLUMNS["applied"])))
    columns: dict[str, Any] = {name: _column(table, name).to_numpy(zero_copy_only=False) for name in COLUMNS}
    shape = table.num_rows, said["top_n"]
    kept = _kept(table, said["vocab"])
    if not said["keep_sets"] and kept.token_ids.size:
        raise RecordError("keep_sets is false, and it has kept sets")
    return Record(
        said["contract_version"],
        said["vocab"],
        said["filter_order"],
        **columns,
        top_token_ids=_equal_lists(_column(table, "top_token_ids"), shape, np.int32),
        top_logprobs=_equal_lists(_column(table, "top_logprobs"), shape, np.float32),
        kept=kept if said["keep_sets"] else None,
    )


def _column(table: pa.Table, name: str) -> pa.Array:
    chunks = table.column(name).chunks
    array = chunks[0] if chunks else pa.array([], table.schema.field(name).type)
    array.validate(full=True)
    if array.null_count and name not in _SETS:
        raise RecordError(f"{name} must have a value in each row, got {array.null_count} without")
    return array


def _equal_lists(array: pa.Array, shape: tuple[int, int], dtype: type) -> np.ndarray:
    """A column of lists that are all of one length."""
    if (np.asarray(array.value_lengths()) != shape[1]).any():
        raise RecordError(f"lists of first tokens must have {shape[1]} values, as the file says, got others")
    values: np.ndarray = array.flatten().to_numpy(zero_copy_only=False)
    return values.astype(dtype, copy=False).reshape(shape)


def _counts(array: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """How long each list is, and which there are."""
    there = np.asarray(array.is_valid())
    return np.asarray(array.value_lengths().fill_null(0)).astype(np.int64), there


def _kept(table: pa.Table, vocab: int) -> KeptSets:
    kept, dropped = _column(table, "kept_token_ids"), _column(table, "dropped_token_ids")
    kept_counts, is_kept = _counts(kept)
    dropped_counts, is_dropped = _counts(dropped)
    if (is_kept & is_dropped).any():
        raise RecordError("a row must list what it keeps or what it drops, got one that lists both")
    offsets = np.append(0, np.cumsum(kept_counts + dropped_counts))
    ids = np.empty(offsets[-1], np.int32)
    of_dropped = np.repeat(is_dropped, kept_counts + dropped_counts)
    ids[~of_dropped] = kept.flatten().to_numpy(zero_copy_only=False)
    ids[of_dropped] = dropped.flatten().to_numpy(zero_copy_only=False)
    return KeptSets(vocab, offsets, ids, is_dropped)
