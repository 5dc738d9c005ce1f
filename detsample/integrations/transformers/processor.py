"""The logits processor: it leaves one finite score in each row, that of the drawn token.

`generate` calls processors behind penalties, biases and constraints and before its own temperature, top-k, top-p and
min-p, so the scores are final and not yet scaled. With one finite score, whatever follows has no choice.

A loop of our own would have to follow caches, compilation and speculative drafts; a processor keeps them all. What it
cannot see, the padding and the generation config, `custom_generate` of the module `loop` reads for it.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from transformers import LogitsProcessor, LogitsProcessorList

import detsample
from detsample.integrations.seeds import signed_seed
from detsample.sampler.output import SampleOutput
from detsample.sampler.parameters import as_integer

MOST_SAMPLES = (1 << 31) - 1  # of the rows that a call may have


class DetsampleLogitsProcessor(LogitsProcessor):
    """Draws the next token of each sequence and leaves only that token's score finite.

    No state that a token depends on is kept from step to step. A row's token depends on its scores, its parameters and
    its length.

    Parameters
    ----------
    topp_seed : int, or a sequence, an array or a tensor of B integers
        A seed for each prompt. One number is for one prompt.
    attention_mask : [B, T], "unpadded", or None
        The mask of the prompts, as `generate` gets it. It says where the padding on the left ends, which does not count
        as positions.
        ``"unpadded"``: no prompt is padded, or the model is an encoder-decoder. None is the same, for one prompt only:
        of several nobody knows whether they are padded.
    temperature, top_p, min_p : float, or a sequence, an array or a tensor of B real numbers
        As for `detsample.sample`; of a prompt each.
    top_k : int, or a sequence, an array or a tensor of B integers
        As for `detsample.sample`.
    num_return_sequences : int
        Samples of each prompt. If more than one, the i-th has the seed ``fold_in(topp_seed, i)``.

    Raises
    ------
    TypeError
        If a seed, a top-k or the number of samples is not an integer, or another parameter not a real number. A bool is
        neither.
    ValueError
        If a parameter is out of range or has not one entry for each prompt, or it is not said whether several prompts
        are padded, or padding is not on the left. When called: if there are other rows than prompts times samples, or
        several rows that are all normalised log probabilities where a generation begins, both of which are how beam
        search calls a processor; if there is no token yet, as where prompts are given as `inputs_embeds`; if a row's
        scores are invalid (see `detsample.Status`).

    Examples
    --------
    >>> processor = DetsampleLogitsProcessor(7, top_k=2)
    >>> processor(torch.tensor([[5, 6, 7]]), torch.tensor([[0.0, 1.0, 2.0, 3.0]]))
    tensor([[-inf, -inf, -inf, 0.]])
    """

    supports_continuous_batching = False

    def __init__(
        self,
        topp_seed: Any,
        *,
        attention_mask: torch.Tensor | Literal["unpadded"] | None = None,
        temperature: Any = 1.0,
        top_k: Any = 0,
        top_p: Any = 1.0,
        min_p: Any = 0.0,
        num_return_sequences: int = 1,
    ) -> None:
        seeds = [as_integer("topp_seed", seed, -(1 << 63), (1 << 64) - 1) for seed in _entries(topp_seed)]
        prompts = len(seeds)
        if not prompts:
            raise ValueError("topp_seed must have an entry for each prompt, got none")
        repeats = as_integer("num_return_sequences", num_return_sequences, 1, MOST_SAMPLES)
        self._samples = repeats
        self._width, padding = _padding(attention_mask, prompts)
        self._length = -1
        if repeats > 1:
            seeds = [detsample.fold_in(seed, i) for seed in seeds for i in range(repeats)]
        columns = {
            "padding": padding,
            "temperature": _column("temperature", [_temperature(x) for x in _entries(temperature)], prompts),
            "top_k": _column("top_k", [_top_k(x) for x in _entries(top_k)], prompts),
            "top_p": _column("top_p", [_share("top_p", x) for x in _entries(top_p)], prompts),
            "min_p": _column("min_p", [_share("min_p", x) for x in _entries(min_p)], prompts),
        }
        self._columns = {name: column.repeat_interleave(repeats) for name, column in columns.items()}
        self._columns["topp_seed"] = torch.tensor([signed_seed("topp_seed", seed) for seed in seeds])

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """The scores with the drawn token's at 0 and all others at ``-inf``.

        Parameters
        ----------
        input_ids : [rows, T'] int64
            The sequences so far, with their padding.
        scores : [rows, V] floating
            Final, and not yet scaled by a temperature. Not changed.

        Returns
        -------
        [rows, V] of the scores' dtype

        Raises
        ------
        ValueError
            See above.
        """
        return alone(scores, self.draw(input_ids, scores).token_ids)

    def draw(self, input_ids: torch.Tensor, scores: torch.Tensor, **wanted: Any) -> SampleOutput:
        """The draw itself; `wanted` are the results asked for beside the tokens."""
        self._check(input_ids, scores)
        if self._columns["topp_seed"].device != scores.device:
            self._columns = {name: column.to(scores.device) for name, column in self._columns.items()}
        of = self._columns
        return detsample.sample(
            scores.float(),
            of["topp_seed"],
            position=input_ids.shape[1] - of["padding"],
            temperature=of["temperature"],
            top_k=of["top_k"],
            top_p=of["top_p"],
            min_p=of["min_p"],
            check=scores.device.type == "cpu",
            **({"return_logprobs": False} | wanted),
        )

    def _check(self, input_ids: torch.Tensor, scores: torch.Tensor) -> None:
        rows = self._columns["topp_seed"].shape[0]
        if scores.shape[0] != rows:
            raise ValueError(
                f"scores must have {rows} rows ({rows // self._samples} seeds, {self._samples} samples each), got "
                f"{scores.shape[0]}; beam search is not sampling and is not supported"
            )
        length = input_ids.shape[1]
        if length < max(1, self._width):
            raise ValueError(
                f"input_ids must hold the prompt of {self._width or 'at least 1'} tokens, got {length}; prompts given "
                "as inputs_embeds alone have no positions here"
            )
        # This is checked where a generation begins and not at each token, because the check waits for a GPU.
        begins = length == self._width or length != self._length + 1
        self._length = length
        if begins and rows > 1 and _normalised(scores):
            raise ValueError(
                "scores are normalised log probabilities, as beam search computes them; only num_beams=1 is supported"
            )


def alone(scores: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
    """Scores of the same shape of which only the drawn tokens' are finite."""
    # On a GPU nothing waits to find out about an invalid row. There multinomial's own check reports it.
    alone = torch.full_like(scores, -torch.inf)
    value = torch.where(token_ids >= 0, torch.zeros_like(token_ids, dtype=scores.dtype), torch.nan)
    return alone.scatter_(1, token_ids.clamp(min=0)[:, None], value[:, None])


def sampling(
    topp_seed: Any,
    *,
    attention_mask: torch.Tensor | Literal["unpadded"] | None = None,
    temperature: Any = 1.0,
    top_k: Any = 0,
    top_p: Any = 1.0,
    min_p: Any = 0.0,
    num_return_sequences: int = 1,
) -> dict[str, Any]:
    """Arguments for ``model.generate(**inputs, **sampling(...))``: the processor, and nobody else's sampling.

    transformers' own temperature and filters are set to neutral, `num_beams` to 1 and `watermarking_config` to None, so
    that naming one of them twice is an error and a model's generation config cannot bring them in. A watermark would
    have no effect: transformers applies it behind the draw.

    Parameters
    ----------
    topp_seed, attention_mask, temperature, top_k, top_p, min_p, num_return_sequences
        As for `DetsampleLogitsProcessor`.

    Returns
    -------
    dict
        `logits_processor`, `do_sample`, `num_beams`, `num_return_sequences`, no `watermarking_config`, and neutral
        filters.

    Raises
    ------
    TypeError, ValueError
        As `DetsampleLogitsProcessor`.

    Examples
    --------
    >>> sorted(sampling(7, top_k=50))[:3]
    ['do_sample', 'epsilon_cutoff', 'eta_cutoff']
    """
    processor = DetsampleLogitsProcessor(
        topp_seed,
        attention_mask=attention_mask,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        num_return_sequences=num_return_sequences,
    )
    return {
        "logits_processor": LogitsProcessorList([processor]),
        "do_sample": True,
        "num_beams": 1,
        "num_return_sequences": int(num_return_sequences),
        "watermarking_config": None,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "min_p": None,
        "typical_p": 1.0,
        "epsilon_cutoff": 0.0,
        "eta_cutoff": 0.0,
    }


def _entries(value: Any) -> list[Any]:
    """The numbers of a parameter."""
    if isinstance(value, torch.Tensor):
        return value.reshape(-1).tolist()
    if isinstance(value, np.ndarray):
        return list(value.reshape(-1))  # NumPy's numbers, whose types tell bools and time spans from integers
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]


