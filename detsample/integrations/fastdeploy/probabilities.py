"""The functions that take probabilities. Each is the function of logits, applied to ``L(p)`` of docs/fastdeploy.md.

What is lost is lost before: a softmax has rounded already, and ``L`` rounds its logarithm to fp32 once more, so that
probabilities whose logarithms round to the same fp32 count as equal. From there on everything is exact, and the same
on every machine.

Outside of a step (see `holding`) they are for Paddle's default stream: they drop working memory when they return.
"""

from __future__ import annotations

from typing import Any

import paddle

import detsample
from detsample.integrations.fastdeploy.holding import hold
from detsample.integrations.fastdeploy.tensors import beside, first_rows, streams
from detsample.integrations.probability import log_probabilities


def _random_sample(probs: Any, topp_seed: Any = None) -> Any:
    """Draw one token a row.

    Parameters
    ----------
    probs : [B, V] float32
        Tokens of probability 0 are never drawn. Rows need not sum to 1.
    topp_seed : [>= B, 1] int64, [>= B, 2] int64, or None
        Seeds, the position being 0; or seeds and positions. None takes seeds from Paddle's generator.

    Returns
    -------
    [B, 1] int64
        -1 in an invalid row: one with a NaN, something negative or infinite, or nothing above 0.

    Raises
    ------
    TypeError, ValueError
        If `probs` is not [B, V] floating, or `topp_seed` does not fit it.

    Examples
    --------
    >>> _random_sample(paddle.to_tensor([[0.0, 1.0, 0.0]]), paddle.to_tensor([[7]])).tolist()
    [[1]]
    """
    seeds, positions = streams(topp_seed, probs)
    logits = log_probabilities(probs)
    out = detsample.sample(logits, seeds, position=positions, return_logprobs=False)
    return hold(out, logits, seeds, positions).token_ids.unsqueeze(1)


def top_k_top_p_sampling(
    x: Any,
    top_p: Any,
    top_k: Any = None,
    top_k_list: list[int] | None = None,
    threshold: Any = None,
    topp_seed: Any = None,
    seed: int = -1,
    k: int = 0,
    mode: str = "truncated",
    order: str = "top_k_first",
) -> tuple[Any, Any]:
    """Draw one token for each row, after top-k and top-p.

    Parameters
    ----------
    x : [B, V] float32, float16 or bfloat16
        Probabilities.
    top_p : [>= B] or [>= B, 1] floating
    top_k : [>= B] or [>= B, 1] int64, or None
    top_k_list : list of int, or None
        The same on the host; not needed.
    threshold : [>= B] or [>= B, 1] floating, or None
        Tokens less probable than that are not drawn, except the first.
    topp_seed : [>= B, 1] int64, [>= B, 2] int64, or None
        As for `_random_sample`.
    seed : int
        If `topp_seed` is None, row b has the seed ``fold_in(seed, b)``. With -1, seeds come from Paddle's generator.
    k : int
        Must be 0: no list of best tokens is made.
    mode : "truncated" or "non-truncated"
        The latter ignores `top_p`.
    order : "top_k_first" or "joint"
        "joint" measures top-p on all tokens, "top_k_first" on the survivors of top-k.

    Returns
    -------
    scores : [B, 1] of x's dtype
        The drawn tokens' probabilities in x; NaN in invalid rows.
    ids : [B, 1] int64
        -1 in invalid rows.

    Raises
    ------
    ValueError
        If `k`, `mode` or `order` is none of these, or a parameter does not fit x.
    TypeError
        If x or a parameter has a dtype that it cannot have.

    Examples
    --------
    >>> probs = paddle.to_tensor([[0.0, 0.5, 0.25, 0.25]])
    >>> scores, ids = top_k_top_p_sampling(probs, paddle.to_tensor([0.5]), topp_seed=paddle.to_tensor([[7]]))
    >>> scores.tolist(), ids.tolist()
    ([[0.5]], [[1]])
    """
    if k != 0:
        raise ValueError(f"k must be 0 (a list of the best tokens is not made), got {k}")
    if mode not in ("truncated", "non-truncated"):
        raise ValueError(f"mode must be 'truncated' or 'non-truncated', got {mode!r}")
    if order not in ("top_k_first", "joint"):
        raise ValueError(f"order must be 'top_k_first' or 'joint', got {order!r}")
    rows = x.shape[0]
    logits = log_probabilities(x)
    if threshold is not None:
        logits = _above(logits, x, first_rows("threshold", beside(threshold, x), rows))
    keep_k: Any = 0 if top_k is None else first_rows("top_k", beside(top_k, x), rows)
    keep_p: Any = 1.0 if mode == "non-truncated" else first_rows("top_p", beside(top_p, x), rows)
    if order == "joint" and top_k is not None:
        # Both are prefixes of one order, so the shorter is the intersection.
        nucleus = hold(detsample.mask(logits, top_p=keep_p, kind="bits"), keep_p).num_kept.astype("int64")
        wanted = keep_k.astype("int64")
        keep_k = paddle.where(wanted > 0, paddle.minimum(wanted, nucleus), nucleus)
        keep_p = 1.0
    seeds, positions = _seeds(topp_seed, seed, x)
    out = detsample.sample(
        logits, seeds, position=positions, top_k=keep_k, top_p=keep_p, return_logprobs=False, return_num_kept=False
    )
    ids = hold(out, logits, seeds, positions, keep_k, keep_p).token_ids.unsqueeze(1)
    return _scores(x, ids), ids


