"""`observe` and `draw`: return everything that a trainer needs from a draw, in one call."""

from __future__ import annotations

from math import prod
from typing import Any

from detsample import frameworks
from detsample.frameworks import operations
from detsample.frameworks.pointer import integer
from detsample.frameworks.recording import unrecorded
from detsample.processing import Processing, apply
from detsample.processing.digest import copied
from detsample.rollout.output import Draw, Observation
from detsample.rollout.validity import MOST_TOP
from detsample.sampler.output import Wanted
from detsample.sampler.parameters import (
    INTEGER_TYPES,
    Logits,
    Parameter,
    Vector,
    as_integer,
    check_like,
    read_draw,
    read_logits,
    read_parameters,
)
from detsample.sampler.run import run, serving


@unrecorded
def draw(
    logits: Any,
    topp_seed: Any,
    *,
    position: Any = 0,
    temperature: Any = 1.0,
    top_k: Any = 0,
    top_p: Any = 1.0,
    min_p: Any = 0.0,
    filter_order: str = "top_k_first",
    allowed: Any = None,
    processing: Processing | None = None,
    top_n: int = 0,
    shared_noise: bool = False,
) -> Draw:
    """Draw one token for each row, and return everything that a trainer needs of the draw.

    The token, its log probability, `log_z` and the kept set are those of `detsample.sample`; the rest is that of
    `observe`, which knows no forbidden tokens. Nothing waits for the device.

    Parameters
    ----------
    logits, topp_seed, position, temperature, top_k, top_p, min_p, filter_order, allowed, shared_noise
        As for `detsample.sample`. Vectors are copied, on their device: they may be changed afterwards.
    processing : Processing, optional
        What `detsample.processing.apply` is to do to the logits before the draw, as new logits of fp32. A record keeps
        a digest of it and of `allowed`, for which both are copied, on their device.
    top_n : int
        How many of the most probable tokens to name, at most 128.

    Returns
    -------
    Draw
        Tensors of the logits' framework on the logits' device.

    Raises
    ------
    TypeError, ValueError
        As `detsample.sample`, and for a `top_n` out of range.

    Examples
    --------
    >>> import numpy as np
    >>> drawn = draw(np.array([[0.0, 1.0, 2.0, 3.0]], np.float32), 7, top_k=2, top_n=3)
    >>> drawn.token_ids, drawn.rank, drawn.top_token_ids
    (array([3]), array([0], dtype=int32), array([[3, 2, 1]], dtype=int32))
    >>> drawn.logprobs, drawn.raw_logprobs, drawn.entropy
    (array([-0.3132617], dtype=float32), array([-0.44018972], dtype=float32), array([0.58220315], dtype=float32))
    """
    as_integer("top_n", top_n, 0, MOST_TOP)
    said: dict[str, Any] = {
        "topp_seed": topp_seed, "position": position, "temperature": temperature,
        "top_k": top_k, "top_p": top_p, "min_p": min_p, "filter_order": filter_order,
    }  # fmt: skip
    if processing is not None:
        logits = apply(logits, processing)
    of, given = read_draw(logits, **said, allowed=allowed, shared_noise=shared_noise)
    own: dict[str, Any] = {name: _own(of, x) for name, x in given._asdict().items() if isinstance(x, Vector)}
    given = given._replace(**own)
    out = run(of, given, Wanted(True, True, True, "bits"))
    seen = _observe(of, out.token_ids, out.mask, given.temperature, top_n)
    said |= {name: vector.tensor for name, vector in own.items()}
    said["allowed"] = None if allowed is None else operations.of(of.framework.name).copied(allowed)
    said["processing"] = None if processing is None else copied(processing)
    return Draw(
        out.token_ids, out.num_kept, out.status, out.logprobs, out.log_z, out.mask,
        seen.raw_logprobs, seen.rank, seen.entropy, seen.top_token_ids, seen.top_logprobs,
        of.vocab, said, (out._kept_alive, seen._kept_alive),
    )  # fmt: skip


def _own(of: Logits, vector: Vector) -> Vector:
    """A copy of a vector, so that the caller may change the vector itself, as with ``position += 1`` for the next
    token.
    """
    tensor = operations.of(of.framework.name).copied(vector.tensor)
    strides = of.framework.strides(tensor)
    return Vector(tensor, integer(strides[0]) if strides and of.rows > 1 else 0)


@unrecorded
def observe(logits: Any, token_ids: Any, kept: Any, *, temperature: Any = 1.0, top_n: int = 0) -> Observation:
    """Return log probabilities, rank and entropy for one token of each row: over a given kept set, and in the whole
    softmax.

    No kept set is looked for, so logits may be those of another model than the sets: then `logprobs` are its log
    probabilities over the actor's sets. The same bits on every machine (docs/contract/observations.md, section 12).

    Parameters
    ----------
    logits : [B, V] fp32, bf16 or fp16
        As for `detsample.sample`.
    token_ids : [B] int64 or int32
        Any integers; what is no token of the vocabulary has the rank -1 and NaN for log probabilities.
    kept : [B, ceil(V / 32)] int32
        Sets of tokens as bits, like those of ``sample(..., return_mask="bits")``.
    temperature : float, or [B] or [B, 1] floating
        As for `detsample.sample`. Greedy rows (0) are weighed at 1, which for one kept token is all the same.
    top_n : int
        How many of the most probable tokens to name, at most 128.

    Returns
    -------
    Observation
        Tensors of the logits' framework on the logits' device.

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what was expected and what came.

    Examples
    --------
    >>> import numpy as np
    >>> logits = np.array([[1.0, 3.0, 2.0, 0.0]], np.float32)
    >>> seen = observe(logits, np.array([2]), np.array([[0b0110]], np.int32))
    >>> seen.logprobs, seen.rank
    (array([-1.3132617], dtype=float32), array([1], dtype=int32))
    """
    of = read_logits(logits, frameworks.of(logits, "logits"))
    _check_rows(of, "token_ids", token_ids, (of.rows,), INTEGER_TYPES)
    _check_rows(of, "kept", kept, (of.rows, -(-of.vocab // 32)), ("int32",))
    as_integer("top_n", top_n, 0, MOST_TOP)
    return _observe(of, token_ids, kept, read_parameters(of, 0, 0, temperature, 0, 1.0, 0.0).temperature, top_n)


def _observe(of: Logits, token_ids: Any, kept: Any, temperature: Parameter, top_n: int) -> Observation:
    found: Observation = serving("detsample.rollout", of.device).observe(of, token_ids, kept, temperature, top_n)
    return found


def _check_rows(of: Logits, name: str, tensor: Any, shape: tuple[int, ...], types: tuple[str, ...]) -> None:
    """A tensor like the logits, of this shape, one of these types and contiguous."""
    check_like(of.framework, of.device, name, tensor, types)
    found, strides = of.framework.shape(tensor), of.framework.strides(tensor)
    if found != shape:
        raise ValueError(f"{name} must have shape {list(shape)}, got {list(found)}")
    due = (prod(shape[1:]), 1)[-len(shape) :]
    if of.rows and any(size > 1 and one != other for size, one, other in zip(shape, strides, due, strict=True)):
        raise ValueError(f"{name} must be contiguous, got shape {list(shape)} and strides {list(strides)}")
