"""`build_sampling_params`: parameters of a request for each of its rows, and the stream that each row draws from."""

from __future__ import annotations

from typing import Any

import paddle

from detsample.integrations.fastdeploy.tensors import beside


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
    """
    if seq_lens_decoder is None:
        raise ValueError("seq_lens_decoder must be given: a row's position is not known without it")
    requests = seq_lens_this_time.shape[0]
    ends = cu_seqlens_q_output.reshape([-1])[1 : requests + 1].astype("int64")
    rows = beside(paddle.arange(token_num_output_cpu, dtype="int64"), ends)
    owner = paddle.searchsorted(ends, rows, right=True)

    def of(parameter: Any, dtype: str) -> Any:
        return paddle.gather(beside(parameter, ends).reshape([-1])[:requests].astype(dtype), owner)

    behind = of(seq_lens_decoder, "int64") + of(seq_lens_this_time, "int64")
    position = behind - (paddle.gather(ends, owner) - 1 - rows)
    streams = paddle.stack([of(infer_seed, "int64"), position], axis=1)
    return of(top_p, "float32").unsqueeze(1), of(top_k, "int64").unsqueeze(1), streams
