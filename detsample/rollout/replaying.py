"""Answers whether tokens are those that their seeds draw from given logits. If not, it gives the first difference and
its kind.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import detsample
from detsample import frameworks
from detsample.frameworks import operations
from detsample.frameworks.recording import unrecorded
from detsample.processing import Processing
from detsample.rollout.observation import draw
from detsample.rollout.record import Record

MEANING = {
    "applied": "something else was done to the logits before the draw: give `allowed` and `processing` as at the draw",
    "status": "the row is valid in one of the two and invalid in the other, or for another reason",
    "kept": "another set was kept: the logits or the filters' parameters are not those of the draw",
    "log_z": "the same set was kept and has another mass: the logits are not those of the draw",
    "entropy": "the same set was kept and is otherwise distributed: the logits are not those of the draw",
    "top": "the first tokens are others, or otherwise probable: the logits are not those of the draw",
    "token_ids": "set and mass are the recorded ones and another token is drawn: the seed, the position or the token "
    "is not the draw's",
    "logprobs": "the token is the recorded one and has another log probability: the logits are not those of the draw, "
    "or the number was changed",
    "raw_logprobs": "the token has another raw log probability: the logits are not those of the draw",
    "rank": "the token has another rank: the logits are not those of the draw",
}
"""The kinds of differences, and what each means. Results that depend on the logits only come before the token, and
results that depend on the token come after it. So the first kind in which a row differs says which of the two has
changed.
"""


@dataclass(frozen=True)
class Difference:
    """One row in which a record and its replay differ.

    Attributes
    ----------
    row : int
        Which row of the record.
    sequence, position : int
        Which token that is.
    kind : str
        The first of the kinds in `MEANING` by which the row differs.
    recorded, found : object
        What the record says and what was drawn: a number, or a list of ids that are only in the one or the other
        kept set.
    """

    row: int
    sequence: int
    position: int
    kind: str
    recorded: Any
    found: Any

    def __str__(self) -> str:
        where = f"row {self.row} (sequence {self.sequence}, position {self.position})"
        return f"{where}: {self.kind}: recorded {self.recorded}, found {self.found}; {MEANING[self.kind]}"


@dataclass(frozen=True)
class Replay:
    """The result of a replay.

    Attributes
    ----------
    tokens : int
        How many rows were replayed.
    kinds : dict
        How many of them differ, by the first kind of difference.
    first : Difference or None
        The first row that differs.
    """

    tokens: int
    kinds: dict[str, int] = field(default_factory=dict)
    first: Difference | None = None

    @property
    def same(self) -> bool:
        """Whether every row is what the record says, to the last bit."""
        return self.first is None

    @staticmethod
    def join(parts: Iterable[Replay]) -> Replay:
        """The replay of records one behind the other."""
        tokens, kinds, first = 0, dict[str, int](), None
        for part in parts:
            if first is None and part.first is not None:
                shifted = {**part.first.__dict__, "row": part.first.row + tokens}
                first = Difference(**shifted)
            tokens += part.tokens
            for kind, count in part.kinds.items():
                kinds[kind] = kinds.get(kind, 0) + count
        return Replay(tokens, kinds, first)

    def __str__(self) -> str:
        if self.same:
            return f"{self.tokens:,} tokens, all as recorded"
        counts = ", ".join(f"{count:,} {kind}" for kind, count in self.kinds.items())
        return f"{sum(self.kinds.values()):,} of {self.tokens:,} tokens differ ({counts}); first: {self.first}"


@unrecorded
def replay(record: Record, logits: Any, allowed: Any = None, processing: Processing | None = None) -> Replay:
    """Draw a record's tokens again and compare every bit that it holds.

    Parameters
    ----------
    record : Record
        Of N tokens.
    logits : [N, V] fp32, bf16 or fp16
        A row for each token of the record: a Paddle tensor, a torch tensor or a NumPy array. Waits for the device.
    allowed, processing : optional
        What was given to `draw`. The record holds a digest of them, by which a row differs at once if they do.

    Returns
    -------
    Replay

    Raises
    ------
    TypeError
        If one of the two is something else.
    ValueError
        If the logits are not of the record's shape, or the record is of another contract version.

    Examples
    --------
    >>> import numpy as np
    >>> from detsample import rollout
    >>> logits = np.random.default_rng(0).standard_normal((3, 100), dtype=np.float32)
    >>> drawn = rollout.draw(logits, np.array([5, 6, 7]), position=np.array([8, 9, 9]), top_p=0.9)
    >>> record = rollout.Record.of(drawn, sequence=np.array([0, 1, 2]))
    >>> print(replay(record, logits))
    3 tokens, all as recorded
    >>> logits[1, 3] += 2
    >>> replay(record, logits).first.kind
    'kept'
    """
    _check(record, logits)
    again = _draw_again(record, logits, allowed, processing)
    unequal = _differences(record, again)
    differs = np.zeros(len(record), bool)
    kinds: dict[str, int] = {}
    first: Difference | None = None
    for kind, rows in unequal.items():
        new = rows & ~differs
        differs |= rows
        if new.any():
            kinds[kind] = int(new.sum())
            row = int(np.flatnonzero(new)[0])
            if first is None or row < first.row:
                first = _difference(kind, row, record, again)
    return Replay(len(record), kinds, first)


def _check(record: Record, logits: Any) -> None:
    if not isinstance(record, Record):
        raise TypeError(f"record must be a Record, got {type(record).__name__}")
    if record.contract_version != detsample.CONTRACT_VERSION:
        raise ValueError(
            f"record must be of contract version {detsample.CONTRACT_VERSION}, got {record.contract_version}"
        )
    shape = frameworks.of(logits, "logits").shape(logits)
    if shape != (len(record), record.vocab):
        raise ValueError(f"logits must have shape {[len(record), record.vocab]} like the record, got {list(shape)}")


def _draw_again(record: Record, logits: Any, allowed: Any, processing: Processing | None) -> Record:
    ops = operations.of(frameworks.of(logits).name)
    # Copies: the columns of a file are read-only.
    given = {
        name: ops.placed(value.copy(), logits) if isinstance(value, np.ndarray) else value
        for name, value in record.parameters().items()
    }
    drawn = draw(logits, **given, allowed=allowed, processing=processing, top_n=record.top_token_ids.shape[1])
    return Record.of(drawn, record.sequence, keep_sets=record.kept is not None)


def _differences(record: Record, again: Record) -> dict[str, np.ndarray]:
    """For each kind, in which rows the two differ by it."""
    kept = record.num_kept != again.num_kept
    if record.kept is not None and again.kept is not None:
        kept = kept | ~record.kept.same(again.kept)
    top = _unequal(record.top_token_ids, again.top_token_ids) | _unequal(record.top_logprobs, again.top_logprobs)
    found = {"status": record.status != again.status, "kept": kept, "top": top.any(axis=1)}
    found["applied"] = (record.applied != 0) & (record.applied != again.applied)  # 0: nothing is said
    return {
        kind: found[kind] if kind in found else _unequal(getattr(record, kind), getattr(again, kind))
        for kind in MEANING
    }


def _unequal(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Where two columns differ as bits: NaN equals NaN, and -0 is not 0."""
    return one.view(np.int32) != other.view(np.int32)


def _difference(kind: str, row: int, record: Record, again: Record) -> Difference:
    recorded, found = (_value(kind, row, *pair) for pair in ((record, again), (again, record)))
    return Difference(row, int(record.sequence[row]), int(record.position[row]), kind, recorded, found)


def _value(kind: str, row: int, mine: Record, other: Record) -> Any:
    """The value on one side. For kept sets, the ids that are only in that one."""
    if kind == "top":
        named = zip(mine.top_token_ids[row].tolist(), mine.top_logprobs[row].tolist(), strict=True)
        return [f"{token} ({logprob:.9g})" for token, logprob in named]
    if kind != "kept":
        return getattr(mine, kind)[row].item()
    if mine.kept is None or other.kept is None:
        return int(mine.num_kept[row])
    alone = mine.kept.rows([row]).mask()[0] & ~other.kept.rows([row]).mask()[0]
    return np.flatnonzero(alone).tolist()
