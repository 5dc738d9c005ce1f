"""`gumbel_noise` and `fold_in` on a GPU: one launch each."""

from __future__ import annotations

from typing import Any

from detsample.frameworks.pointer import integer
from detsample.kernels.noise import BLOCK, folded_seeds, noise
from detsample.launching.launch import launcher
from detsample.noise.arguments import NoiseWanted, SeedsWanted
from detsample.sampler.kernel_arguments import POSITION, SEED, arguments

MOST_ON_AN_AXIS = 65_535
"""Programs that CUDA allows on the second axis of a grid, and on the third; on the first it allows 2^31 - 1."""


def gumbel_noise(asked: NoiseWanted) -> Any:
    """See `detsample.gumbel_noise`."""
    framework, device = asked.framework, asked.device
    result = framework.empty(asked.shape, "float64", device)
    if 0 not in asked.shape:
        with framework.launching(device):
            launcher(device)(noise, grid(asked.rows, asked.columns),
                integer(asked.columns), framework.argument(asked.token_ids),
                integer(asked.row_step), integer(asked.step),
                *arguments(framework, device, [(SEED, asked.topp_seed), (POSITION, asked.position)]),
                framework.argument(result), num_warps=4, enable_fp_fusion=False,
            )  # fmt: skip
    return result


def grid(rows: int, columns: int) -> tuple[int, int, int]:
    """The programs of `noise`: rows on the first axis, the blocks of a row's columns on as few layers as hold them."""
    blocks = -(-columns // int(BLOCK.value))
    layers = -(-blocks // MOST_ON_AN_AXIS)
    return rows, -(-blocks // layers), layers


def fold_in(asked: SeedsWanted) -> Any:
    """See `detsample.fold_in`."""
    framework, device = asked.framework, asked.device
    count = asked.shape[0] if asked.shape else 1
    result = framework.empty(asked.shape, "int64", device)
    if count:
        with framework.launching(device):
            launcher(device)(folded_seeds, (-(-count // int(BLOCK.value)),),
                integer(count), *arguments(framework, device, [(SEED, asked.topp_seed), (POSITION, asked.i)]),
                framework.argument(result), num_warps=4, enable_fp_fusion=False,
            )  # fmt: skip
    return result
