"""What requests ask to be done to logits before a draw: ``docs/processing.md``.

A step is one fp32 operation, rounded once. Rows are independent, and so are tokens: a token's logit changes by its own
bias, by how often it has occurred, and by whether it is forbidden.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from .float_mode import unaffected
from .parameters import to_fp32

__all__ = ["CONVENTIONS", "Convention", "Request", "path_to", "process"]

F32 = np.float32


@dataclass(frozen=True)
class Convention:
    """In which order and by which operations an engine changes a logit."""

    reciprocal: bool = False
    """A positive logit is multiplied by the rounded 1 / r, and not divided by r."""
    output_repeats: bool = False
    """Only generated tokens count as repeated; otherwise the prompt's do, too."""
    prompt_counts: bool = False
    """Frequency and presence are of prompt and output; otherwise of the output."""
    presence_first: bool = False
    """Presence is subtracted before frequency."""
    summed: bool = False
    """What both subtract is added up first, one addition for each occurrence, and comes before the repetition penalty;
    the bias comes last."""
    prompt_in_words: bool = False
    """A bad word may begin in the prompt."""


CONVENTIONS = {
    "vllm": Convention(reciprocal=True),
    "sglang": Convention(output_repeats=True, summed=True),
    "transformers": Convention(prompt_in_words=True),
    "fastdeploy": Convention(),
    "tensorrt-llm": Convention(prompt_counts=True, presence_first=True),
}


@dataclass(frozen=True)
class Request:
    """What one request asks for, and the tokens that it has. Ids that are none of the vocabulary's are left out."""

    bias: Sequence[tuple[int, float]] = ()
    """Of an id that is there twice, the last counts."""
    banned: Sequence[int] = ()
    only: Sequence[int] | None = None
    """The only tokens that are not forbidden."""
    min_length: int = 0
    """While fewer tokens were generated, ``stop`` is forbidden."""
    stop: Sequence[int] = ()
    bad_words: Sequence[Sequence[int]] = ()
    """The last token of a sequence is forbidden where the others were the last ones."""
    prompt: Sequence[int] = ()
    output: Sequence[int] = ()
    repetition_penalty: F32 = field(default=F32(1))
    frequency_penalty: F32 = field(default=F32(0))
    presence_penalty: F32 = field(default=F32(0))


def path_to(row: int, drafts: Sequence[int], parents: Sequence[int] | None) -> list[int]:
    """The drafted tokens that a row of a request comes behind, the first one first.

    Examples
    --------
    >>> path_to(2, [5, 6, 7], None), path_to(3, [0, 5, 6, 7], [-1, 0, 0, 1])
    ([5, 6], [5, 7])
    """
    if parents is None:
        return list(drafts[:row])
    path: list[int] = []
    while 0 < row < len(parents) and len(path) < len(parents):
        path.append(drafts[row])
        row = parents[row]
    return path[::-1]


@unaffected
def process(logits: np.ndarray, requests: Sequence[Request], convention: str) -> np.ndarray:
    """Change the logits of rows as their requests ask.

    Parameters
    ----------
    logits : array [R, V] of float32, float16 or bfloat16
    requests : sequence of R Request
        Of a row behind drafted tokens, these are the last of its output.
    convention : str
        One of ``CONVENTIONS``.

    Returns
    -------
    float32 array [R, V]

    Examples
    --------
    >>> rows = np.float32([[4, -1, 2, 0]])
    >>> asked = Request(output=[0, 1, 0], repetition_penalty=np.float32(2), banned=[3])
    >>> process(rows, [asked], "vllm").tolist()
    [[2.0, -2.0, 2.0, -inf]]
    """
    with np.errstate(all="ignore"):
        x = to_fp32(logits).copy()
        for row, asked in zip(x, requests, strict=True):
            _change(row, asked, CONVENTIONS[convention])
    return x


def _change(x: np.ndarray, asked: Request, how: Convention) -> None:
    vocab = len(x)
    prompt, output = (Counter(i for i in ids if 0 <= i < vocab) for ids in (asked.prompt, asked.output))
    bias = {i: F32(b) for i, b in asked.bias if 0 <= i < vocab}
    for i in {*prompt, *output, *bias}:
        repeats = output[i] + (0 if how.output_repeats else prompt[i])
        count = output[i] + (prompt[i] if how.prompt_counts else 0)
        x[i] = _changed(x[i], bias.get(i), repeats > 0, count, asked, how)
    allowed = np.ones(vocab, bool)
    if asked.only is not None:
        allowed[:] = False
        allowed[[i for i in asked.only if 0 <= i < vocab]] = True
    so_far = [*(asked.prompt if how.prompt_in_words else ()), *asked.output]
    forbidden = [*asked.banned, *(asked.stop if len(asked.output) < asked.min_length else ())]
    forbidden += [word[-1] for word in asked.bad_words if word and _ends_with(so_far, word[:-1])]
    allowed[[i for i in forbidden if 0 <= i < vocab]] = False
    x[~allowed] = -np.inf


def _changed(x: F32, bias: F32 | None, repeated: bool, count: int, asked: Request, how: Convention) -> F32:
    """The logit of one token that occurs or has a bias."""
    r, f, p = asked.repetition_penalty, asked.frequency_penalty, asked.presence_penalty
    if bias is not None and not how.summed:
        x = x + bias
    if count and how.summed:
        total = F32(0)
        for _ in range(count):
            total = total + f
        x = x + (F32(0) - total - p)
    if repeated:
        less = x * (F32(1) / r) if how.reciprocal else x / r
        x = less if x > 0 else x * r
    if count and not how.summed:
        x = x - p - f * F32(count) if how.presence_first else x - f * F32(count) - p
    if bias is not None and how.summed:
        x = x + bias
    return x


def _ends_with(tokens: list[int], prefix: Sequence[int]) -> bool:
    return len(prefix) <= len(tokens) and list(prefix) == tokens[len(tokens) - len(prefix) :]
