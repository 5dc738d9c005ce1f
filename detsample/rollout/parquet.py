"""Records as Parquet: one table a file, complete in itself. Needs pyarrow (the extra `rollout`).

Parquet, because a trainer reads it with whatever it has (pyarrow, Polars, DuckDB, Spark, Ray Data, the datasets
libraries), because a column that repeats costs nothing, and because a file has its schema, its statistics and
checksums of its pages.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import detsample
from detsample.rollout.kept_sets import KeptSets
from detsample.rollout.record import COLUMNS, Record

FORMAT = "detsample rollout 1"
KEY = b"detsample"

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
        "detsample": detsample.__version__,
    }
    table = pa.Table.from_arrays(_arrays(record), schema=_SCHEMA.with_metadata({KEY: json.dumps(about).encode()}))
    pq.write_table(
        table, file, row_group_size=max(1, len(record)), compression="zstd", use_dictionary=REPEATING,
        column_encoding=dict.fromkeys(DELTAS, "DELTA_BINARY_PACKED")
        | dict.fromkeys(PLANES, "BYTE_STREAM_SPLIT"),
        write_page_checksum=True,
    )  # fmt: skip


def about(path: Path) -> dict[str, Any]:
    """What a file says of itself: ``format``, ``contract_version``, ``vocab``, ``top_n``, ``detsample``, ``tokens``.

    Raises
    ------
    RecordError
        If it is no record that this version reads.
    """
    try:
        metadata = pq.read_metadata(path)
        found = json.loads((metadata.metadata or {})[KEY])
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise RecordError(f"{path}: not a record, or damaged: {error}") from error
    if found.get("format") != FORMAT:
        raise RecordError(f"{path}: expected the format {FORMAT!r}, got {found.get('format')!r}")
    return {**found, "tokens": metadata.num_rows}


def read(path: Path) -> Record:
    """Read a file back.

    Raises
    ------
    RecordError
        If it is no record, or is damaged.
    """
    said = about(path)
    try:
        table = pq.read_table(path, page_checksum_verification=True, partitioning=None)
        return _record(table.combine_chunks(), said)
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise RecordError(f"{path}: damaged: {error}") from error


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