def min_p_sampling(probs: Any, min_p_arr: Any, min_p_arr_cpu: list[float] | None = None) -> Any:
    """Set to 0 what is less probable than `min_p` times the most probable token.

    Parameters
    ----------
    probs : [B, V] float32
        Not changed.
    min_p_arr : [>= B] or [>= B, 1] float32, or None
        Off where ``<= 0``.
    min_p_arr_cpu : list of float, or None
        The same on the host: if none of them is above 0, `probs` itself is returned.

    Returns
    -------
    [B, V] float32
        Invalid rows as they are.

    Raises
    ------
    TypeError, ValueError
        If `probs` is not [B, V] floating, or `min_p_arr` does not fit it.

    Examples
    --------
    >>> min_p_sampling(paddle.to_tensor([[0.5, 0.375, 0.125]]), paddle.to_tensor([[0.5]])).tolist()
    [[0.5, 0.375, 0.0]]
    """
    if min_p_is_off(min_p_arr, min_p_arr_cpu):
        return probs
    logits, min_p = log_probabilities(probs), first_rows("min_p_arr", beside(min_p_arr, probs), len(probs))
    kept = hold(detsample.mask(logits, min_p=min_p), logits, min_p)
    keep = paddle.logical_or(kept.mask, (kept.status != 0).unsqueeze(1))
    return paddle.where(keep, probs, paddle.zeros_like(probs))


def min_p_is_off(min_p_arr: Any, min_p_arr_cpu: list[float] | None) -> bool:
    """Whether no row has a min-p, as far as the host knows."""
    return min_p_arr is None or bool(min_p_arr_cpu and not any(x > 0 for x in min_p_arr_cpu))


def _compute_sampling_mask(
    probs: Any,
    top_p: Any,
    top_k: Any = None,
    top_k_list: list[int] | None = None,
    *,
    min_p: Any = None,
    max_kept: int | None = None,
) -> tuple[Any, Any, Any, int]:
    """The kept set as windows of token ids, and the log of its mass.

    Parameters
    ----------
    probs : [B, V] float32
        Before min-p, if `min_p` is given.
    top_p, top_k, top_k_list
        As for `top_k_top_p_sampling`.
    min_p : [>= B] or [>= B, 1] float32, or None
        As for `min_p_sampling`, whose result is what FastDeploy draws from: so top-p takes its share behind it.
    max_kept : int, or None
        K. With a bound nothing waits for the device; a row that keeps more has an empty window. Without one, K is
        the largest count, which is fetched.

    Returns
    -------
    indices : [B, K] int64
        The kept tokens' ids, ascending; 0 behind the last.
    mask : [B, K] bool
        Where an id is.
    logz : [B] float32
        Log of the kept part of the row's sum; NaN in invalid rows, whose windows are empty.
    real_bsz : int
        B.

    Raises
    ------
    TypeError, ValueError
        If `probs` is not [B, V] floating, or a parameter does not fit it.

    Examples
    --------
    >>> probs = paddle.to_tensor([[0.125, 0.25, 0.5, 0.125]])
    >>> ids, mask, logz, rows = _compute_sampling_mask(probs, paddle.to_tensor([[0.75]]))
    >>> ids.tolist(), mask.tolist(), round(logz.item(), 4), rows
    ([[1, 2]], [[True, True]], -0.2877, 1)
    """
    rows, vocab = probs.shape
    filters: dict[str, Any] = {"top_p": first_rows("top_p", beside(top_p, probs), rows)}
    if top_k is not None:
        filters["top_k"] = first_rows("top_k", beside(top_k, probs), rows)
    if min_p is not None:
        filters["min_p"] = first_rows("min_p", beside(min_p, probs), rows)
    logits = log_probabilities(probs)
    kept = hold(detsample.mask(logits, **filters, filter_order="min_p_first", return_log_z=True), logits, filters)
    return *window(kept, vocab, max_kept), kept.log_z, rows


def window(kept: Any, vocab: int, max_kept: int | None) -> tuple[Any, Any]:
    """Turn a bool mask into ids [B, K], ascending, and a bool [B, K] that says which of them are there."""
    counts = kept.num_kept.astype("int64").unsqueeze(1)
    size = int(counts.max()) if max_kept is None else max_kept
    size = max(1, min(size, vocab))
    # Keys that fall as ids rise, 0 for what is dropped: the largest are the kept ids in order.
    ids = paddle.arange(vocab, dtype="int64").unsqueeze(0)
    keys = paddle.where(kept.mask, vocab - beside(ids, kept.mask), paddle.zeros_like(kept.mask, dtype="int64"))
    largest = paddle.topk(keys, size, axis=-1)[0]
    there = paddle.logical_and(largest > 0, counts <= size)
    return paddle.where(there, vocab - largest, paddle.zeros_like(largest)), there


def _above(logits: Any, x: Any, threshold: Any) -> Any:
    """Logits without the tokens whose probability is below a row's threshold, the most probable ones excepted."""
    best = logits.max(axis=-1, keepdim=True)
    low = paddle.logical_and(x.astype("float32") < threshold.astype("float32").unsqueeze(1), logits < best)
    return paddle.where(low, paddle.full_like(logits, float("-inf")), logits)


def _seeds(topp_seed: Any, seed: int, x: Any) -> tuple[Any, Any]:
    if topp_seed is not None or seed == -1:
        return streams(topp_seed, x)
    rows = beside(paddle.arange(x.shape[0], dtype="int64"), x)
    return detsample.fold_in(seed, rows), 0


def _scores(x: Any, ids: Any) -> Any:
    # As fp32, which is exact: Paddle's CPU has no gather of half precision.
    found = paddle.take_along_axis(x.astype("float32"), paddle.clip(ids, min=0), axis=1)
    return paddle.where(ids >= 0, found, paddle.full_like(found, float("nan"))).astype(x.dtype)
