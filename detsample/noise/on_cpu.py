"""`gumbel_noise` and `fold_in` by the NumPy reference."""

from __future__ import annotations

from typing import Any

import numpy as np

import detsample.reference as reference
from detsample.noise.arguments import NoiseWanted, SeedsWanted
from detsample.sampler.on_cpu import as_array


def gumbel_noise(asked: NoiseWanted) -> Any:
    """See `detsample.gumbel_noise`."""
    framework = asked.framework
    seed, position = (as_array(framework, parameter) for parameter in (asked.topp_seed, asked.position))
    noise = reference.gumbel_noise(seed, position, framework.as_array(asked.token_ids))
    return framework.from_array(np.asarray(noise), asked.device)


def fold_in(asked: SeedsWanted) -> Any:
    """See `detsample.fold_in`."""
    seeds = reference.fold_in(as_array(asked.framework, asked.topp_seed), as_array(asked.framework, asked.i))
    return asked.framework.from_array(np.asarray(seeds, np.int64), asked.device)
