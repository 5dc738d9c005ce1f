"""What vLLM's requests ask to be done to their logits, as `detsample.processing` takes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from detsample.processing import Processing

PENALTIES = ("repetition_penalty", "frequency_penalty", "presence_penalty")


class Lists:
    """The lists and numbers of a batch's requests, vLLM's SamplingParams, on the device as long as the batch is the
    same.
    """

    def __init__(self, params: Sequence[Any], device: Any) -> None:
        self._device = device
        # vLLM's kernel for CUDA divides by the repetition penalty, as FastDeploy does; its other code multiplies.
        self._convention = "fastdeploy" if torch.device(device).type == "cuda" else "vllm"
        self.penalised = any(
            p.repetition_penalty != 1.0 or p.frequency_penalty != 0.0 or p.presence_penalty != 0.0 for p in params
        )
        words = [p.bad_words_token_ids or [] for p in params]
        biases = [p.logit_bias or {} for p in params]
        stops = [sorted(p.all_stop_token_ids) if p.min_tokens else [] for p in params]
        self._shortest = np.array([p.min_tokens for p in params])
        self.needs_tokens = self.penalised or any(words)
        lists: dict[str, Any] = {"only": [p.allowed_token_ids or [] for p in params], "stop": stops}
        lists["bias"] = [list(map(int, b)) for b in biases]
        self._given: dict[str, Any] = {name: self._on(_table(x)) for name, x in lists.items() if any(x)}
        if any(biases):
            self._given["bias_values"] = self._on(_table([list(b.values()) for b in biases], np.float32))
        if any(words):
            most = max(map(len, words))
            longest = max(len(word) for of_one in words for word in of_one)
            flat = [word for of_one in words for word in of_one + [[]] * (most - len(of_one))]
            self._given["bad_words"] = self._on(_table(flat, longest=longest).reshape(len(words), most, longest))
        for name in PENALTIES if self.penalised else ():
            self._given[name] = self._on(np.array([getattr(p, name) for p in params], np.float32))
        self.any = bool(self._given)

    def processing(self, prompt: torch.Tensor | None, states: Sequence[Any]) -> Processing:
        """For the next step of the requests with these states, in the runner's order; `prompt` is a table of theirs."""
        given = dict(self._given)
        known = [_tokens(state) if self.needs_tokens else _NONE for state in states]
        if self.needs_tokens:
            rows = len(known)
            ends = np.cumsum([len(tokens) for tokens in known])
            # Each part starts on 16 bytes, so that there is one kernel.
            bounds = np.zeros((2, rows + rows % 2), np.int64)
            bounds[:, :rows] = ends - [len(tokens) for tokens in known], ends
            where = self._on(np.concatenate([bounds.ravel(), *known], dtype=np.int64))
            given["output"] = where[bounds.size :], where[:rows], where[bounds.shape[1] :][:rows]
        if "stop" in given:
            # Tokens that are counted, and not known here yet.
            more = [len(state.output_token_ids) - len(tokens) for state, tokens in zip(states, known, strict=True)]
            given["min_length"] = self._on(np.maximum(self._shortest - more, 0))
        return Processing(self._convention, prompt=prompt if self.penalised else None, **given)

    def _on(self, array: np.ndarray) -> torch.Tensor:
        from detsample.integrations.vllm.drawing import to_device

        return to_device(array, self._device)


_NONE = np.empty(0, np.int32)


def _table(lists: Sequence[Sequence[Any]], dtype: Any = np.int64, longest: int | None = None) -> np.ndarray:
    """[Q, n], with -1 behind the end of each list."""
    longest = max(map(len, lists)) if longest is None else longest
    table = np.full((len(lists), longest), -1, dtype)
    for row, values in zip(table, lists, strict=True):
        row[: len(values)] = values
    return table


def _tokens(state: Any) -> np.ndarray:
    """The tokens that a request has generated. Those of the steps before are kept with it, so that a step adds a token.
    """
    tokens, known = getattr(state, "_detsample_tokens", (_NONE, 0))
    ids = state.output_token_ids
    known = known if known <= len(ids) else 0  # vLLM takes tokens back where a cache could not be loaded
    if len(ids) > len(tokens):
        tokens = np.concatenate([tokens[:known], np.empty(len(ids) + 64 - known, np.int32)])
    new = ids[known:]
    tokens[known : len(ids)] = new
    # vLLM writes -1 for a token that is still on its way, and the token later.
    state._detsample_tokens = tokens, known + (new.index(-1) if -1 in new else len(new))
    return tokens[: len(ids)]
