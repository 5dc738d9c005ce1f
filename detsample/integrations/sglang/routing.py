"""Where SGLang learns of the backend and keeps it, and where a batch gets its seeds."""

from __future__ import annotations

import logging
import secrets
from functools import wraps
from typing import Any

import torch
from sglang.srt.arg_groups.overrides import declare_resolution
from sglang.srt.layers import sampler as theirs
from sglang.srt.runtime_context import get_exec
from sglang.srt.sampling.sampling_batch_info import SamplingBatchInfo
from sglang.srt.server_args import ServerArgs

from detsample.integrations.sglang.sampler import BACKEND, DetsampleSampler

ORIGINAL = "_detsample_original"


def register() -> None:
    """Make ``--sampling-backend detsample`` known, in this process.

    With that backend each request has a seed: its own, or one from the operating system. SGLang itself keeps seeds only
    with ``--enable-deterministic-inference``, and gives 42 to requests without one; here no flag is needed. With that
    flag, and on a CPU, SGLang would draw with its own sampler whichever was asked for; this one stays. Calling it again
    changes nothing.
    """
    theirs.register_sampler_backend(BACKEND, DetsampleSampler)
    original, resolve = SamplingBatchInfo.from_schedule_batch.__func__, ServerArgs.resolve_once
    if hasattr(original, ORIGINAL):
        return

    @wraps(original)
    def from_schedule_batch(kind: Any, batch: Any, vocab_size: int) -> Any:
        info = original(kind, batch, vocab_size)
        if get_exec().kernel.sampling_backend == BACKEND:
            info.sampling_seed = _seeds(batch.reqs, info.temperatures.device)
        return info

    @wraps(resolve)
    def resolve_once(self: Any) -> None:
        resolved = getattr(self, "_resolution_finished", False)  # SGLang's mark: nothing can be declared behind it
        resolve(self)
        if self.sampling_backend == BACKEND and not resolved:
            declare_resolution(self, BACKEND, sampling_backend=BACKEND)
            logging.getLogger(__name__).info("detsample draws every request")

    setattr(from_schedule_batch, ORIGINAL, original)
    setattr(resolve_once, ORIGINAL, resolve)
    SamplingBatchInfo.from_schedule_batch = classmethod(from_schedule_batch)
    ServerArgs.resolve_once = resolve_once


def unregister() -> None:
    """Undo `register` for samplers and batches made from now on; without a `register` before, nothing changes."""
    theirs._CUSTOM_SAMPLER_FACTORIES.pop(BACKEND, None)
    now = SamplingBatchInfo.from_schedule_batch.__func__
    SamplingBatchInfo.from_schedule_batch = classmethod(getattr(now, ORIGINAL, now))
    ServerArgs.resolve_once = getattr(ServerArgs.resolve_once, ORIGINAL, ServerArgs.resolve_once)


def _seeds(requests: Any, device: torch.device) -> torch.Tensor:
    """[B] int64; a request keeps the seed that it got, also where it is preempted and scheduled anew."""
    for request in requests:
        if request.sampling_params.sampling_seed is None:
            request.sampling_params.sampling_seed = secrets.randbits(64) - (1 << 63)
    seeds = torch.tensor([r.sampling_params.sampling_seed for r in requests], dtype=torch.int64)
    return seeds.to(device) if device.type == "cpu" else seeds.pin_memory().to(device, non_blocking=True)
