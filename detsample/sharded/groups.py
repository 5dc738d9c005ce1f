"""What detsample needs of the group of ranks that share a row: who is in it, and one collective."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np

R = TypeVar("R")
Steps = Generator[Any, Any, R]
"""What one rank does: it yields a message and is sent the messages of all ranks, until it returns. If it yields
`Parcels`, it is sent those for itself.
"""


class Parcels(NamedTuple):
    """Rows of logits for other ranks: equal parts of `rows`, one for each rank, in their order."""

    rows: Any


@runtime_checkable
class Group(Protocol):
    """The ranks that have the shards of a row, in the order of their token ids. Write one for any other library.

    Attributes
    ----------
    rank : int
        Which of the ranks this is, from 0.
    size : int
        How many there are.
    """

    rank: int
    size: int

    def all_gather(self, message: Any) -> Any:
        """The messages of all ranks, [size, ...], given one's own: a tensor of int64 on the device of the logits, of
        one shape everywhere. On a GPU it is queued on the current stream and must not wait for the device.
        """


def exchange(group: Group, rows: Any) -> Any:
    """Send `Parcels` and return those for this rank, one behind the other. A group may have a method `all_to_all` that
    does this; otherwise all ranks get all parcels, which costs more time.
    """
    if hasattr(group, "all_to_all"):
        return group.all_to_all(rows)
    everything = group.all_gather(rows)
    return everything.reshape((group.size, group.size, -1, rows.shape[-1]))[:, group.rank].reshape(rows.shape)


class OfTorch:
    """A process group of `torch.distributed`; None is the default one."""

    def __init__(self, group: Any) -> None:
        import torch.distributed as distributed

        self.rank, self.size, self._group = distributed.get_rank(group), distributed.get_world_size(group), group
        # torch 2.13 has another name for it, and warns of the one before.
        self._gather = getattr(distributed, "all_gather_single", None) or distributed.all_gather_into_tensor
        if self.rank < 0:
            raise ValueError("group must have this process as a member, got a group without it")

    def all_gather(self, message: Any) -> Any:
        """See `Group`."""
        gathered = message.new_empty((self.size * message.shape[0], *message.shape[1:]))
        self._gather(gathered, message, group=self._group)
        return gathered.reshape((self.size, *message.shape))

    def all_to_all(self, rows: Any) -> Any:
        """See `exchange`."""
        import torch.distributed as distributed

        received = rows.new_empty(rows.shape)
        distributed.all_to_all_single(received, rows.detach().contiguous(), group=self._group)
        return received


class OfPaddle:
    """A group of `paddle.distributed`; None is the default one."""

    def __init__(self, group: Any) -> None:
        import paddle.distributed as distributed

        self._group = distributed.get_group(0) if group is None else group
        self.rank, self.size = self._group.rank, self._group.nranks
        if self.rank < 0:
            raise ValueError("group must have this process as a member, got a group without it")

    def all_gather(self, message: Any) -> Any:
        """See `Group`."""
        import paddle
        import paddle.distributed as distributed

        gathered: list[Any] = []
        distributed.all_gather(gathered, message, group=self._group)
        return paddle.stack(gathered)


def group_of(group: Any, framework: str) -> Group:
    """Return the group that a caller means.

    Raises
    ------
    TypeError
        If it is none: NumPy's arrays, which belong to no library of collectives, need an object like `Group`.
    """
    if isinstance(group, Group):
        return group
    if framework == "numpy":
        raise TypeError(f"group must have rank, size and all_gather for NumPy arrays, got {type(group).__qualname__}")
    return OfTorch(group) if framework == "torch" else OfPaddle(group)


def alone(steps: Steps[R], group: Group) -> R:
    """Do what one rank does, and return what it returns."""
    try:
        message = next(steps)
        while True:
            parcels = isinstance(message, Parcels)
            message = steps.send(exchange(group, message.rows) if parcels else group.all_gather(message))
    except StopIteration as end:
        result: R = end.value
        return result


def together(ranks: Sequence[Steps[R]]) -> list[R]:
    """Do what several ranks do, in one process."""
    messages, results = [next(steps) for steps in ranks], list[R]()
    while not results:
        gathered = [_stacked(messages, rank) for rank in range(len(messages))]
        messages = []
        for steps, all_messages in zip(ranks, gathered, strict=True):
            try:
                messages.append(steps.send(all_messages))
            except StopIteration as end:
                results.append(end.value)
    return results


def _stacked(messages: list[Any], rank: int) -> Any:
    """What a rank is sent, on the device of its own message."""
    if isinstance(messages[rank], Parcels):
        shape = (len(messages), -1, messages[rank].rows.shape[-1])
        return _stacked([each.rows.reshape(shape)[rank] for each in messages], rank).reshape(messages[rank].rows.shape)
    own = messages[rank]
    kind = type(own).__module__.partition(".")[0]
    if kind == "torch":
        import torch

        return torch.stack([message.to(own.device) for message in messages])
    if kind == "paddle":
        import paddle

        return paddle.stack([message.to(own.place) for message in messages])
    return np.stack(messages)
