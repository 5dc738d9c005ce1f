"""Where SGLang learns of the backend, and where a batch gets its seeds."""

from __future__ import annotations

import secrets
from functools import wraps
from typing import Any

import torch
from sglang.srt.layers import sampler as theirs
from sglang.srt.runtime_context import get_exec
from sglang.srt.sampling.sampling_batch_info import SamplingBatchInfo

from detsample.integrations.sglang.sampler import BACKEND, DetsampleSampler

ORIGINAL = "_detsample_original"


def register() -> None:
    """Make ``--sampling-backend detsample`` known, in this process.

    With that backend each request has a seed: its own, or one from the operating system. SGLang itself keeps seeds only
    with ``--enable-deterministic-inference``, and gives 42 to requests without one; here no flag is needed. Calling it
    again changes nothing.
    """
    theirs.register_sampler_backend(BACKEND, DetsampleSampler)
    original = SamplingBatchInfo.from_schedule_batch.__func__
    if hasattr(original, ORIGINAL):
        return

    @wraps(original)
    def from_schedule_batch(kind: Any, batch: Any, vocab_size: int) -> Any:
        info = original(kind, batch, vocab_size)
        if get_exec().kernel.sampling_backend == BACKEND:
            info.sampling_seed = _seeds(batch.reqs, info.temperatures.device)
        return info

    setattr(from_schedule_batch, ORIGINAL, original)
    SamplingBatchInfo.from_schedule_batch = classmethod(from_schedule_batch)


def unregister() -> None:
    """Undo `register` for samplers and batches made from now on; without a `register` before, nothing changes."""
    theirs._CUSTOM_SAMPLER_FACTORIES.pop(BACKEND, None)
    now = SamplingBatchInfo.from_schedule_batch.__func__
    SamplingBatchInfo.from_schedule_batch = classmethod(getattr(now, ORIGINAL, now))


def _seeds(requests: Any, device: torch.device) -> torch.Tensor:
    """[B] int64; a request keeps the seed that it got, also where it is preempted and scheduled anew."""
    for request in requests:
        if request.sampling_params.sampling_seed is None:
            request.sampling_params.sampling_seed = secrets.randbits(64) - (1 << 63)
    seeds = torch.tensor([r.sampling_params.sampling_seed for r in requests], dtype=torch.int64)
    return seeds.to(device) if device.type == "cpu" else seeds.pin_memory().to(device, non_blocking=True)
