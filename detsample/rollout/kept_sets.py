"""Kept sets on the host, as a record holds them: the ids that are kept, or those that are dropped if they are fewer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from detsample import frameworks
from detsample.sampler.output import Csr

_BITS_SET = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1, dtype=np.uint8)
"""How many bits of each byte are set."""


@dataclass(frozen=True, eq=False)
class KeptSets:
    """A set of tokens for each of N rows.

    A row lists the ids it keeps or, where that is shorter, those it drops: a row without filters lists nothing.
    `of_bits` always chooses the shorter list, so equal sets have equal lists.

    Attributes
    ----------
    vocab : int
        V.
    row_offsets : [N + 1] int64
        Row r lists ``token_ids[row_offsets[r]:row_offsets[r + 1]]``.
    token_ids : [M] int32
        Ascending in each row.
    dropped : [N] bool
        Whether the row lists the ids it drops.
    """

    vocab: int
    row_offsets: np.ndarray
    token_ids: np.ndarray
    dropped: np.ndarray

    @staticmethod
    def of_bits(words: np.ndarray, vocab: int) -> KeptSets:
        """The sets of a mask in the form ``"bits"``, int32 [N, ceil(V / 32)].

        Examples
        --------
        >>> sets = KeptSets.of_bits(np.array([[0b00110], [0b11101]], np.int32), 5)
        >>> sets.token_ids, sets.dropped
        (array([1, 2, 1], dtype=int32), array([False,  True]))
        """
        words = words.view(np.uint32) & _inside(vocab)
        dropped = 2 * _BITS_SET[words.view(np.uint8)].sum(axis=1, dtype=np.int64) > vocab
        words[dropped] ^= _inside(vocab)
        row, at = np.nonzero(words)  # Few words have a bit that is set, and only these are unpacked.
        octets = np.ascontiguousarray(words[row, at], "<u4").view(np.uint8).reshape(-1, 4)
        hit, bit = np.nonzero(np.unpackbits(octets, axis=1, bitorder="little"))
        counts = np.bincount(row[hit], minlength=len(words))
        return KeptSets(vocab, _offsets(counts), (at[hit] * 32 + bit).astype(np.int32), dropped)

    @staticmethod
    def of_mask(mask: np.ndarray) -> KeptSets:
        """The sets of a mask in the form ``"bool"``, [N, V]."""
        octets = np.packbits(mask, axis=1, bitorder="little")
        padded = np.pad(octets, ((0, 0), (0, -octets.shape[1] % 4)))
        return KeptSets.of_bits(padded.view("<u4").astype(np.uint32), mask.shape[1])

    @staticmethod
    def of_csr(csr: Csr, vocab: int) -> KeptSets:
        """The sets of a mask in the form ``"csr"``, of any framework; waits for the device."""
        offsets, ids = (frameworks.of(x).fetch(x) for x in (csr.row_offsets, csr.token_ids))
        return KeptSets(vocab, offsets, ids[: offsets[-1]], np.zeros(len(offsets) - 1, bool))

    @staticmethod
    def concatenate(parts: Sequence[KeptSets]) -> KeptSets:
        """One after the other; at least one, of one vocabulary."""
        counts = np.concatenate([np.diff(part.row_offsets) for part in parts])
        ids, dropped = (np.concatenate([getattr(part, name) for part in parts]) for name in ("token_ids", "dropped"))
        return KeptSets(parts[0].vocab, _offsets(counts), ids, dropped)

    def __len__(self) -> int:
        return len(self.dropped)

    @property
    def listed(self) -> np.ndarray:
        """How many ids each row lists, int64 [N]."""
        return np.diff(self.row_offsets)

    @property
    def num_kept(self) -> np.ndarray:
        """How many tokens each row keeps, int64 [N]."""
        return np.where(self.dropped, self.vocab - self.listed, self.listed)

    def rows(self, index: Any) -> KeptSets:
        """The sets of some rows: a slice, or an array of row numbers in any order."""
        chosen = np.arange(len(self))[index]
        counts = self.listed[chosen]
        offsets = _offsets(counts)
        at = np.arange(offsets[-1]) + np.repeat(self.row_offsets[chosen] - offsets[:-1], counts)
        return KeptSets(self.vocab, offsets, self.token_ids[at], self.dropped[chosen])

    def mask(self) -> np.ndarray:
        """Bool [N, V]."""
        kept = np.repeat(self.dropped[:, None], self.vocab, axis=1)
        row = np.repeat(np.arange(len(self)), self.listed)
        kept[row, self.token_ids] = ~self.dropped[row]
        return kept

    def csr(self) -> Csr:
        """The kept ids of all rows, in the form ``"csr"``; as long as V for a row that keeps everything."""
        if not self.dropped.any():
            return Csr(self.row_offsets, self.token_ids)
        parts = [np.flatnonzero(self.rows([row]).mask()[0]) for row in range(len(self))]
        return Csr(self.row_offsets * 0 + _offsets(self.num_kept), np.concatenate(parts).astype(np.int32))

    def bits(self) -> np.ndarray:
        """In the form ``"bits"``, int32 [N, ceil(V / 32)]."""
        words = np.zeros((len(self), -(-self.vocab // 32)), np.uint32)
        row = np.repeat(np.arange(len(self)), self.listed)
        one = np.uint32(1) << (self.token_ids & 31).astype(np.uint32)
        np.bitwise_or.at(words, (row, self.token_ids >> 5), one)
        words[self.dropped] ^= _inside(self.vocab)
        return words.view(np.int32)

    def same(self, other: KeptSets) -> np.ndarray:
        """In which rows the two have the same set, bool [N]. Both must list sets as `of_bits` does."""
        same = (self.dropped == other.dropped) & (self.listed == other.listed)
        rows = np.flatnonzero(same)
        one, two = self.rows(rows), other.rows(rows)
        unequal = one.token_ids != two.token_ids
        same[rows[np.repeat(np.arange(len(rows)), one.listed)[unequal]]] = False
        return same


def _offsets(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])


def _inside(vocab: int) -> np.ndarray:
    """For each word the bits that are tokens, uint32 [ceil(V / 32)]."""
    words = np.full(-(-vocab // 32), 0xFFFFFFFF, np.uint32)
    if vocab % 32:
        words[-1] = (1 << vocab % 32) - 1
    return words
