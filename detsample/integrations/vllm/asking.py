"""What vLLM's requests ask to be done to their logits, as `detsample.processing` takes it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from detsample.processing import Processing, apply

PENALTIES = ("repetition_penalty", "frequency_penalty", "presence_penalty")


NOTHING = *[np.empty(0, np.int64)] * 3, np.empty(0, np.float32), [], (1.0, 0.0, 0.0), 0, False, False


def read(params: Any) -> tuple[Any, ...] | None:
    """What vLLM's SamplingParams ask for: the ids alone allowed, the stop tokens, the bias's ids and values, bad words,
    penalties, the minimum length, whether a grammar may end it before that, and whether vLLM limits its thoughts. None
    if the logits are final as they come.
    """
    only, bias, words = params.allowed_token_ids or [], params.logit_bias or {}, params.bad_words_token_ids or []
    stop = sorted(params.all_stop_token_ids) if params.min_tokens else []
    penalties = tuple(getattr(params, name) for name in PENALTIES)
    limited = getattr(params, "thinking_token_budget", None) is not None
    if not (only or stop or bias or words or limited) and penalties == (1.0, 0.0, 0.0):
        return None
    lists = (np.array(ids, np.int64) for ids in (only, stop, list(map(int, bias))))
    values, early = np.array(list(bias.values()), np.float32), bool(params.structured_outputs)
    return *lists, values, words, penalties, params.min_tokens, early, limited


class Lists:
    """What `read` found of a batch's requests, on the device as long as the batch is the same."""

    def __init__(self, asked: Iterable[tuple[Any, ...] | None], device: Any) -> None:
        # vLLM's kernel for CUDA divides by the repetition penalty, as FastDeploy does; its other code multiplies.
        self.convention = "fastdeploy" if torch.device(device).type == "cuda" else "vllm"
        self._device = device
        only, stop, bias, values, words, penalties, shortest, ends, limited = zip(
            *(NOTHING if one is None else one for one in asked), strict=True
        )
        numbers = np.array(penalties, np.float32).T.copy()
        penalised = bool((numbers != [[1], [0], [0]]).any())
        lists = {"only": only, "stop": stop, "bias": bias}
        self._ends = any(early and len(ids) for ids, early in zip(stop, ends, strict=True))
        if self._ends:
            lists["firm"] = tuple(ids[:0] if early else ids for ids, early in zip(stop, ends, strict=True))
        given: dict[str, Any] = {name: _flat(of) for name, of in lists.items() if any(map(len, of))}
        if "bias" in given:
            given["bias_values"] = np.concatenate(values)
        if any(words):
            most, longest = max(map(len, words)), max(len(word) for of_one in words for word in of_one)
            table = (word for of_one in words for word in of_one + [[]] * (most - len(of_one)))
            padded = np.array([word + [-1] * (longest - len(word)) for word in table])
            given["bad_words"] = padded.reshape(-1, most, longest)
        if "stop" in given:
            given["min_length"] = np.array(shortest)
        if penalised:
            given |= zip(PENALTIES, numbers, strict=True)
        self.any, self.forbids_only = bool(given), not (penalised or "bias" in given)
        self.of_output = penalised or "stop" in given or any(words)
        """Whether what is asked for depends on the generated tokens."""
        self.of_prompt = bool((numbers[0] != 1).any())
        self._given = upload(given, device) if given else {}
        self._firm = self._given.pop("firm", None)
        self.special = self._ends or any(limited)
        """Whether what is done to a row depends on more than these lists: on its grammar's set, or on its thoughts."""

    def written(self, prompt: torch.Tensor | None, states: Sequence[Any]) -> tuple[Any, Any]:
        """Prompts and outputs of the requests with these states, in the runner's order, as far as they are asked about;
        `prompt` is a table of theirs.
        """
        if not self.of_output:
            return None, None
        known = upload({"output": _flat([_tokens(state) for state in states])}, self._device)
        return prompt if self.of_prompt else None, known["output"]

    def change(
        self, logits: torch.Tensor, prompt: Any, output: Any, in_place: bool = False, **drafts: Any
    ) -> torch.Tensor:
        """Logits with what is asked for: new ones, or, with `in_place`, the same where they can hold it."""
        asked = Processing(self.convention, prompt=prompt, output=output, **self._given)
        in_place = in_place and not self._ends and (self.forbids_only or logits.dtype == torch.float32)
        final = apply(logits, asked, in_place=in_place, **drafts)
        if self._ends:  # a grammar that leaves nothing but stop tokens ends a request before its time, as in vLLM
            without = apply(logits, replace(asked, stop=self._firm), **drafts)
            final = torch.where(final.isneginf().all(1, keepdim=True), without, final)
        return final


def to_device(array: np.ndarray, device: Any) -> torch.Tensor:
    """An array beside the logits, without waiting for the device."""
    tensor = torch.from_numpy(array)
    return tensor if torch.device(device).type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


def upload(given: dict[str, Any], device: Any) -> dict[str, Any]:
    """Arrays, and tuples of them, beside the logits, in one copy. Each starts on 16 bytes, so that there is one kernel.
    """
    parts = [part for value in given.values() for part in (value if isinstance(value, tuple) else (value,))]
    starts = np.cumsum([0, *(-(-part.nbytes // 16) * 16 for part in parts)]).tolist()
    host = np.zeros(starts[-1], np.uint8)
    for part, start in zip(parts, starts, strict=False):
        host[start : start + part.nbytes] = part.reshape(-1).view(np.uint8)
    memory = to_device(host, device)
    made = (
        memory[start : start + part.nbytes].view(torch.from_numpy(part).dtype).view(part.shape)
        for part, start in zip(parts, starts, strict=False)
    )
    return {
        name: tuple(next(made) for _ in value) if isinstance(value, tuple) else next(made)
        for name, value in given.items()
    }


def _flat(lists: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(ids, starts, ends), as `Processing` takes them."""
    sizes = np.array([len(ids) for ids in lists])
    ends = np.cumsum(sizes)
    return np.concatenate(lists, dtype=np.int64), ends - sizes, ends


_NONE = np.empty(0, np.int32)


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