def _top_k(value: Any) -> int:
    return as_integer("top_k", value, -(1 << 63), (1 << 63) - 1)


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


def _padding(attention_mask: torch.Tensor | str | None, prompts: int) -> tuple[int, torch.Tensor]:
    """The width of the prompts, 0 if not known, and how many tokens of each are padding."""
    if isinstance(attention_mask, str) and attention_mask != "unpadded":
        raise ValueError(f"attention_mask must be a tensor, 'unpadded' or None, got {attention_mask!r}")
    if attention_mask is None and prompts > 1:
        raise ValueError(
            "attention_mask must be given for several prompts, since padding does not count as positions: pass "
            "inputs['attention_mask'], or 'unpadded' where no prompt is padded; got None"
        )
    if attention_mask is None or isinstance(attention_mask, str):
        return 0, torch.zeros(prompts, dtype=torch.int64)
    mask = attention_mask.cpu() != 0
    if mask.ndim != 2 or mask.shape[0] != prompts:
        raise ValueError(f"attention_mask must have shape [{prompts}, T], got {list(attention_mask.shape)}")
    if (mask[:, 1:] < mask[:, :-1]).any():
        raise ValueError("attention_mask must have its zeros on the left: padding_side='left'")
    return mask.shape[1], (~mask).sum(dim=1)


def _column(name: str, entries: list[Any], prompts: int) -> torch.Tensor:
    """Integers as int64, floats as float64; one entry is for every prompt."""
    if len(entries) not in (1, prompts):
        raise ValueError(f"{name} must be a number or have {prompts} entries, got {len(entries)}")
    return torch.tensor(entries, dtype=torch.float64 if isinstance(entries[0], float) else torch.int64).expand(prompts)


def _normalised(scores: torch.Tensor) -> bool:
    """Whether every row is a log softmax. The logits of a model are never that by accident."""
    return bool((scores.double().logsumexp(dim=1).abs() < 1e-4).all())
