"""CPU tensors and arrays: brought to the NumPy reference and back."""

from __future__ import annotations

from typing import Any

import numpy as np

import detsample.reference as reference
from detsample.sampler.on_cpu import as_array, as_arrays
from detsample.sampler.output import SampleOutput
from detsample.sampler.sample import sample
from detsample.speculative.arguments import Batch
from detsample.speculative.output import TreeOutput, VerifyOutput


def _how(batch: Batch) -> dict[str, Any]:
    """The keyword arguments that are alike for chains and trees."""
    framework, offsets = batch.logits.framework, batch.row_offsets
    row_offsets = None if offsets is None else framework.as_array(offsets.tensor)
    return {**as_arrays(framework, batch.given), "row_offsets": row_offsets}


def _count(batch: Batch) -> Any:
    return as_array(batch.logits.framework, batch.counts)


def _tensors(batch: Batch, *arrays: np.ndarray | None) -> list[Any]:
    framework, device = batch.logits.framework, batch.logits.device
    return [None if array is None else framework.from_array(array, device) for array in arrays]


def verify(batch: Batch, draft_tokens: Any, logprobs: bool, method: dict[str, Any]) -> VerifyOutput:
    """Serve `detsample.speculative.verify` with the reference."""
    array = batch.logits.framework.as_array
    given: dict[str, Any] = {name: array(x) if name != "method" and x is not None else x for name, x in method.items()}
    out = reference.verify(
        array(batch.whole), array(draft_tokens), _count(batch), **_how(batch), **given, return_logprobs=logprobs
    )
    return VerifyOutput(*_tensors(batch, out.token_ids, out.num_accepted, out.status, out.logprobs))


def verify_tree(batch: Batch, draft_tokens: Any, parents: Any, logprobs: bool) -> TreeOutput:
    """Serve `detsample.speculative.verify_tree` with the reference."""
    array = batch.logits.framework.as_array
    out = reference.verify_tree(
        array(batch.whole), array(draft_tokens), array(parents), num_nodes=_count(batch), **_how(batch),
        return_logprobs=logprobs,
    )  # fmt: skip
    return TreeOutput(*_tensors(batch, out.token_ids, out.num_accepted, out.nodes, out.status, out.logprobs))


def draw(batch: Batch, logprobs: bool) -> SampleOutput:
    """Draw all rows of requests that have `width` rows each."""
    how = _how(batch)
    del how["row_offsets"]

    def of_rows(value: Any) -> Any:
        return np.repeat(np.ravel(value), batch.width) if np.ndim(value) else value

    ahead = np.tile(np.arange(batch.width), batch.requests)
    how = {name: of_rows(value) for name, value in how.items()}
    with np.errstate(over="ignore"):
        how["position"] = np.add(how["position"], ahead, dtype=np.int64)
    tensors = dict(zip(how, _tensors(batch, *(v if np.ndim(v) else None for v in how.values())), strict=True))
    given = {name: how[name] if tensor is None else tensor for name, tensor in tensors.items()}
    return sample(batch.logits.tensor, **given, return_logprobs=logprobs)
