"""Seeds and parameters of a batch of prompts, as logits processors take them."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np

import detsample
from detsample.sampler.parameters import as_integer

MOST_SAMPLES = (1 << 31) - 1  # of the rows that a call may have


class Prompts:
    """What is drawn with, a row for each sample of each prompt; the arguments and errors are those of a processor.

    `columns` are arrays [rows] under the names of `detsample.sample`'s parameters, `padding` [rows] is how many tokens
    in front are padding, `width` that of the prompts, 0 if not known, and `samples` how many each prompt has.
    """

    def __init__(
        self, topp_seed: Any, attention_mask: Any, temperature: Any, top_k: Any, top_p: Any, min_p: Any,
        num_return_sequences: int,
    ) -> None:  # fmt: skip
        seeds = [as_integer("topp_seed", seed, -(1 << 63), (1 << 64) - 1) for seed in _entries(topp_seed)]
        prompts = len(seeds)
        if not prompts:
            raise ValueError("topp_seed must have an entry for each prompt, got none")
        self.samples = as_integer("num_return_sequences", num_return_sequences, 1, MOST_SAMPLES)
        self.width, padding = _padding(attention_mask, prompts)
        if self.samples > 1:
            seeds = [detsample.fold_in(seed, i) for seed in seeds for i in range(self.samples)]
        self.padding = np.repeat(padding, self.samples)
        given: dict[str, list[Any]] = {
            "temperature": [_temperature(x) for x in _entries(temperature)],
            "top_k": [as_integer("top_k", x, -(1 << 63), (1 << 63) - 1) for x in _entries(top_k)],
            "top_p": [_share("top_p", x) for x in _entries(top_p)],
            "min_p": [_share("min_p", x) for x in _entries(min_p)],
        }
        self.columns = {k: np.repeat(_column(k, entries, prompts), self.samples) for k, entries in given.items()}
        self.columns["topp_seed"] = np.array([seed % (1 << 64) for seed in seeds], np.uint64).view(np.int64)

    def check(self, length: int, rows: int) -> None:
        """Refuse scores of so many rows, behind sequences of this length, that are no step of a generation from these
        prompts.
        """
        due = len(self.padding)
        if rows != due:
            raise ValueError(
                f"scores must have {due} rows ({due // self.samples} seeds, {self.samples} samples each), got {rows}; "
                "beam search is not sampling and is not supported"
            )
        if length < max(1, self.width):
            raise ValueError(
                f"input_ids must hold the prompt of {self.width or 'at least 1'} tokens, got {length}; prompts given "
                "as inputs_embeds alone have no positions here"
            )


def _entries(value: Any) -> list[Any]:
    """The numbers of a parameter."""
    if isinstance(value, np.ndarray):
        return list(value.reshape(-1))  # NumPy's numbers, whose types tell bools and time spans from integers
    if hasattr(value, "tolist") and not isinstance(value, np.generic):  # a tensor
        return list(value.reshape([-1]).tolist())
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]


def _temperature(value: Any) -> float:
    if not 0 <= _number("temperature", value) < math.inf:
        raise ValueError(f"temperature must be finite and at least 0, got {value}")
    return float(value)


def _number(name: str, value: Any) -> float:
    if isinstance(value, (bool, np.timedelta64)) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a real number, got {value!r}")
    if math.isnan(value):
        raise ValueError(f"{name} must be a number, not NaN, got {value}")
    return float(value)


def _share(name: str, value: Any) -> float:
    if _number(name, value) > 1:
        raise ValueError(f"{name} must be a share of 1, not above it, got {value}")
    return float(value)


def _padding(attention_mask: Any, prompts: int) -> tuple[int, np.ndarray]:
    """The width of the prompts, 0 if not known, and how many tokens of each are padding."""
    if isinstance(attention_mask, str) and attention_mask != "unpadded":
        raise ValueError(f"attention_mask must be a tensor, 'unpadded' or None, got {attention_mask!r}")
    if attention_mask is None and prompts > 1:
        raise ValueError(
            "attention_mask must be given for several prompts, since padding does not count as positions: pass "
            "inputs['attention_mask'], or 'unpadded' where no prompt is padded; got None"
        )
    if attention_mask is None or isinstance(attention_mask, str):
        return 0, np.zeros(prompts, np.int64)
    mask = np.asarray(attention_mask.cpu() if hasattr(attention_mask, "cpu") else attention_mask) != 0
    if mask.ndim != 2 or mask.shape[0] != prompts:
        raise ValueError(f"attention_mask must have shape [{prompts}, T], got {list(mask.shape)}")
    if (mask[:, 1:] < mask[:, :-1]).any():
        raise ValueError("attention_mask must have its zeros on the left: padding_side='left'")
    return mask.shape[1], (~mask).sum(axis=1)


def _column(name: str, entries: list[Any], prompts: int) -> np.ndarray:
    """Integers as int64, floats as float64; one entry is for every prompt."""
    if len(entries) not in (1, prompts):
        raise ValueError(f"{name} must be a number or have {prompts} entries, got {len(entries)}")
    return np.broadcast_to(np.array(entries, np.float64 if isinstance(entries[0], float) else np.int64), prompts)
