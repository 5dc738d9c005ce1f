"""Checks what requests ask for, as far as the host can see it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from detsample.frameworks import Description, Framework
from detsample.frameworks.pointer import integer
from detsample.sampler.parameters import (
    INTEGER_TYPES,
    LOGIT_TYPES,
    Logits,
    Parameter,
    Scalar,
    check_like,
    class_name,
    described,
    read_integer,
    read_real,
)

CONVENTIONS = {"vllm": 1, "sglang": 2 + 16, "transformers": 32, "fastdeploy": 0, "tensorrt-llm": 4 + 8}
"""The engines whose order of steps can be named; the numbers are bits of `how` in `kernels.processing`."""
LISTS = ("prompt", "output", "bias", "banned", "stop", "only")
"""The lists of token ids, in the order of the kernel's arguments."""


@dataclass(frozen=True)
class Processing:
    """What each of Q requests asks for.

    A list of token ids is a table [Q, n] of int64 or int32, padded at the end of a row with -1, or a triple ``(ids,
    starts, ends)``: request q has ``ids[starts[q]:ends[q]]``, so that ``(ids, offsets[:-1], offsets[1:])`` is CSR and a
    buffer of all tokens serves as it is. Ids that are none of the vocabulary's are left out. Numbers are for all
    requests, or tensors [Q].

    Attributes
    ----------
    convention : str
        Whose order of steps and operations: "vllm", "sglang", "transformers", "fastdeploy" or "tensorrt-llm"
        (docs/processing.md).
    bias, bias_values
        Ids, and fp32 values in the same places of a tensor of the same shape, to be added to their logits. Of an id
        that a request has twice, the last counts.
    banned
        Ids that are forbidden: their logits become -inf.
    only
        The only ids that are not forbidden. A request whose list is empty forbids nothing.
    min_length, stop
        While a request has generated fewer tokens than `min_length`, its `stop` ids are forbidden.
    bad_words : [Q, W, L] int64 or int32
        Sequences, each padded at its end with -1. The last token of a sequence is forbidden where the others are the
        last tokens before it.
    prompt, output
        The tokens so far: those of the prompt, and those generated.
    repetition_penalty, frequency_penalty, presence_penalty
        Penalties for tokens that there are already; 1, 0 and 0 are off.
    """

    convention: str = "vllm"
    bias: Any = None
    bias_values: Any = None
    banned: Any = None
    only: Any = None
    min_length: Any = 0
    stop: Any = None
    bad_words: Any = None
    prompt: Any = None
    output: Any = None
    repetition_penalty: Any = 1.0
    frequency_penalty: Any = 0.0
    presence_penalty: Any = 0.0


class Ids(NamedTuple):
    """A list of token ids for each request: a table and the step between its rows, or a triple and the step 0."""

    ids: Any
    starts: Any
    ends: Any
    stride: int
    width: int
    """The columns of a table; -1 for a triple."""
    size: int


@dataclass(frozen=True)
class Asked:
    """A checked call.

    Attributes
    ----------
    logits : Logits
        Of the whole call: `rows` is how many rows there are in all.
    requests, width : int
        Q, and the most rows of a request.
    how : int
        The convention.
    lists : dict
        The lists that are given, by name.
    values : tensor or None
        Of the bias.
    numbers : dict
        repetition, frequency and presence penalty, and minimum length.
    """

    logits: Logits
    requests: int
    width: int
    convention: str
    lists: dict[str, Ids]
    values: Any
    bad_words: Any
    numbers: dict[str, Parameter]
    drafts: Any
    parents: Any
    row_offsets: Any


def read(logits: Any, framework: Framework, asked: Processing, drafts: Any, parents: Any, offsets: Any) -> Asked:
    """Check a call.

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what was expected and what came.
    """
    if not isinstance(asked, Processing):
        raise TypeError(f"processing must be a Processing, got {class_name(asked)}")
    if not (isinstance(asked.convention, str) and asked.convention in CONVENTIONS):
        raise ValueError(f"convention must be one of {', '.join(map(repr, CONVENTIONS))}, got {asked.convention!r}")
    description = described("logits", logits, framework)
    shape, dtype, device, _, pointer = description
    if dtype not in LOGIT_TYPES:
        raise TypeError(f"logits must be float32, bfloat16 or float16, got {dtype}")
    of = Logits(logits, framework, device, 0, 0, 0, dtype, pointer)
    requests, width = _requests(of, tuple(shape), drafts, parents, offsets)
    of = laid_out(logits, framework, description)
    each = of._replace(rows=requests)
    lists = {name: _ids(each, name, getattr(asked, name)) for name in LISTS if getattr(asked, name) is not None}
    values = asked.bias_values
    if (values is None) != (asked.bias is None):
        raise ValueError("bias and bias_values must be given together, got one of them")
    if values is not None:
        found, strides = _check(each, "bias_values", values, ("float32",), framework.shape(lists["bias"].ids))
        if strides != framework.strides(lists["bias"].ids) and 0 not in found:
            raise ValueError(f"bias_values must have the strides of bias, got {list(strides)}")
    words = asked.bad_words
    if words is not None:
        found = framework.shape(words) if framework.is_tensor(words) else ()
        _check(each, "bad_words", words, INTEGER_TYPES, (requests, *found[1:]) if len(found) == 3 else (requests, 0, 0))
        if device[0] == "gpu" and 0 not in found and framework.strides(words)[1:] != (found[2], 1):
            raise ValueError(f"bad_words must be contiguous, got strides {list(framework.strides(words))}")
    real = {"repetition": asked.repetition_penalty, "frequency": asked.frequency_penalty}
    real["presence"] = asked.presence_penalty
    numbers = {n: read_real(f"{n}_penalty", x, each, "a finite number", _is_finite) for n, x in real.items()}
    if asked.convention == "transformers" and any(numbers[n] != Scalar(0.0) for n in ("frequency", "presence")):
        raise ValueError("frequency_penalty and presence_penalty must be 0 with 'transformers', which has neither")
    repetition = numbers["repetition"]
    if isinstance(repetition, Scalar) and repetition.value <= 0:
        raise ValueError(f"repetition_penalty must be above 0, got {repetition.value}")
    numbers["length"] = read_integer("min_length", asked.min_length, each, 0, (1 << 31) - 1)
    return Asked(
        of, requests, width, asked.convention, lists, values, words, numbers, drafts, parents, offsets
    )


