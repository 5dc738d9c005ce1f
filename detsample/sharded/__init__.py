"""Sampling with a vocabulary that is cut into shards: the bits of the unsharded row, from a few numbers of each shard.

`sample`, `mask`, `verify` and `plan` are called on every rank of a group with the logits of its part of the
vocabulary, or once with a list of all parts. docs/sharded.md shows what goes from rank to rank, and why it is enough;
`detsample.reference.sharded` says it in NumPy.
"""

from detsample.sharded.calls import mask, plan, sample, verify
from detsample.sharded.groups import Group

__all__ = ["Group", "mask", "plan", "sample", "verify"]
