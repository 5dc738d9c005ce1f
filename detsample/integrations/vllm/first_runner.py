"""The first model runner (``vllm/v1/worker/gpu_model_runner.py``, and the CPU's): one row a request, batch updates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from vllm.v1.sample.logits_processor.interface import BatchUpdate, MoveDirectionality

from detsample.integrations.vllm.drawing import draw, to_device


@dataclass(frozen=True)
class Request:
    """A seeded request in the batch; `output` is vLLM's own list, which grows as tokens are drawn."""

    params: Any
    prompt_length: int
    output: Sequence[int]

    @property
    def position(self) -> int:
        """The absolute index of the token to be drawn."""
        return self.prompt_length + len(self.output)


class FirstRunner:
    """The seeded requests of the batch, by row."""

    def __init__(self, device: Any) -> None:
        self._device = device
        self._requests: dict[int, Request] = {}

    def update(self, update: BatchUpdate | None) -> None:
        """Follow requests that join, leave and move, in vLLM's order: removed, added, moved."""
        if update is None:
            return
        requests = self._requests
        for row in update.removed:
            requests.pop(row, None)
        for row, params, prompt, output in update.added:
            requests.pop(row, None)
            # Prompts given as embeddings have no length here: vLLM draws for them.
            if params.seed is not None and prompt is not None:
                requests[row] = Request(params, len(prompt), output)
        for source, target, direction in update.moved:
            moved, replaced = requests.pop(source, None), requests.pop(target, None)
            if moved is not None:
                requests[target] = moved
            if replaced is not None and direction == MoveDirectionality.SWAP:
                requests[source] = replaced

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Leave one token in the rows of seeded requests; logits are float32, before temperature and filters."""
        rows = sorted(self._requests)
        if not rows:
            return logits
        requests = [self._requests[row] for row in rows]
        params = [request.params for request in requests]
        columns = (
            np.array([p.seed for p in params], np.int64),
            np.array([request.position for request in requests], np.int64),
            np.array([p.temperature for p in params], np.float32),
            np.array([p.top_k for p in params], np.int64),
            np.array([p.top_p for p in params], np.float32),
            np.array([p.min_p for p in params], np.float32),
        )
        tensors = [to_device(column, logits.device) for column in columns]
        if len(rows) == logits.shape[0]:
            return draw(logits, *tensors)
        where = to_device(np.array(rows, np.int64), logits.device)
        return logits.index_copy_(0, where, draw(logits.index_select(0, where), *tensors))
