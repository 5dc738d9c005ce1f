"""`gumbel_noise` and `fold_in` as operators of torch: see `detsample.sampler.recorded`."""

from __future__ import annotations

from typing import Any

import torch

from detsample.noise.now import fold_in_now, gumbel_noise_now
from detsample.sampler.parameters import class_name
from detsample.sampler.recorded import POSITION, SEED, either, given


def gumbel_noise(topp_seed: Any, position: Any, token_ids: Any) -> Any:
    """`detsample.gumbel_noise` by way of the operator."""
    if not isinstance(token_ids, torch.Tensor):
        raise TypeError(f"token_ids must be a tensor where torch records the call, got {class_name(token_ids)}")
    return _gumbel_noise(*given("topp_seed", topp_seed), *given("position", position), token_ids)


@torch.library.custom_op(
    "detsample::gumbel_noise", mutates_args=(), schema=f"({SEED}, {POSITION}, Tensor token_ids) -> Tensor"
)
def _gumbel_noise(seed: Any, seed_n: Any, position: Any, position_n: Any, token_ids: Any) -> Any:
    return gumbel_noise_now(either(seed, seed_n), either(position, position_n), token_ids)


@_gumbel_noise.register_fake
def _(seed: Any, seed_n: Any, position: Any, position_n: Any, token_ids: Any) -> Any:
    with_rows = (seed, position, token_ids if token_ids.ndim == 2 else None)
    rows = [x.shape[:1] for x in with_rows if x is not None and x.ndim]
    shape = token_ids.shape[-1:] if token_ids.ndim else ()
    return token_ids.new_empty((*(rows[0] if rows else ()), *shape), dtype=torch.float64)


def fold_in(topp_seed: Any, i: Any) -> Any:
    """`detsample.fold_in` by way of the operator; of two numbers, as it is."""
    if not (isinstance(topp_seed, torch.Tensor) or isinstance(i, torch.Tensor)):
        return fold_in_now(topp_seed, i)
    return _fold_in(*given("topp_seed", topp_seed), *given("i", i))


@torch.library.custom_op(
    "detsample::fold_in", mutates_args=(), schema=f"({SEED}, Tensor? i, SymInt i_number) -> Tensor"
)
def _fold_in(seed: Any, seed_n: Any, i: Any, i_n: Any) -> Any:
    return fold_in_now(either(seed, seed_n), either(i, i_n))


@_fold_in.register_fake
def _(seed: Any, seed_n: Any, i: Any, i_n: Any) -> Any:
    tensors = [x for x in (seed, i) if x is not None]
    longest = max(tensors, key=lambda x: x.ndim)
    if all(x.ndim == 1 for x in tensors) and len(tensors) == 2 and seed.shape[0] == 1:
        longest = i
    return longest.new_empty(longest.shape, dtype=torch.int64)
