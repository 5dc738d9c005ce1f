"""`build_sampling_params`: parameters of a request for each of its rows, and the stream that each row draws from."""

from __future__ import annotations

from typing import Any, NamedTuple

import paddle

from detsample.integrations.fastdeploy.tensors import beside


class Rows(NamedTuple):
    """Which request owns each of a step's T rows."""

    requests: int  # the slots that there are
    owner: Any  # [T] int64
    later: Any  # [T] int64, how many rows of the same request follow

    def of(self, parameter: Any) -> Any:
        """A request's parameter, [>= B] or [>= B, 1] on any device, for each of its rows: [T]."""
        return paddle.gather(beside(parameter, self.owner).reshape([-1])[: self.requests], self.owner)


def owned_rows(requests: int, cu_seqlens_q_output: Any, count: int) -> Rows:
    """The owners of `count` rows: request b has ``cu_seqlens_q_output[b]`` to ``cu_seqlens_q_output[b + 1]``."""
    ends = cu_seqlens_q_output.reshape([-1])[1 : requests + 1].astype("int64")
    rows = beside(paddle.arange(count, dtype="int64"), ends)
    owner = paddle.searchsorted(ends, rows, right=True)
    return Rows(requests, owner, paddle.gather(ends, owner) - 1 - rows)


def build_sampling_params(
    top_p: Any,
    top_k: Any,
    infer_seed: Any,
    seq_lens_this_time: Any,
    cu_seqlens_q_output: Any,
    token_num_output_cpu: int,
    increment_value: int = 0,
    *,
    seq_lens_decoder: Any = None,
) -> tuple[Any, Any, Any]:
    """Repeat the requests' parameters for the rows that they own, each with (seed, absolute position).

    FastDeploy gives the rows of a request the seeds ``infer_seed + 4 i`` and then adds `increment_value` to
    `infer_seed`. Here a request's seed is the same in all rows, the position tells them apart, and nothing is
    mutated.

    Parameters
    ----------
    top_p : [>= B] or [>= B, 1] float32
    top_k : [>= B] or [>= B, 1] int64
    infer_seed : [>= B] or [>= B, 1] int64
    seq_lens_this_time : [B] or [B, 1] int32
        Tokens that the model was given of each request.
    cu_seqlens_q_output : [B + 1] int32
        Request b owns rows ``cu_seqlens_q_output[b]`` to ``cu_seqlens_q_output[b + 1]``.
    token_num_output_cpu : int
        T, the number of rows.
    increment_value : int
        Not used: seeds are for life.
    seq_lens_decoder : [>= B] or [>= B, 1] int32
        Tokens that the request's cache had before. The last row of a request draws the token behind all that the
        model has seen.

    Returns
    -------
    top_p : [T, 1] float32
    top_k : [T, 1] int64
    topp_seed : [T, 2] int64
        Seeds and positions, as `_random_sample` and `top_k_top_p_sampling` take them.

    Raises
    ------
    ValueError
        If `seq_lens_decoder` is not given.

    Examples
    --------
    A request that was given 3 tokens behind 20, and one that was given its prompt of 6 and draws once.

    >>> top_p, top_k, topp_seed = build_sampling_params(
    ...     paddle.to_tensor([[0.5], [0.75]]), paddle.to_tensor([[50], [40]]), paddle.to_tensor([[7], [8]]),
    ...     paddle.to_tensor([[3], [6]], dtype="int32"), paddle.to_tensor([0, 3, 4], dtype="int32"), 4,
    ...     seq_lens_decoder=paddle.to_tensor([[20], [0]], dtype="int32"),
    ... )
    >>> top_p.tolist(), top_k.tolist()
    ([[0.5], [0.5], [0.5], [0.75]], [[50], [50], [50], [40]])
    >>> topp_seed.tolist()
    [[7, 21], [7, 22], [7, 23], [8, 6]]
    """
    if seq_lens_decoder is None:
        raise ValueError("seq_lens_decoder must be given: a row's position is not known without it")
    rows = owned_rows(seq_lens_this_time.shape[0], cu_seqlens_q_output, token_num_output_cpu)
    seen = rows.of(seq_lens_decoder).astype("int64") + rows.of(seq_lens_this_time).astype("int64")
    streams = paddle.stack([rows.of(infer_seed).astype("int64"), seen - rows.later], axis=1)
    return rows.of(top_p).astype("float32").unsqueeze(1), rows.of(top_k).astype("int64").unsqueeze(1), streams
