"""Logits captured from a real model, shipped so that the demo and the tests need no download.

``smollm2_logits.npz`` is made by ``tests/data/make_real_logits.py``; its ``meta`` entry says
from which package versions.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["RealLogits", "load_real_logits"]


@dataclass(frozen=True, eq=False)
class RealLogits:
    """Next-token logits of SmolLM2-135M-Instruct, one row for each prompt."""

    logits: npt.NDArray[np.float32]  # [rows, vocabulary], the model's own fp32 bits
    names: tuple[str, ...]
    prompts: tuple[str, ...]
    meta: dict[str, Any]
    _text: bytes
    _starts: npt.NDArray[np.int64]

    def token_bytes(self, token_id: int) -> bytes:
        """The token's bytes; on its own a token may be only a part of a UTF-8 character."""
        if not 0 <= token_id < self.logits.shape[1]:
            raise IndexError(f"token id {token_id} is outside [0, {self.logits.shape[1]})")
        return self._text[self._starts[token_id] : self._starts[token_id + 1]]

    def token_text(self, token_id: int) -> str:
        """The token as text for display; bytes that are no whole character become U+FFFD."""
        return self.token_bytes(token_id).decode("utf-8", errors="replace")


def load_real_logits() -> RealLogits:
    """Read the captured rows (about 0.1 s)."""
    with files(__name__).joinpath("smollm2_logits.npz").open("rb") as file, np.load(file) as npz:
        meta = json.loads(npz["meta"].tobytes())
        starts = np.concatenate([[0], np.cumsum(npz["token_lengths"], dtype=np.int64)])
        # The file holds the four bytes of each float as four planes: see the script.
        planes = npz["logit_bytes"]
        return RealLogits(
            logits=np.ascontiguousarray(np.moveaxis(planes, 0, -1)).view("<f4")[..., 0].astype(np.float32),
            names=tuple(meta["names"]),
            prompts=tuple(meta["prompts"]),
            meta=meta,
            _text=npz["token_text"].tobytes(),
            _starts=starts,
        )
