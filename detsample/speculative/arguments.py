"""Checks the arguments of a call as far as the host can see them. What only the device sees sets a request's status."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from detsample import frameworks
from detsample.frameworks import Framework
from detsample.sampler.parameters import (
    INTEGER_TYPES,
    LOGIT_TYPES,
    Logits,
    Parameter,
    Parameters,
    Scalar,
    Vector,
    as_integer,
    check_like,
    is_scalar,
    read_allowed,
    read_logits,
    read_parameters,
    refuse_shared_noise,
)

Sampling = tuple[Any, ...]
"""The parameters of the requests, unchecked and in the order of `Parameters`."""


@dataclass(frozen=True)
class Table:
    """A tensor with two axes and one row for each request, and its strides in elements."""

    tensor: Any
    row_stride: int
    stride: int


@dataclass(frozen=True)
class Batch:
    """B requests and their rows of logits.

    Attributes
    ----------
    logits : Logits
        All rows [R, V], including rows that belong to no request.
    whole : tensor
        The logits as they came.
    requests : int
        B.
    width : int
        The most rows that a request may have.
    counts : Scalar or Vector
        The number of rows, as the caller gave it.
    extra : int
        Rows beside those: 1 where drafted tokens are counted, 0 where nodes are.
    row_offsets : Vector or None
        [B + 1], where rows are ragged.
    given : Parameters
        The parameters of the requests.
    """

    logits: Logits
    whole: Any
    requests: int
    width: int
    counts: Parameter
    extra: int
    row_offsets: Vector | None
    given: Parameters


@dataclass(frozen=True)
class Drafter:
    """The logits or probabilities that drafted tokens were drawn from.

    Attributes
    ----------
    rows : Logits
        As rows [D, V].
    whole : tensor
        As they came.
    is_logits : bool
        Whether they are logits, and not probabilities.
    """

    rows: Logits
    whole: Any
    is_logits: bool


def read_chains(
    target_logits: Any,
    draft_tokens: Any,
    num_draft: Any,
    row_offsets: Any,
    sampling: Sampling,
    shared_noise: Any,
    allowed: Any = None,
) -> tuple[Batch, Table]:
    """Check requests with a chain of drafted tokens each; the second result has these.

    Raises
    ------
    TypeError
        For an element type that the argument cannot have.
    ValueError
        If a shape does not fit, a number is out of range, or a tensor is on another device.
    """
    framework = frameworks.of(target_logits, "target_logits")
    drafts = _read_drafts(framework, framework.device(target_logits), "draft_tokens", draft_tokens, None)
    requests, most = framework.shape(draft_tokens)
    counts = ("num_draft", num_draft, 1)
    rows = ("target_logits", target_logits, (requests, most + 1))
    return read_batch(*rows, counts, row_offsets, sampling, shared_noise, allowed), drafts


def read_trees(
    target_logits: Any,
    draft_tokens: Any,
    parents: Any,
    num_nodes: Any,
    row_offsets: Any,
    sampling: Sampling,
    shared_noise: Any,
    allowed: Any = None,
) -> tuple[Batch, Table, Table]:
    """Check requests with a tree of drafted tokens each; the other results have these, and the nodes that they follow.

    Raises
    ------
    TypeError, ValueError
        As `read_chains`.
    """
    framework = frameworks.of(target_logits, "target_logits")
    device = framework.device(target_logits)
    drafts = _read_drafts(framework, device, "draft_tokens", draft_tokens, None)
    shape = framework.shape(draft_tokens)
    if shape[1] < 1:
        raise ValueError(f"draft_tokens must have shape [B, N] with a root, got {list(shape)}")
    above = _read_drafts(framework, device, "parents", parents, shape)
    counts = ("num_nodes", shape[1] if num_nodes is None else num_nodes, 0)
    read = read_batch("target_logits", target_logits, shape, counts, row_offsets, sampling, shared_noise, allowed)
    return read, drafts, above


def read_batch(
    name: str,
    logits: Any,
    shape: tuple[int, ...],
    counts: tuple[str, Any, int],
    row_offsets: Any,
    sampling: Sampling,
    shared_noise: Any,
    allowed: Any = None,
) -> Batch:
    """Check logits, number of rows and parameters of B requests.

    Parameters
    ----------
    name, logits
        The caller's name for the logits, and the logits.
    shape
        B, and the most rows that a request may have.
    counts
        The caller's name for the number of rows, the number as it was given, and how many more rows there are.
    row_offsets, sampling, shared_noise, allowed
        As they came.

    Raises
    ------
    TypeError, ValueError
        As `read_chains`.
    """
    requests, width = shape
    framework = frameworks.of(logits, name)
    flat = row_offsets is not None
    rows = read_logits(_rows(framework, name, logits, requests, width, flat), framework)
    if allowed is not None:
        check_like(framework, rows.device, "allowed", allowed, ("int32", "uint32", "uint8"))
        rows = read_allowed(rows, _rows(framework, "allowed", allowed, requests, width, flat))
    of = rows._replace(rows=requests, pointer=None, allowed=None)
    given = read_parameters(of, *sampling)
    refuse_shared_noise(given, requests, "request", shared_noise)
    offsets = None if row_offsets is None else _integers(of, "row_offsets", row_offsets, requests + 1)
    said, extra = _counts(of, *counts, width), counts[2]
    return Batch(rows, logits, requests, width, said, extra, offsets, given)


def _read_drafts(framework: Framework, device: Any, name: str, tensor: Any, shape: tuple[int, ...] | None) -> Table:
    """Check a table of integers [B, K], such as draft tokens."""
    check_like(framework, device, name, tensor, INTEGER_TYPES)
    found = framework.shape(tensor)
    if len(found) != 2 or shape not in (None, found):
        said = "[B, K]" if shape is None else list(shape)
        raise ValueError(f"{name} must have shape {said}, got {list(found)}")
    strides = framework.strides(tensor) if 0 not in found else (found[1], 1)
    return Table(tensor, strides[0], strides[1])


def read_drafter(batch: Batch, method: str, draft_probs: Any, draft_logits: Any) -> Drafter | None:
    """Check what the drafter drew from; None where the method does not look at it.

    Raises
    ------
    TypeError, ValueError
        If the method needs it and not exactly one of the two is given, or it does not fit the target's logits.
    """
    if method == "match":
        return None
    if (draft_probs is None) == (draft_logits is None):
        raise ValueError("one of draft_probs and draft_logits must be given with method='rejection'")
    name, tensor = ("draft_probs", draft_probs) if draft_logits is None else ("draft_logits", draft_logits)
    framework = batch.logits.framework
    check_like(framework, batch.logits.device, name, tensor, LOGIT_TYPES)
    rows = _rows(framework, name, tensor, batch.requests, batch.width - 1, batch.row_offsets is not None)
    if framework.shape(rows)[1] != batch.logits.vocab:
        raise ValueError(f"{name} must have {batch.logits.vocab} columns, got {framework.shape(rows)[1]}")
    return Drafter(read_logits(rows, framework), tensor, draft_logits is not None)


def _rows(framework: Framework, name: str, tensor: Any, requests: int, width: int, flat: bool) -> Any:
    """Logits as rows of two axes, in the same memory."""
    shape = framework.shape(tensor)
    if flat:
        if len(shape) != 2:
            raise ValueError(f"{name} must have shape [R, V] with row_offsets, got {list(shape)}")
        return tensor
    if len(shape) != 3 or shape[:2] != (requests, width):
        raise ValueError(f"{name} must have shape [{requests}, {width}, V] without row_offsets, got {list(shape)}")
    if framework.on_gpu(tensor) and requests > 1 and width > 1 and shape[2]:
        strides = framework.strides(tensor)
        if strides[0] != width * strides[1]:
            raise ValueError(
                f"{name} on a GPU must have requests one behind the other (stride 0 = {width} times stride 1), "
                f"got strides {list(strides)}"
            )
    if not requests * width:  # Paddle 2.6 takes the 0 of a new shape for the old tensor's length
        return framework.empty((0, shape[2]), framework.dtype_name(tensor), framework.device(tensor))
    return tensor.reshape((requests * width, shape[2]))


def _counts(of: Logits, name: str, value: Any, extra: int, width: int) -> Parameter:
    if is_scalar(value):
        return Scalar(as_integer(name, value, 1 - extra, width - extra))
    return _integers(of, name, value, of.rows)


def _integers(of: Logits, name: str, tensor: Any, length: int) -> Vector:
    check_like(of.framework, of.device, name, tensor, INTEGER_TYPES)
    shape = of.framework.shape(tensor)
    if shape != (length,):
        raise ValueError(f"{name} must have shape [{length}], got {list(shape)}")
    return Vector(tensor, of.framework.strides(tensor)[0] if length > 1 else 0)
