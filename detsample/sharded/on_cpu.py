"""Serves CPU tensors and arrays: one rank of the NumPy reference, whose messages become tensors of the group."""

from __future__ import annotations

from typing import Any

import numpy as np

from detsample.frameworks import Framework
from detsample.reference import sharded
from detsample.sampler.on_cpu import as_array, as_arrays, as_output
from detsample.sampler.output import SampleOutput, Wanted
from detsample.sampler.parameters import Logits, Parameters
from detsample.sharded.agreement import Place
from detsample.sharded.groups import R, Steps
from detsample.speculative.arguments import Batch, Table
from detsample.speculative.on_cpu import how_of
from detsample.speculative.output import VerifyOutput


def draw(place: Place, of: Logits, given: Parameters, wanted: Wanted) -> Steps[SampleOutput]:
    """One rank of `sample` or `mask`."""
    how = as_arrays(of.framework, given)
    how["allowed"] = None if of.allowed is None else of.framework.as_array(of.allowed.tensor)
    if not wanted.token:
        how["topp_seed"] = None
    steps = sharded.draw_shard(
        _shard(place), of.framework.as_array(of.tensor)[:, : place.columns], **how,
        return_logprobs=wanted.logprobs, return_log_z=wanted.log_z, return_mask=wanted.mask,
    )  # fmt: skip
    return as_output(of.framework, of.device, (yield from _telling_tensors(of.framework, steps)))


def verify(place: Place, batch: Batch, drafts: Table, logprobs: bool) -> Steps[VerifyOutput]:
    """One rank of `verify`."""
    of = batch.logits
    array = of.framework.as_array
    steps = sharded.verify_shard(
        _shard(place), array(batch.whole)[..., : place.columns], array(drafts.tensor),
        as_array(of.framework, batch.counts), **how_of(batch), return_logprobs=logprobs,
    )  # fmt: skip
    out = yield from _telling_tensors(of.framework, steps)
    found = (out.token_ids, out.num_accepted, out.status, out.logprobs)
    return VerifyOutput(*(None if x is None else of.framework.from_array(x, of.device) for x in found))


def _shard(place: Place) -> sharded.Shard:
    return sharded.Shard(place.rank, place.start, place.vocab)


def _telling_tensors(framework: Framework, steps: sharded.Steps[R]) -> Steps[R]:
    """The steps of the reference, with tensors for messages."""
    try:
        message = next(steps)
        while True:
            gathered: Any = yield framework.from_array(np.ascontiguousarray(message), ("cpu", 0))
            message = steps.send(framework.as_array(gathered))
    except StopIteration as end:
        result: R = end.value
        return result
