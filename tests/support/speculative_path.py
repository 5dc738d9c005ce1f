"""The kernels of speculative decoding behind the reference's signatures: arrays in, arrays out.

On a GPU, if there is one, through the public calls on its tensors. Elsewhere in Triton's interpreter, where rows are
drawn by the reference unless `by` says otherwise: drawing is tested in other files.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from kernel_path import GPU, on_device, prepare_interpreter, to_array
from same_bits import assert_same_bits

import detsample
from detsample import frameworks, speculative
from detsample.speculative.arguments import read_batch, read_draft_rows, read_drafts

FIELDS = ("token_ids", "num_accepted", "nodes", "status", "logprobs")
HOW = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}


def arrays(out: Any) -> Any:
    """The fields of an output as arrays."""
    names = [field.name for field in dataclasses.fields(out) if field.name != "_kept_alive"]
    return dataclasses.replace(out, **{name: to_array(getattr(out, name)) for name in names}, _kept_alive=None)


def verify(
    target_logits: np.ndarray, draft_tokens: np.ndarray, num_draft: Any, topp_seed: Any, *, position: Any,
    row_offsets: Any = None, method: str = "match", draft_probs: Any = None, draft_logits: Any = None,
    return_logprobs: bool = True, by: Any = None, **how: Any,
) -> Any:  # fmt: skip
    """`reference.verify` by the kernels."""
    if GPU is not None:
        tensors = {name: on_device(value) for name, value in how.items()}
        out = speculative.verify(
            *map(on_device, (target_logits, draft_tokens, num_draft, topp_seed)), position=on_device(position),
            row_offsets=on_device(row_offsets), method=method, draft_probs=on_device(draft_probs),
            draft_logits=on_device(draft_logits), return_logprobs=return_logprobs, **tensors,
        )  # fmt: skip
        return arrays(out)
    from detsample.speculative import on_gpu as launches

    prepare_interpreter()
    batch, drafts = _read(
        target_logits, draft_tokens, ("num_draft", num_draft), 1, row_offsets, topp_seed, position, how
    )
    if method == "match":
        return arrays(launches.match(batch, drafts, return_logprobs, by or detsample.sample))
    rows, is_logits = read_draft_rows(batch, draft_probs, draft_logits)
    return arrays(launches.reject(batch, drafts, rows, is_logits, return_logprobs, by or detsample.mask))


def verify_tree(
    target_logits: np.ndarray, draft_tokens: np.ndarray, parents: np.ndarray, topp_seed: Any, *, position: Any,
    num_nodes: Any = None, row_offsets: Any = None, return_logprobs: bool = True, by: Any = None, **how: Any,
) -> Any:  # fmt: skip
    """`reference.verify_tree` by the kernels."""
    if GPU is not None:
        tensors = {name: on_device(value) for name, value in how.items()}
        out = speculative.verify_tree(
            *map(on_device, (target_logits, draft_tokens, parents, topp_seed)), position=on_device(position),
            num_nodes=on_device(num_nodes), row_offsets=on_device(row_offsets), return_logprobs=return_logprobs,
            **tensors,
        )  # fmt: skip
        return arrays(out)
    from detsample.speculative import on_gpu as launches

    prepare_interpreter()
    counts = ("num_nodes", draft_tokens.shape[1] if num_nodes is None else num_nodes)
    batch, drafts = _read(target_logits, draft_tokens, counts, 0, row_offsets, topp_seed, position, how)
    numpy = batch.logits.framework
    above = read_drafts(numpy, batch.logits.device, "parents", parents, draft_tokens.shape)
    return arrays(launches.longest_path(batch, drafts, above, return_logprobs, by or detsample.sample))


def _read(
    logits: np.ndarray, drafts: np.ndarray, counts: Any, extra: int, row_offsets: Any, seed: Any, position: Any,
    how: dict[str, Any],
) -> Any:  # fmt: skip
    numpy = frameworks.of(logits)
    table = read_drafts(numpy, numpy.device(logits), "draft_tokens", drafts, None)
    given = HOW | how
    batch = read_batch(
        logits, "target_logits", drafts.shape[0], drafts.shape[1] + extra, counts, extra, row_offsets,
        seed, position, given["temperature"], given["top_k"], given["top_p"], given["min_p"],
    )  # fmt: skip
    return batch, table


def assert_same(found: Any, expected: Any, context: object = "") -> None:
    """All outputs equal as bits, of equal types and shapes; the message names the first requests that differ."""
    assert_same_bits(FIELDS, found, expected, context)
