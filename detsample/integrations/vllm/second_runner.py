"""The second model runner (``vllm/v1/worker/gpu``): parameters by slot, several rows a request, positions given."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from detsample.integrations.vllm.drawing import draw, to_device

COLUMNS: dict[str, Any] = {
    "topp_seed": np.int64,
    "temperature": np.float32,
    "top_k": np.int64,
    "top_p": np.float32,
    "min_p": np.float32,
    "seeded": np.bool_,
}


class SecondRunner:
    """The parameters of all slots, on the host and as of the last step on the device."""

    def __init__(self, slots: int, device: Any) -> None:
        self._device = device
        self._host = {name: np.zeros(slots, dtype) for name, dtype in COLUMNS.items()}
        self._slots: dict[str, torch.Tensor] = {}
        self.apply_staged_writes()

    def add_request(self, slot: int, params: Any) -> bool:
        """Take a request's parameters into its slot, whoever had it before."""
        seeded = params.seed is not None
        values = {
            "topp_seed": params.seed if seeded else 0,
            "temperature": params.temperature,
            "top_k": params.top_k,
            "top_p": params.top_p,
            "min_p": params.min_p,
            "seeded": seeded,
        }
        for name, value in values.items():
            self._host[name][slot] = value
        return seeded

    def apply_staged_writes(self) -> None:
        """Bring the parameters to the device, in new memory: the last step may still be reading the old."""
        self._slots = {name: to_device(column.copy(), self._device) for name, column in self._host.items()}

    def apply(self, logits: torch.Tensor, context: Any) -> torch.Tensor:
        """Leave one token in the rows of seeded requests; logits are float32, before temperature and filters."""
        if not self._host["seeded"][context.idx_mapping_np].any():
            return logits
        slots = context.expanded_idx_mapping.long()
        of = {name: column[slots] for name, column in self._slots.items()}
        # A row's position is that of its input token; the next one is drawn. Speculative rows have their own.
        position = context.pos.long() + 1
        parameters = (of["topp_seed"], position, of["temperature"], of["top_k"], of["top_p"], of["min_p"])
        if self._host["seeded"][context.idx_mapping_np].all():
            return draw(logits, *parameters)
        drawn = draw(logits.clone(), *parameters)
        return logits.copy_(torch.where(of["seeded"][:, None], drawn, logits))
