"""The logits processor that vLLM loads: one class that is both model runners' kind.

Both runners read one group of entry points and construct whatever they find there, each in its own way; the second
refuses what is not of its own kind. So this class is of both, and what it is constructed with says which one it
serves.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.v1.sample.logits_processor.interface import LogitsProcessor as FirstInterface

from detsample.integrations.vllm.first_runner import FirstRunner

try:
    from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsProcessor as SecondInterface
except ImportError:  # a vLLM that has only the first runner

    class SecondInterface:  # type: ignore[no-redef]
        """Stands where there is none."""


LARGEST_SEED = (1 << 63) - 1


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
        """Refuse a request whose seed, or that of one of its samples, vLLM cannot hold: int64 on the second runner.

        vLLM calls this where a request is admitted, with either runner, so that nothing is refused in a step.

        Parameters
        ----------
        sampling_params : SamplingParams
            Its `seed`, and its `n`: sample i has the seed ``seed + i``.

        Raises
        ------
        ValueError
            vLLM turns it into the request's error.
        """
        seed, samples = sampling_params.seed, sampling_params.n
        if seed is None:
            return
        if not -(1 << 63) <= seed <= LARGEST_SEED:
            raise ValueError(f"seed must be between -2^63 and 2^63 - 1, got {seed}")
        if seed + samples - 1 > LARGEST_SEED:
            raise ValueError(
                "seed + n - 1 must be at most 2^63 - 1, because vLLM gives sample i the seed seed + i; got seed "
                f"{seed} and n {samples}"
            )

    def is_argmax_invariant(self) -> bool:
        """Whether `apply` leaves each row's largest logit the largest. It does: on the first runner it is empty.

        That runner sorts its processors by the answer. It applies those that say False before the penalties, and those
        that say True behind the temperature, unless all requests are greedy: then it skips them. A draw belongs
        between the two and is due to greedy requests as well. So it is made by `draw`, which `routing` calls there
        whatever the answer is, and `apply` is put where it costs least. The second runner does not ask.

        Returns
        -------
        bool
            True.
        """
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
