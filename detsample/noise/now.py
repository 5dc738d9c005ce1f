"""`gumbel_noise` and `fold_in` done at once, as they are where torch does not record them."""

from __future__ import annotations

from typing import Any

import detsample.reference as reference
from detsample import frameworks
from detsample.noise.arguments import SEEDS, read_noise, read_seeds, read_token_ids
from detsample.reference.float_mode import usual_mode
from detsample.sampler.parameters import as_integer, described, is_scalar
from detsample.sampler.run import serving


@usual_mode
def gumbel_noise_now(topp_seed: Any, position: Any, token_ids: Any) -> Any:
    """See `detsample.gumbel_noise`."""
    if not _is_tensor(token_ids):
        return gumbel_noise_now(topp_seed, position, read_token_ids(token_ids))[()]
    framework = frameworks.of(token_ids, "token_ids")
    asked = read_noise(framework, topp_seed, position, token_ids)
    return serving("detsample.noise", asked.device).gumbel_noise(asked)


@usual_mode
def fold_in_now(topp_seed: Any, i: Any) -> Any:
    """See `detsample.fold_in`."""
    tensor = next((x for x in (topp_seed, i) if _is_tensor(x)), None)
    if tensor is None:
        return reference.fold_in(as_integer("topp_seed", topp_seed, *SEEDS), as_integer("i", i, *SEEDS))
    name = "topp_seed" if tensor is topp_seed else "i"
    framework = frameworks.of(tensor, name)
    asked = read_seeds(framework, described(name, tensor, framework)[2], topp_seed, i)
    return serving("detsample.noise", asked.device).fold_in(asked)


def _is_tensor(x: object) -> bool:
    return not is_scalar(x) and not isinstance(x, (list, tuple))
