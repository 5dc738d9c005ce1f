"""`sample` and `mask` done at once, as they are where torch does not record them."""

from __future__ import annotations

from typing import Any

from detsample.reference.float_mode import usual_mode
from detsample.sampler.output import MaskOutput, SampleOutput
from detsample.sampler.parameters import read_draw, read_flag, read_wanted, read_wanted_of_mask
from detsample.sampler.run import run
from detsample.sampler.status import raise_for_status


@usual_mode
def sample_now(
    logits: Any, topp_seed: Any, position: Any, temperature: Any, top_k: Any, top_p: Any, min_p: Any, filter_order: str,
    allowed: Any, return_logprobs: bool, return_log_z: bool, return_mask: str | None, return_num_kept: bool,
    shared_noise: bool, check: bool,
) -> SampleOutput[Any]:  # fmt: skip
    """See `detsample.sample`."""
    wanted = read_wanted(return_logprobs, return_log_z, return_mask, return_num_kept)
    wait = read_flag("check", check)
    of, given = read_draw(
        logits, topp_seed, position, temperature, top_k, top_p, min_p, filter_order, allowed, shared_noise
    )
    out = run(of, given, wanted)
    if wait:
        raise_for_status(out.status)
    return out


@usual_mode
def mask_now(
    logits: Any, temperature: Any, top_k: Any, top_p: Any, min_p: Any, filter_order: str, allowed: Any, kind: str,
    return_log_z: bool, check: bool,
) -> MaskOutput[Any, Any]:  # fmt: skip
    """See `detsample.mask`."""
    wanted, wait = read_wanted_of_mask(kind, return_log_z), read_flag("check", check)
    of, given = read_draw(logits, 0, 0, temperature, top_k, top_p, min_p, filter_order, allowed, shared_noise=True)
    out = run(of, given, wanted)
    if wait:
        raise_for_status(out.status)
    return MaskOutput.of(out)
