"""The launches of `detsample.kernels.observation`, which come after those of a draw."""

from __future__ import annotations

from typing import Any

from detsample.kernels.observation import PART, PART_SUMS, survey, tell, weigh
from detsample.launching.launch import launcher
from detsample.launching.workspace import allocate, layout
from detsample.rollout.output import Observation
from detsample.sampler.kernel_arguments import TEMPERATURE, arguments
from detsample.sampler.parameters import Logits, Parameter

WARPS = (4, 8, 4)  # a program of survey, of weigh, of tell; cannot change a bit


def observe(logits: Logits, token_ids: Any, kept: Any, temperature: Parameter, top_n: int) -> Observation:
    """Launch the kernels for one call.

    Parameters
    ----------
    logits, temperature
        Checked by `detsample.sampler.parameters`.
    token_ids : [B] int64
        Contiguous, on the logits' device.
    kept : [B, ceil(V / 32)] int32
        Contiguous, on the logits' device.
    top_n : int

    Returns
    -------
    Observation
        Tensors of the logits' framework on the logits' device, not yet computed: nothing waits for the device.
    """
    framework, device, rows = logits.framework, logits.device, logits.rows
    parts, listed = -(-logits.vocab // int(PART.value)), max(1, top_n)
    areas = allocate(
        framework,
        device,
        layout({
            "part_places": ("int64", rows * parts * listed),
            "part_sums": ("int64", rows * parts * int(PART_SUMS.value)),
            "part_kept_key": ("int32", rows * parts),
        }),
    )  # fmt: skip
    numbers = [framework.empty((rows,), "float32", device) for _ in range(3)]
    rank = framework.empty((rows,), "int32", device)
    top_token_ids = framework.empty((rows, top_n), "int32", device)
    top_logprobs = framework.empty((rows, top_n), "float32", device)
    logprobs, raw_logprobs, entropy = numbers
    row = (framework.argument(logits.tensor), logits.row_stride, logits.vocab)
    sets = (framework.argument(kept), -(-logits.vocab // 32), parts, listed)
    given = arguments(framework, device, [(TEMPERATURE, temperature)])
    tokens, places, keys = framework.argument(token_ids), areas["part_places"], areas["part_kept_key"]
    sums = areas["part_sums"]
    if rows:
        with framework.launching(device):
            launch = launcher(device)
            launch(survey, (rows, parts), *row, *sets, places, keys, num_warps=WARPS[0], enable_fp_fusion=False)
            launch(weigh, (rows, parts),
                *row, *sets, *given, tokens, places, keys, sums, num_warps=WARPS[1], enable_fp_fusion=False
            )
            launch(tell, (rows,),
                *row, *sets, top_n, *given, tokens, places, keys, sums,
                framework.argument(logprobs), framework.argument(raw_logprobs), framework.argument(rank),
                framework.argument(entropy), framework.argument(top_token_ids), framework.argument(top_logprobs),
                num_warps=WARPS[2], enable_fp_fusion=False,
            )  # fmt: skip
    written = (areas.memory, *numbers, rank, top_token_ids, top_logprobs)
    kept_alive = None if framework.frees_behind_stream(device) else written
    return Observation(logprobs, raw_logprobs, rank, entropy, top_token_ids, top_logprobs, kept_alive)
