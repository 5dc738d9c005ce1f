"""Checks a record: types, shapes, ranges and totals. All users of records rely on them.

A record that a sampler drew passes. One that was made by hand, or read from a file that somebody else sealed, may not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from detsample.rollout.kept_sets import KeptSets
from detsample.sampler.parameters import LARGEST_VOCABULARY, read_filter_order
from detsample.sampler.status import Status

if TYPE_CHECKING:
    from detsample.rollout.record import Kind, Record

MOST_TOP = 128


def check_kind(kind: Kind) -> None:
    """Raise ValueError unless a kind is one: its numbers are integers, and in range."""
    for name, value, least, most in (
        ("contract_version", kind.contract_version, 1, (1 << 31) - 1),
        ("vocab", kind.vocab, 1, LARGEST_VOCABULARY),
        ("top_n", kind.top_n, 0, MOST_TOP),
    ):
        if type(value) is not int or not least <= value <= most:
            raise ValueError(f"{name} must be an integer between {least} and {most}, got {value!r:.80}")
    if type(kind.keep_sets) is not bool:
        raise ValueError(f"keep_sets must be true or false, got {kind.keep_sets!r:.80}")
    read_filter_order(kind.filter_order)


def check(record: Record) -> None:
    """Raise ValueError, which names the column, for a record that no draw gives."""
    from detsample.rollout.record import COLUMNS

    check_kind(record.kind)
    rows, n, last = len(record.token_ids), record.kind.top_n, record.vocab - 1
    columns: dict[str, tuple[type, tuple[int, ...]]] = {name: (dtype, (rows,)) for name, dtype in COLUMNS.items()}
    columns |= {"top_token_ids": (np.int32, (rows, n)), "top_logprobs": (np.float32, (rows, n))}
    for name, (dtype, shape) in columns.items():
        _is_array(name, getattr(record, name), dtype, shape)
    valid = record.status == 0
    _within("status", record.status, 0, sum(Status))
    _within("token_ids", record.token_ids, np.where(valid, 0, -1), np.where(valid, last, -1))
    _within("num_kept", record.num_kept, valid, np.where(valid, record.vocab, 0))
    _within("rank", record.rank, -1, last)
    _within("top_token_ids", record.top_token_ids, -1, last)
    if record.kept is not None:
        _check_sets(record.kept, record)


def _check_sets(sets: KeptSets, record: Record) -> None:
    rows, ids, offsets = len(record.token_ids), sets.token_ids, sets.row_offsets
    _is_array("kept.row_offsets", offsets, np.int64, (rows + 1,))
    _is_array("kept.dropped", sets.dropped, np.bool_, (rows,))
    listed = sets.listed
    if sets.vocab != record.vocab:
        raise ValueError(f"kept must be of the record's vocabulary {record.vocab}, got {sets.vocab}")
    if offsets[0] != 0 or (listed < 0).any() or offsets[-1] != ids.size:
        raise ValueError(f"kept.row_offsets must ascend from 0 to {ids.size}, got {offsets[0]} to {offsets[-1]}")
    _is_array("kept.token_ids", ids, np.int32, (int(offsets[-1]),))
    _within("kept.token_ids", ids, 0, record.vocab - 1)
    first = np.zeros(ids.size + 1, bool)
    first[offsets[:-1]] = True
    if not ((np.diff(ids) > 0) | first[1:-1]).all():
        raise ValueError("kept.token_ids must ascend in each row, got others")
    _within("kept.num_kept", sets.num_kept, record.num_kept, record.num_kept)
    shorter = 2 * sets.num_kept > record.vocab
    _within("kept.dropped", sets.dropped.view(np.int8), shorter, shorter)


def _is_array(name: str, array: Any, dtype: type, shape: tuple[int, ...]) -> None:
    if not isinstance(array, np.ndarray) or array.dtype != dtype or array.shape != shape:
        got = f"{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray) else type(array).__name__
        raise ValueError(f"{name} must be {np.dtype(dtype)} {list(shape)}, got {got}")


def _within(name: str, values: np.ndarray, least: Any, most: Any) -> None:
    """Every number is within bounds, one pair for all or one for each row."""
    bad = (values < least) | (values > most)
    if bad.any():
        at = np.unravel_index(int(bad.argmax()), bad.shape)
        low, high = (int(np.broadcast_to(bound, values.shape)[at]) for bound in (least, most))
        expected = low if low == high else f"between {low} and {high}"
        raise ValueError(f"{name} must be {expected}, got {values[at]} in row {at[0]}")
