"""The kernels of sharded rows on arrays, all shards in this process; in Triton's interpreter where there is no GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
from kernel_path import on_device, prepare_interpreter, to_array

PARAMETERS = {
    "topp_seed": 0, "position": 0, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0,
    "filter_order": "top_k_first",
}  # fmt: skip


def sample(
    shards: list[np.ndarray], return_mask: str | None = None, return_log_z: bool = False,
    allowed: list[np.ndarray] | None = None, **how: Any,
) -> list[Any]:  # fmt: skip
    """`reference.sharded.sample` by the kernels."""
    from detsample import frameworks
    from detsample.sampler.output import Wanted
    from detsample.sampler.parameters import read_allowed, read_logits, read_parameters
    from detsample.sharded import on_gpu
    from detsample.sharded.agreement import Place, starts_of
    from detsample.sharded.groups import together

    prepare_interpreter()
    widths = [shard.shape[1] for shard in shards]
    starts = starts_of([sum(widths[:rank]) for rank in range(len(widths))], widths, sum(widths))
    ranks, wanted = [], Wanted(True, True, return_log_z, return_mask)
    for rank, shard in enumerate(shards):
        tensor = on_device(np.ascontiguousarray(shard) if shard.size else np.full((len(shard), 1), -np.inf, np.float32))
        of = read_logits(tensor, frameworks.of(tensor))
        if allowed is not None and shard.shape[1]:
            of = read_allowed(of, on_device(allowed[rank]))
        given = read_parameters(of, *map(on_device, (PARAMETERS | how).values()))
        place = Place(rank, starts)
        ranks.append(on_gpu.draw(place, of, given, wanted))
    return [to_array(out) for out in together(ranks)]
