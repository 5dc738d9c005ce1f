"""Masks in three formats: section 10 of ``docs/contract/spec.md``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["KINDS", "Csr", "Mask", "MaskBuilder", "as_octets", "bits_of", "set_of_octets"]

KINDS = (None, "bool", "bits", "csr")


@dataclass(frozen=True)
class Csr:
    """Kept tokens by row: those of row b are ``token_ids[row_offsets[b]:row_offsets[b + 1]]``."""

    row_offsets: np.ndarray
    """int64 [B + 1]."""
    token_ids: np.ndarray
    """int32, ascending in each row; anything behind ``row_offsets[B]`` is -1."""


Mask = np.ndarray | Csr | None


def bits_of(kept: np.ndarray) -> np.ndarray:
    """Bool [R, V] to the ``bits`` format, int32 [R, ceil(V / 32)].

    Examples
    --------
    >>> bits_of(np.eye(2, 33, k=31, dtype=bool)).tolist()
    [[-2147483648, 0], [0, 1]]
    """
    rows, vocab = kept.shape
    padded = np.zeros((rows, -(-vocab // 32) * 32), bool)
    padded[:, :vocab] = kept
    return np.packbits(padded, axis=1, bitorder="little").view("<i4").astype(np.int32, copy=False)


def as_octets(name: str, kept: Any, rows: int, vocab: int) -> np.ndarray:
    """Kept sets as uint8 [R, at least ceil(V / 8)], of the ``bits`` format or of its bytes (section 10).

    Raises
    ------
    ValueError
        Another type or shape; ``name`` is the argument.

    Examples
    --------
    >>> as_octets("kept", np.int32([[-2147483648]]), 1, 32).tolist()
    [[0, 0, 0, 128]]
    """
    words, octets = -(-vocab // 32), -(-vocab // 8)
    if isinstance(kept, np.ndarray):
        if kept.dtype.name in ("int32", "uint32") and kept.shape == (rows, words):
            return np.ascontiguousarray(kept, kept.dtype.newbyteorder("<")).view(np.uint8)
        if kept.dtype == np.uint8 and kept.shape in ((rows, octets), (rows, 4 * words)):
            return kept
    got = f"{kept.dtype} {list(kept.shape)}" if isinstance(kept, np.ndarray) else type(kept).__name__
    raise ValueError(f"{name}: expected int32 or uint32 [{rows}, {words}], or uint8 [{rows}, {octets}], got {got}")


def set_of_octets(octets: np.ndarray, vocab: int) -> np.ndarray:
    """Turn the result of ``as_octets`` into bool [R, vocab]. Bits past the end are ignored.

    Examples
    --------
    >>> np.flatnonzero(set_of_octets(np.uint8([[128, 3]]), 9)).tolist()
    [7, 8]
    """
    return np.unpackbits(octets, axis=1, count=vocab, bitorder="little").view(bool)


class MaskBuilder:
    """Builds the mask of a call from blocks of rows, so that only one block at a time is held as bools.

    Parameters
    ----------
    name : str
        The argument that ``kind`` is, for the message of an error.
    kind : None, "bool", "bits" or "csr"
    rows, vocab : int

    Raises
    ------
    ValueError
        Another kind.
    """

    def __init__(self, name: str, kind: str | None, rows: int, vocab: int) -> None:
        if not (kind is None or (isinstance(kind, str) and kind in KINDS)):
            raise ValueError(f"{name}: expected None, 'bool', 'bits' or 'csr', got {kind!r}")
        self.kind, self.vocab = kind, vocab
        words = -(-vocab // 32)
        self._dense = np.zeros((rows, vocab), bool) if kind == "bool" else np.zeros((rows, words), np.int32)
        self._counts = np.zeros(rows, np.int64)
        self._ids: list[np.ndarray] = []

    def add(self, start: int, kept: np.ndarray) -> None:
        """Take the block of rows from ``start`` on, bool [R, V]; blocks come in order of rows."""
        rows = slice(start, start + len(kept))
        if self.kind == "csr":
            self._counts[rows] = kept.sum(axis=1)
            self._ids.append(np.nonzero(kept)[1].astype(np.int32))
        else:
            self._dense[rows] = kept if self.kind == "bool" else bits_of(kept)

    def result(self) -> Mask:
        """The mask of all rows."""
        if self.kind is None:
            return None
        if self.kind == "csr":
            offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(self._counts)])
            return Csr(offsets, np.concatenate([np.zeros(0, np.int32), *self._ids]))
        return self._dense