def laid_out(logits: Any, framework: Framework, description: Description) -> Logits:
    """Logits of a checked shape as the kernel takes them: rows of tokens, whatever the axes before the last one mean.

    Raises
    ------
    ValueError
        If they are on a GPU and no step leads from each row to the next.
    """
    shape, dtype, device, strides, pointer = description
    rows = math.prod(shape[:-1])
    step = strides[-2] if rows > 1 else shape[-1]
    side_by_side = shape[-1] == 1 or not rows or strides[-1] == 1
    if len(shape) == 3 and shape[0] > 1:
        side_by_side &= strides[0] == shape[1] * strides[1]
        step = strides[1] if shape[1] > 1 else strides[0]
    if device[0] == "gpu" and not side_by_side:
        raise ValueError(f"logits on a GPU must have tokens and rows one behind the other, got strides {list(strides)}")
    return Logits(logits, framework, device, rows, shape[-1], integer(step), dtype, pointer)


def _is_finite(value: float) -> bool:
    return abs(value) < float("inf")


def _requests(of: Logits, shape: tuple[int, ...], drafts: Any, parents: Any, offsets: Any) -> tuple[int, int]:
    """(number of requests, most rows of a request)."""
    framework = of.framework
    if drafts is None:
        if not (parents is None and offsets is None):
            raise ValueError("draft_tokens must be given with parents and with row_offsets, got None")
        if len(shape) != 2:
            raise ValueError(f"logits must have shape [B, V] without draft_tokens, got {list(shape)}")
        return shape[0], 1
    _check(of, "draft_tokens", drafts, INTEGER_TYPES, None)
    found = framework.shape(drafts)
    if len(found) != 2:
        raise ValueError(f"draft_tokens must have shape [B, K], got {list(found)}")
    if parents is not None:
        _check(of, "parents", parents, INTEGER_TYPES, found)
    requests, width = found[0], found[1] + (parents is None)
    if offsets is not None:
        _check(of, "row_offsets", offsets, INTEGER_TYPES, (requests + 1,))
    expected = (requests, width) if offsets is None else ("R",)
    if len(shape) != len(expected) + 1 or (offsets is None and shape[:2] != expected):
        raise ValueError(f"logits must have shape [{', '.join(map(str, expected))}, V], got {list(shape)}")
    return requests, width


def _ids(of: Logits, name: str, given: Any) -> Ids:
    if not isinstance(given, tuple):
        found, strides = _check(of, name, given, INTEGER_TYPES, None)
        if len(found) != 2 or found[0] != of.rows:
            width = found[1] if len(found) == 2 else "n"
            raise ValueError(f"{name} must have shape [{of.rows}, {width}], got {list(found)}")
        step = strides[0] if of.rows > 1 and found[1] else found[1]
        return Ids(given, None, None, integer(step), found[1], 0)
    if len(given) != 3:
        raise ValueError(f"{name} must be a table or a triple (ids, starts, ends), got {len(given)} tensors")
    ids, starts, ends = given
    found, _ = _check(of, name, ids, INTEGER_TYPES, None)
    if len(found) != 1:
        raise ValueError(f"{name} must have ids of shape [N] in a triple, got {list(found)}")
    for bounds in (starts, ends):
        _check(of, name, bounds, INTEGER_TYPES, (of.rows,))
    return Ids(ids, starts, ends, 0, -1, found[0])


def _check(
    of: Logits, name: str, tensor: Any, types: tuple[str, ...], shape: tuple[int, ...] | None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shape and strides of a tensor like the logits, of one of these types and of this shape, whose last axis is
    contiguous.
    """
    framework = of.framework
    # The tensor is looked at once. `check_like` asks one thing after the other, and has the words for what is wrong.
    if not framework.is_tensor(tensor):
        check_like(framework, of.device, name, tensor, types)
    found, dtype, device, strides, _ = described(name, tensor, framework)
    if dtype not in types or device != of.device:
        check_like(framework, of.device, name, tensor, types)
    if shape is not None and tuple(found) != shape:
        raise ValueError(f"{name} must have shape {list(shape)}, got {list(found)}")
    if device[0] == "gpu" and 0 not in found and found[-1] > 1 and strides[-1] != 1:
        raise ValueError(f"{name} on a GPU must have its last axis contiguous, got strides {list(strides)}")
    return found, strides
