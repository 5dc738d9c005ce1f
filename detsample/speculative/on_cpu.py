"""Serves CPU tensors and arrays: turns them into arrays for the NumPy reference, and its results back into tensors."""

from __future__ import annotations

from typing import Any

import numpy as np

import detsample.reference as reference
from detsample.sampler import on_cpu
from detsample.sampler.output import SampleOutput, Wanted
from detsample.speculative.arguments import Batch, Drafter, Table
from detsample.speculative.output import TreeOutput, VerifyOutput


def how_of(batch: Batch) -> dict[str, Any]:
    """The keyword arguments that are the same for chains and trees."""
    framework, offsets = batch.logits.framework, batch.row_offsets
    row_offsets = None if offsets is None else framework.as_array(offsets.tensor)
    sets = batch.logits.allowed
    allowed = None if sets is None else framework.as_array(sets.tensor)
    if allowed is not None and offsets is None:
        allowed = allowed.reshape(batch.requests, batch.width, -1)
    return {**on_cpu.as_arrays(framework, batch.given), "row_offsets": row_offsets, "allowed": allowed}


def _count(batch: Batch) -> Any:
    return on_cpu.as_array(batch.logits.framework, batch.counts)


def _tensors(batch: Batch, *arrays: np.ndarray | None) -> list[Any]:
    framework, device = batch.logits.framework, batch.logits.device
    return [None if array is None else framework.from_array(array, device) for array in arrays]


def verify(batch: Batch, drafts: Table, drafter: Drafter | None, logprobs: bool) -> VerifyOutput:
    """Serve `detsample.speculative.verify` with the reference."""
    array, how = batch.logits.framework.as_array, how_of(batch)
    if drafter is not None:
        how |= {"method": "rejection", "draft_logits" if drafter.is_logits else "draft_probs": array(drafter.whole)}
    out = reference.verify(array(batch.whole), array(drafts.tensor), _count(batch), **how, return_logprobs=logprobs)
    return VerifyOutput(*_tensors(batch, out.token_ids, out.num_accepted, out.status, out.logprobs))


def verify_tree(batch: Batch, drafts: Table, parents: Table, logprobs: bool) -> TreeOutput:
    """Serve `detsample.speculative.verify_tree` with the reference."""
    array = batch.logits.framework.as_array
    out = reference.verify_tree(
        array(batch.whole), array(drafts.tensor), array(parents.tensor), num_nodes=_count(batch), **how_of(batch),
        return_logprobs=logprobs,
    )  # fmt: skip
    return TreeOutput(*_tensors(batch, out.token_ids, out.num_accepted, out.nodes, out.status, out.logprobs))


def draw(batch: Batch, logprobs: bool) -> SampleOutput:
    """Draw all rows of requests that have `width` rows each."""

    def of_rows(value: Any) -> Any:
        return np.repeat(np.ravel(value), batch.width) if np.ndim(value) else value

    how = {name: of_rows(x) for name, x in on_cpu.as_arrays(batch.logits.framework, batch.given).items()}
    with np.errstate(over="ignore"):
        how["position"] = np.add(how["position"], np.tile(np.arange(batch.width), batch.requests), dtype=np.int64)
    return on_cpu.draw(batch.logits, how, Wanted(True, logprobs, False, None, num_kept=False))
