"""The kernels of speculative decoding behind the reference's signatures: arrays in, arrays out.

On a GPU, if there is one, through the public calls on its tensors. Elsewhere in Triton's interpreter, where rows are
drawn by the reference, as all that is on the CPU, but inside `drawn_by_kernels`: drawing is tested in other files.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
from kernel_path import GPU, on_device, prepare_interpreter, to_array
from same_bits import assert_same_bits

from detsample import speculative
from detsample.speculative.arguments import read_chains, read_drafter, read_trees

FIELDS = ("token_ids", "num_accepted", "nodes", "status", "logprobs")
HOW = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "filter_order": "top_k_first"}


def arrays(out: Any) -> Any:
    """The fields of an output as arrays."""
    names = [field.name for field in dataclasses.fields(out) if field.name != "_kept_alive"]
    return dataclasses.replace(out, **{name: to_array(getattr(out, name)) for name in names}, _kept_alive=None)


def verify(
    target_logits: np.ndarray, draft_tokens: np.ndarray, num_draft: Any, topp_seed: Any, *, position: Any,
    row_offsets: Any = None, method: str = "match", draft_probs: Any = None, draft_logits: Any = None,
    return_logprobs: bool = True, allowed: Any = None, **how: Any,
) -> Any:  # fmt: skip
    """`reference.verify` by the kernels."""
    if GPU is not None:
        tensors = {name: on_device(value) for name, value in how.items()}
        out = speculative.verify(
            *map(on_device, (target_logits, draft_tokens, num_draft, topp_seed)), position=on_device(position),
            row_offsets=on_device(row_offsets), method=method, draft_probs=on_device(draft_probs),
            draft_logits=on_device(draft_logits), return_logprobs=return_logprobs, shared_noise=True,
            allowed=on_device(allowed), **tensors,
        )  # fmt: skip
        return arrays(out)
    from detsample.speculative import on_gpu

    prepare_interpreter()
    sampling = (topp_seed, position, *(HOW | how).values())
    batch, drafts = read_chains(target_logits, draft_tokens, num_draft, row_offsets, sampling, True, allowed)
    return arrays(on_gpu.verify(batch, drafts, read_drafter(batch, method, draft_probs, draft_logits), return_logprobs))


def verify_tree(
    target_logits: np.ndarray, draft_tokens: np.ndarray, parents: np.ndarray, topp_seed: Any, *, position: Any,
    num_nodes: Any = None, row_offsets: Any = None, return_logprobs: bool = True, allowed: Any = None, **how: Any,
) -> Any:  # fmt: skip
    """`reference.verify_tree` by the kernels."""
    if GPU is not None:
        tensors = {name: on_device(value) for name, value in how.items()}
        out = speculative.verify_tree(
            *map(on_device, (target_logits, draft_tokens, parents, topp_seed)), position=on_device(position),
            num_nodes=on_device(num_nodes), row_offsets=on_device(row_offsets), return_logprobs=return_logprobs,
            shared_noise=True, allowed=on_device(allowed), **tensors,
        )  # fmt: skip
        return arrays(out)
    from detsample.speculative import on_gpu

    prepare_interpreter()
    sampling = (topp_seed, position, *(HOW | how).values())
    read = read_trees(target_logits, draft_tokens, parents, num_nodes, row_offsets, sampling, True, allowed)
    return arrays(on_gpu.verify_tree(*read, return_logprobs))


@contextlib.contextmanager
def drawn_by_kernels() -> Iterator[None]:
    """Inside, rows are drawn by kernels in the interpreter, too."""
    from detsample.sampler import on_gpu as sampler
    from detsample.speculative import on_gpu

    before, on_gpu.run = on_gpu.run, sampler.run
    try:
        yield
    finally:
        on_gpu.run = before


def assert_same(found: Any, expected: Any, context: object = "") -> None:
    """All outputs equal as bits, of equal types and shapes; the message names the first requests that differ."""
    assert_same_bits(FIELDS, found, expected, context)
