"""The arguments of a call, checked as far as the host can see (what only the device sees sets a request's status)."""

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
    is_scalar,
    read_logits,
    read_parameters,
)


@dataclass(frozen=True)
class Table:
    """A tensor of two axes, a row a request, with its strides in elements."""

    tensor: Any
    row_stride: int
    stride: int


@dataclass(frozen=True)
class Batch:
    """B requests and their rows of logits.

    Attributes
    ----------
    logits : Logits
        All rows [R, V], those that are nobody's included.
    whole : tensor
        The logits as they came.
    requests : int
        B.
    width : int
        The most rows that a request may have.
    counts : Scalar or Vector
        What the caller said of the number of rows.
    extra : int
        Rows beside those: 1 where drafted tokens are counted, 0 where nodes are.
    row_offsets : Vector or None
        [B + 1], where rows are ragged.
    given : Parameters
        Of the requests.
    """

    logits: Logits
    whole: Any
    requests: int
    width: int
    counts: Parameter
    extra: int
    row_offsets: Vector | None
    given: Parameters


def read_batch(
    target_logits: Any, name: str, requests: int, width: int, counts: tuple[str, Any], extra: int, row_offsets: Any,
    topp_seed: Any, position: Any, temperature: Any, top_k: Any, top_p: Any, min_p: Any,
) -> Batch:  # fmt: skip
    """Check logits, number of rows and parameters of a call.

    Raises
    ------
    TypeError
        For an element type that the argument cannot have.
    ValueError
        If a shape does not fit, a number is out of range, or a tensor is on another device.
    """
    framework = frameworks.of(target_logits, name)
    rows = _rows(framework, name, target_logits, requests, width, row_offsets is not None)
    logits = read_logits(rows, framework)
    per_request = Logits(rows, framework, logits.device, requests, logits.vocab, logits.row_stride, logits.dtype)
    given = read_parameters(per_request, topp_seed, position, temperature, top_k, top_p, min_p)
    offsets = None
    if row_offsets is not None:
        offsets = _integers(per_request, "row_offsets", row_offsets, requests + 1)
    return Batch(
        logits, target_logits, requests, width, _counts(per_request, *counts, width, extra), extra, offsets, given
    )


def read_drafts(framework: Framework, device: Any, name: str, tensor: Any, shape: tuple[int, int] | None) -> Table:
    """Check a table of integers [B, K], such as draft tokens.

    Raises
    ------
    TypeError, ValueError
        If it is no such tensor of the framework, on the device.
    """
    _check_tensor(framework, device, name, tensor, INTEGER_TYPES)
    found = framework.shape(tensor)
    if len(found) != 2 or shape not in (None, found):
        said = "[B, K]" if shape is None else list(shape)
        raise ValueError(f"{name} must have shape {said}, got {list(found)}")
    strides = framework.strides(tensor) if 0 not in found else (found[1], 1)
    return Table(tensor, strides[0], strides[1])


def read_draft_rows(batch: Batch, draft_probs: Any, draft_logits: Any) -> tuple[Logits, bool]:
    """What the drafter drew from, as rows [D, V], and whether they are logits.

    Raises
    ------
    TypeError, ValueError
        If not exactly one of the two is given, or it does not fit the target's logits.
    """
    if (draft_probs is None) == (draft_logits is None):
        raise ValueError("one of draft_probs and draft_logits must be given with method='rejection'")
    name, tensor = ("draft_probs", draft_probs) if draft_logits is None else ("draft_logits", draft_logits)
    framework = batch.logits.framework
    _check_tensor(framework, batch.logits.device, name, tensor, LOGIT_TYPES)
    flat = batch.row_offsets is not None
    rows = _rows(framework, name, tensor, batch.requests, batch.width - 1, flat)
    if framework.shape(rows)[1] != batch.logits.vocab:
        raise ValueError(f"{name} must have {batch.logits.vocab} columns, got {framework.shape(rows)[1]}")
    return read_logits(rows, framework), draft_logits is not None


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


def _counts(of: Logits, name: str, value: Any, width: int, extra: int) -> Parameter:
    if is_scalar(value):
        return Scalar(as_integer(name, value, 1 - extra, width - extra))
    return _integers(of, name, value, of.rows)


def _integers(of: Logits, name: str, tensor: Any, length: int) -> Vector:
    _check_tensor(of.framework, of.device, name, tensor, INTEGER_TYPES)
    shape = of.framework.shape(tensor)
    if shape != (length,):
        raise ValueError(f"{name} must have shape [{length}], got {list(shape)}")
    return Vector(tensor, of.framework.strides(tensor)[0] if length > 1 else 0)


def _check_tensor(framework: Framework, device: Any, name: str, tensor: Any, types: tuple[str, ...]) -> None:
    if not framework.is_tensor(tensor):
        kind = f"{type(tensor).__module__}.{type(tensor).__qualname__}"
        raise TypeError(f"{name} must be a {framework.name} tensor like the logits, got {kind}")
    if framework.dtype_name(tensor) not in types:
        raise TypeError(f"{name} must be of type {' or '.join(types)}, got {framework.dtype_name(tensor)}")
    if framework.device(tensor) != device:
        raise ValueError(f"{name} must be on the logits' device {device}, got {framework.device(tensor)}")
