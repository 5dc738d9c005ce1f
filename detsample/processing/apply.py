"""`apply`: changes logits as requests ask."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from detsample import frameworks
from detsample.frameworks import operations
from detsample.frameworks.recording import unrecorded
from detsample.processing.arguments import Processing, laid_out, read
from detsample.sampler.parameters import described, read_flag
from detsample.sampler.run import serving


@unrecorded
def apply(
    logits: Any,
    processing: Processing,
    *,
    draft_tokens: Any = None,
    parents: Any = None,
    row_offsets: Any = None,
    in_place: bool = False,
) -> Any:
    """Change logits as requests ask, before `detsample.sample` or `detsample.speculative.verify` draws from them.

    The same bits on every machine: each step is one fp32 operation. On a GPU it is one launch, which touches only the
    logits of tokens that are named, and nothing waits for the device.

    Parameters
    ----------
    logits : [B, V]; [B, K + 1, V] or [B, N, V] with `draft_tokens`; [R, V] with `row_offsets`; fp32, bf16 or fp16
        One row for each request, or, as for `detsample.speculative`, one for each place behind drafted tokens.
    processing : Processing
        What the requests ask for.
    draft_tokens : [B, K], or [B, N] with `parents`; int64 or int32, or None
        Row i of a request sees its drafted tokens 0 to i - 1 as if they were generated.
    parents : [B, N] int64 or int32, or None
        Drafts are trees: a row sees the tokens on the path to it from node 0, whose own token is generated already.
    row_offsets : [B + 1] int64 or int32, or None
        Request b has the rows from ``row_offsets[b]`` up to ``row_offsets[b + 1]``.
    in_place : bool
        Whether to change the logits themselves, rounded once more to their type, or to make new ones of fp32.

    Returns
    -------
    tensor
        The logits, or new ones of fp32 in their shape.

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what was expected and what came.

    Examples
    --------
    >>> import numpy as np
    >>> logits, so_far = np.array([[4.0, -1.0, 2.0, 0.0]], np.float32), np.array([[0, 1, 0]])
    >>> apply(logits, Processing(output=so_far, repetition_penalty=2.0, banned=np.array([[3]])))
    array([[  2.,  -2.,   2., -inf]], dtype=float32)
    """
    framework = frameworks.of(logits, "logits")
    asked = read(logits, framework, processing, draft_tokens, parents, row_offsets)
    if not read_flag("in_place", in_place):
        ops = operations.of(framework.name)
        logits = ops.copied(logits) if asked.logits.dtype == "float32" else ops.widened(logits)
        asked = replace(asked, logits=laid_out(logits, framework, described("logits", logits, framework)))
    if asked.logits.rows:
        serving("detsample.processing", asked.logits.device).process(asked)
    return logits
