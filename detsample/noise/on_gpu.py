"""`gumbel_noise` and `fold_in` on a GPU: one launch each."""

from __future__ import annotations

from typing import Any

from detsample.frameworks import Device, Framework
from detsample.frameworks.pointer import Argument, integer
from detsample.kernels.rows import POSITION_GIVEN, SEED_GIVEN
from detsample.kernels.streams import BLOCK, folded_seeds, noise
from detsample.launching.launch import launcher
from detsample.launching.workspace import allocate, layout
from detsample.noise.arguments import NoiseWanted, SeedsWanted, read_noise, read_seeds
from detsample.sampler.kernel_arguments import words
from detsample.sampler.parameters import Parameter, Scalar

UNUSED = layout({"unused": ("int64", 1)})
MOST_ON_AN_AXIS = 65_535
"""Programs that CUDA allows on the second axis of a grid, and on the third; on the first it allows 2^31 - 1."""


def gumbel_noise(framework: Framework, topp_seed: Any, position: Any, token_ids: Any) -> Any:
    """`detsample.gumbel_noise` by the kernel, wherever the token ids are."""
    return launch_noise(read_noise(framework, topp_seed, position, token_ids))


def launch_noise(asked: NoiseWanted) -> Any:
    """See `detsample.gumbel_noise`."""
    framework, device = asked.framework, asked.device
    result = framework.empty(asked.shape, "float64", device)
    areas = allocate(framework, device, UNUSED)
    seed = _argument(framework, asked.topp_seed, areas["unused"])
    index = _argument(framework, asked.position, areas["unused"])
    given = SEED_GIVEN.value * seed[0] + POSITION_GIVEN.value * index[0]
    if 0 not in asked.shape:
        with framework.launching(device):
            launch = launcher(device)
            launch(noise, grid(asked.rows, asked.columns),
                integer(asked.columns), framework.argument(asked.token_ids),
                integer(asked.row_step), integer(asked.step), given,
                *seed[1:], *index[1:], framework.argument(result), num_warps=4, enable_fp_fusion=False,
            )  # fmt: skip
    return result


def grid(rows: int, columns: int) -> tuple[int, int, int]:
    """The programs of `noise`: rows on the first axis, the blocks of a row's columns on as few layers as hold them."""
    blocks = -(-columns // int(BLOCK.value))
    layers = -(-blocks // MOST_ON_AN_AXIS)
    return rows, -(-blocks // layers), layers


def fold_in(framework: Framework, device: Device, topp_seed: Any, i: Any) -> Any:
    """`detsample.fold_in` by the kernel, wherever the tensors are."""
    return launch_seeds(read_seeds(framework, device, topp_seed, i))


def launch_seeds(asked: SeedsWanted) -> Any:
    """See `detsample.fold_in`."""
    framework, device = asked.framework, asked.device
    count = asked.shape[0] if asked.shape else 1
    result = framework.empty(asked.shape, "int64", device)
    areas = allocate(framework, device, UNUSED)
    seed = _argument(framework, asked.topp_seed, areas["unused"])
    index = _argument(framework, asked.i, areas["unused"])
    given = SEED_GIVEN.value * seed[0] + POSITION_GIVEN.value * index[0]
    if count:
        with framework.launching(device):
            launch = launcher(device)
            launch(folded_seeds, (-(-count // int(BLOCK.value)),),
                integer(count), given, *seed[1:], *index[1:], framework.argument(result),
                num_warps=4, enable_fp_fusion=False,
            )  # fmt: skip
    return result


def _argument(framework: Framework, parameter: Parameter, unused: Argument) -> tuple[bool, Argument, int, int, int]:
    """(given, pointer, stride, low word, high word) of a seed, a position or an index."""
    if isinstance(parameter, Scalar):
        return (False, unused, 0, *words(int(parameter.value)))
    vector = parameter.pointer
    return True, framework.argument(parameter.tensor) if vector is None else vector, parameter.stride, 0, 0
