"""Where a rank's shard lies, and whether the ranks of a group call for the same thing."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from detsample import CONTRACT_VERSION
from detsample.frameworks import operations
from detsample.sampler.parameters import (
    FILTER_ORDERS,
    LARGEST_VOCABULARY,
    LOGIT_TYPES,
    Logits,
    Parameter,
    Parameters,
    Scalar,
    as_integer,
)
from detsample.sharded.groups import Group

OPERATIONS = ("sample", "mask", "verify")
MOST_KNOWN = 4096
_TENSOR, _NUMBER = -(1 << 63), -(1 << 63) + 1  # stand for any tensor and any number


class Place(NamedTuple):
    """Where a rank's shard lies."""

    rank: int
    starts: tuple[int, ...]
    """The first token id of each rank, and V behind them."""

    @property
    def start(self) -> int:
        """The token id of this rank's first column."""
        return self.starts[self.rank]

    @property
    def widths(self) -> tuple[int, ...]:
        """How many columns each rank has."""
        return tuple(end - start for start, end in zip(self.starts, self.starts[1:], strict=False))

    @property
    def columns(self) -> int:
        """How many columns this rank has."""
        return self.widths[self.rank]

    @property
    def vocab(self) -> int:
        """V, of all ranks together."""
        return self.starts[-1]


# What ranks have agreed on. Groups are kept alive, so that no other group has the id of one.
_KNOWN: dict[tuple[Any, ...], tuple[Any, Place]] = {}


def agreed_place(
    group: Group, owner: Any, operation: str, want: int, of: Logits, columns: int, given: Parameters, vocab_start: Any,
    vocab: Any, again: bool,
) -> Place:  # fmt: skip
    """Return the place of this rank's shard.

    At the first call of a kind, or `again`, all ranks tell each other what they call for, and the host waits for the
    answer. A kind is everything that decides which messages a call sends.

    Raises
    ------
    TypeError, ValueError
        If the ranks call for different things, or if their shards are not one vocabulary. The message names both sides.
    """
    told = {
        "the contract's version": CONTRACT_VERSION,
        "the operation": OPERATIONS.index(operation),
        "the number of rows": of.rows,
        "the type of the logits": LOGIT_TYPES.index(of.dtype),
        "vocab": as_integer("vocab", vocab, 1, LARGEST_VOCABULARY),
        "filter_order": FILTER_ORDERS.index(given.filter_order),
        "which results are wanted": want,
        **{name: _kind(name, value) for name, value in given._asdict().items() if name != "filter_order"},
    }
    own = (as_integer("vocab_start", vocab_start, 0, LARGEST_VOCABULARY), columns)
    call = (id(owner), of.device, *told.values(), *own)
    if again or call not in _KNOWN:
        message = operations.of(of.framework.name).placed(np.array([[*told.values(), *own]], np.int64), of.tensor)
        table = of.framework.fetch(group.all_gather(message))[:, 0]
        _require_equal(table, list(told))
        if len(_KNOWN) >= MOST_KNOWN:
            _KNOWN.clear()
        _KNOWN[call] = owner, Place(group.rank, starts_of(table[:, -2].tolist(), table[:, -1].tolist(), told["vocab"]))
    return _KNOWN[call][1]


def starts_of(firsts: Sequence[int], columns: Sequence[int], vocab: int) -> tuple[int, ...]:
    """The first token id of each rank, and V behind them.

    Raises
    ------
    ValueError
        If shards do not follow each other without a gap up to V.

    Examples
    --------
    >>> starts_of([0, 3], [3, 2], 5)
    (0, 3, 5)
    """
    end = 0
    for rank, (first, width) in enumerate(zip(firsts, columns, strict=True)):
        if first != end:
            raise ValueError(f"vocab_start must be {end} on rank {rank}, where the ranks before it end, got {first}")
        end += width
    if end != vocab:
        raise ValueError(f"vocab must be {end}, the columns of all ranks together, got {vocab}")
    return (*firsts, vocab)


def _kind(name: str, value: Parameter) -> int:
    """What of a parameter decides which messages are sent, as one number."""
    if not isinstance(value, Scalar):
        return _TENSOR
    if name in ("topp_seed", "position"):
        return _NUMBER
    bits: int = struct.unpack("<q", struct.pack("<d", value.value + 0.0))[0]  # -0 is 0
    return max(value.value, _NUMBER + 1) if isinstance(value.value, int) else bits


def _told(name: str, number: int) -> str:
    if number == _TENSOR:
        return "a tensor"
    if number == _NUMBER:
        return "a number"
    if name in ("temperature", "top_p", "min_p"):
        return str(struct.unpack("<d", struct.pack("<q", number))[0])
    words = {"the operation": OPERATIONS, "filter_order": FILTER_ORDERS, "the type of the logits": LOGIT_TYPES}
    return words[name][number] if name in words else str(number)


def _require_equal(table: np.ndarray, names: list[str]) -> None:
    """Raise if the ranks, which are the rows of the table, told different things."""
    differs = np.argwhere(table[:, : len(names)] != table[0, : len(names)])
    if differs.size:
        rank, which = differs[0].tolist()
        here, there = (_told(names[which], int(table[row, which])) for row in (0, rank))
        raise ValueError(f"all ranks must call alike: {names[which]} is {here} on rank 0 and {there} on rank {rank}")
