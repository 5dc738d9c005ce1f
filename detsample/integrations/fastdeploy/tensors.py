"""Parameters as FastDeploy keeps them: [max_num_seqs, 1], of which only the first rows are used, sometimes on the host.
"""

from __future__ import annotations

from typing import Any

import paddle


def first_rows(name: str, tensor: Any, rows: int) -> Any:
    """The first entries of a parameter, as [rows]; a ValueError if it has fewer, or more than one in a row."""
    shape = list(tensor.shape)
    if len(shape) not in (1, 2) or shape[0] < rows or (len(shape) == 2 and shape[1] != 1):
        raise ValueError(f"{name} must have shape [B] or [B, 1] with B at least {rows}, got {shape}")
    return tensor[:rows].reshape([rows])


def beside(tensor: Any, like: Any) -> Any:
    """A tensor on the device of another one."""
    if tensor.place.is_gpu_place() == like.place.is_gpu_place():
        return tensor
    return tensor.cuda(like.place.gpu_device_id()) if like.place.is_gpu_place() else tensor.cpu()


def streams(topp_seed: Any, like: Any) -> tuple[Any, Any]:
    """Seeds [B], and positions [B] or 0, for the rows of a tensor [B, V].

    `topp_seed` are seeds, [>= B] or [>= B, 1]; or seeds and positions, [>= B, 2], as of `build_sampling_params`; or
    None, for seeds from Paddle's generator.
    """
    rows = like.shape[0]
    if topp_seed is None:
        high, low = (paddle.randint(0, (1 << 31) - 1, [rows], dtype="int64") for _ in range(2))
        return beside(high * (1 << 31) + low, like), 0
    if len(topp_seed.shape) == 2 and topp_seed.shape[1] == 2:
        pairs = beside(topp_seed[:rows], like)
        return first_rows("topp_seed", pairs[:, 0], rows), first_rows("topp_seed", pairs[:, 1], rows)
    return first_rows("topp_seed", beside(topp_seed, like), rows), 0
