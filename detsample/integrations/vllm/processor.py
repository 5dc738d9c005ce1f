"""The logits processor that vLLM loads: one class that is both model runners' kind.

Both runners read one group of entry points and construct whatever they find there, each in its own way; the second
refuses what is not of its own kind. So this class is of both, and what it is constructed with says which one it
serves.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.v1.sample.logits_processor.interface import LogitsProcessor as FirstInterface

from detsample.integrations.vllm.drawing import signed_seed
from detsample.integrations.vllm.first_runner import FirstRunner

try:
    from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsProcessor as SecondInterface
except ImportError:  # a vLLM that has only the first runner

    class SecondInterface:  # type: ignore[no-redef]
        """Stands where there is none."""


class Processor(FirstInterface, SecondInterface):
    """Leaves the drawn token alone in the rows of requests with a ``seed``; other rows are vLLM's.

    Parameters
    ----------
    vllm_config : VllmConfig
    *arguments
        ``(device, is_pin_memory)`` from the first model runner, ``(req_states,)`` from the second.
    """

    def __init__(self, vllm_config: Any, *arguments: Any) -> None:
        self._first: FirstRunner | None = None
        self._second: Any = None
        if len(arguments) == 2:
            self._first = FirstRunner(arguments[0])
        else:
            from detsample.integrations.vllm.second_runner import SecondRunner

            (states,) = arguments
            self._second = SecondRunner(states.max_num_reqs, states.device)

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Refuse a request whose seed has more than 64 bits."""
        if sampling_params.seed is not None:
            signed_seed(sampling_params.seed)

    def is_argmax_invariant(self) -> bool:
        """False is for processors that may change a greedy token; this one is called by `routing`, not in that list."""
        return True

    def update_state(self, batch_update: Any) -> None:
        """Called by the first runner before each step."""
        assert self._first is not None
        self._first.update(batch_update)

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """Called by the second runner when a request enters a slot."""
        return self._second.add_request(req_idx, sampling_params)

    def apply_staged_writes(self) -> None:
        """Called by the second runner before each step."""
        self._second.apply_staged_writes()

    def apply(self, logits: torch.Tensor, context: Any = None) -> torch.Tensor:
        """Called by the second runner before the temperature; the first calls it too late, so nothing happens then."""
        return logits if self._second is None else self._second.apply(logits, context)

    def draw(self, logits: torch.Tensor) -> torch.Tensor:
        """Called by `routing` for the first runner: behind the penalties, before temperature and filters."""
        return logits if self._first is None else self._first.apply(logits)
