"""What vLLM's requests ask to be done to their logits, as `detsample.processing` takes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from detsample.processing import Processing, apply

PENALTIES = ("repetition_penalty", "frequency_penalty", "presence_penalty")


class Lists:
    """The lists and numbers of a batch's requests, vLLM's SamplingParams, on the device as long as the batch is the
    same.
    """

    def __init__(self, params: Sequence[Any], device: Any) -> None:
        # vLLM's kernel for CUDA divides by the repetition penalty, as FastDeploy does; its other code multiplies.
        self._convention = "fastdeploy" if torch.device(device).type == "cuda" else "vllm"
        self._device = device
        numbers = {name: np.array([getattr(p, name) for p in params], np.float32) for name in PENALTIES}
        self._repeats = bool((numbers["repetition_penalty"] != 1).any())
        penalised = self._repeats or any(x.any() for name, x in numbers.items() if name != "repetition_penalty")
        words = [p.bad_words_token_ids or [] for p in params]
        biases = [p.logit_bias or {} for p in params]
        stops = [sorted(p.all_stop_token_ids) if p.min_tokens else [] for p in params]
        firm = [[] if p.structured_outputs else of_one for p, of_one in zip(params, stops, strict=True)]
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
        self._shortest = np.array([p.min_tokens for p in params])
        if any(stops):
            self._given["min_length"] = self._on(self._shortest)
        if penalised:
            self._given |= {name: self._on(x) for name, x in numbers.items()}
        self.any = bool(self._given)
        self._reads_tokens = penalised or any(words)
        self._forbids_only = not (penalised or any(biases))
        self._ends = firm != stops
        self._firm = self._on(_table(firm)) if self._ends and any(firm) else None
        budget = any(getattr(p, "thinking_token_budget", None) is not None for p in params)
        self.special = self._ends or budget
        """Whether what is done to a row depends on more than these lists: on its grammar's set, or on its thoughts."""

    def written(self, prompt: torch.Tensor | None, states: Sequence[Any]) -> Processing:
        """For the next step of the requests with these states, in the runner's order, which list the tokens so far;
        `prompt` is a table of theirs.
        """
        if not self._reads_tokens:
            more = self._shortest - [len(state.output_token_ids) for state in states]
            return replace(self.processing(None, None), min_length=self._on(np.maximum(more, 0)))
        known, rows = [_tokens(state) for state in states], len(states)
        ends = np.cumsum([len(tokens) for tokens in known])
        # Each part starts on 16 bytes, so that there is one kernel.
        bounds = np.zeros((2, rows + rows % 2), np.int64)
        bounds[:, :rows] = ends - [len(tokens) for tokens in known], ends
        where = self._on(np.concatenate([bounds.ravel(), *known], dtype=np.int64))
        return self.processing(prompt, (where[bounds.size :], where[:rows], where[bounds.shape[1] :][:rows]))

    def processing(self, prompt: Any, output: Any) -> Processing:
        """For requests with these tokens so far."""
        return Processing(
            self._convention, prompt=prompt if self._repeats else None,
            output=output if self._reads_tokens or "stop" in self._given else None, **self._given,
        )  # fmt: skip

    def change(self, logits: torch.Tensor, asked: Processing, may: bool = False, **drafts: Any) -> torch.Tensor:
        """Logits with what is asked for: new ones, or, where `may` allows it and they can hold them, the same."""
        may = may and not self._ends and (self._forbids_only or logits.dtype == torch.float32)
        final = apply(logits, asked, in_place=may, **drafts)
        if self._ends:  # a grammar that leaves nothing but stop tokens ends a request before its time, as in vLLM
            without = apply(logits, replace(asked, stop=self._firm), **drafts)
            final = torch.where(final.isneginf().all(1, keepdim=True), without, final)
        return final

    def _on(self, array: np.ndarray) -> torch.Tensor:
        return to_device(array, self._device)


def to_host_memory(array: np.ndarray, device: Any) -> torch.Tensor:
    """An array as a tensor that can be copied without waiting for the device."""
    tensor = torch.from_numpy(array)
    return tensor if torch.device(device).type == "cpu" else tensor.pin_memory()


def to_device(array: np.ndarray, device: Any) -> torch.Tensor:
    """An array beside the logits, without waiting for the device."""
    return to_host_memory(array, device).to(device, non_blocking=True)


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
