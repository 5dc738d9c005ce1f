"""The logits processor: it leaves one finite score in each row, that of the drawn token.

`generate` calls processors behind penalties, biases and constraints and before its own temperature, top-k, top-p and
min-p, so the scores are final and not yet scaled. With one finite score, whatever follows has no choice.

A callable `custom_generate` would see the padding and the generation config by itself. But transformers (5.23,
`_extract_generation_mode_kwargs`) hands such a callable neither the streamer nor the tokenizer that stop strings need,
and a loop of our own would have to follow caches, compilation and speculative drafts. A processor keeps them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList

import detsample


class DetsampleLogitsProcessor(LogitsProcessor):
    """Draws the next token of each sequence and leaves its score alone.

    Nothing is kept from step to step: a row's token is a function of its scores, its parameters and its length.

    Parameters
    ----------
    topp_seed : int, or a sequence of ints, or [B] int64
        A seed for each prompt. One number is for one prompt.
    attention_mask : [B, T], or None
        Of the prompts, as `generate` gets it: where padding on the left ends, which positions do not count. None:
        no padding, or an encoder-decoder model.
    temperature, top_p, min_p : float, or a sequence of floats, or [B] floating
        As for `detsample.sample`; of a prompt each.
    top_k : int, or a sequence of ints, or [B] int64
        As for `detsample.sample`.
    num_return_sequences : int
        Samples of each prompt. If more than one, the i-th has the seed ``fold_in(topp_seed, i)``.

    Raises
    ------
    TypeError, ValueError
        If a parameter has not one entry for each prompt, or padding is not on the left. When called: if there are
        other rows than prompts times samples, or scores are normalised log probabilities, both of which are how
        beam search calls a processor; if a row's scores are invalid (see `detsample.Status`).

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
        attention_mask: torch.Tensor | None = None,
        temperature: Any = 1.0,
        top_k: Any = 0,
        top_p: Any = 1.0,
        min_p: Any = 0.0,
        num_return_sequences: int = 1,
    ) -> None:
        seeds = _seeds(topp_seed)
        prompts = len(seeds)
        if num_return_sequences < 1:
            raise ValueError(f"num_return_sequences must be at least 1, got {num_return_sequences}")
        self._samples = num_return_sequences
        self._width, padding = _padding(attention_mask, prompts)
        repeats = num_return_sequences
        if repeats > 1:
            seeds = [detsample.fold_in(seed, i) for seed in seeds for i in range(repeats)]
        self._columns = {
            "topp_seed": torch.tensor([_signed(seed) for seed in seeds]),
            "padding": padding.repeat_interleave(repeats),
            "temperature": _column("temperature", temperature, prompts, torch.float64).repeat_interleave(repeats),
            "top_k": _column("top_k", top_k, prompts, torch.int64).repeat_interleave(repeats),
            "top_p": _column("top_p", top_p, prompts, torch.float64).repeat_interleave(repeats),
            "min_p": _column("min_p", min_p, prompts, torch.float64).repeat_interleave(repeats),
        }

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """The scores with the drawn token's at 0 and all others at ``-inf``.

        Parameters
        ----------
        input_ids : [rows, T'] int64
            The sequences so far, with their padding.
        scores : [rows, V] floating
        """
        self._check(input_ids, scores)
        if self._columns["topp_seed"].device != scores.device:
            self._columns = {name: column.to(scores.device) for name, column in self._columns.items()}
        of = self._columns
        out = detsample.sample(
            scores.float(),
            of["topp_seed"],
            position=input_ids.shape[1] - of["padding"],
            temperature=of["temperature"],
            top_k=of["top_k"],
            top_p=of["top_p"],
            min_p=of["min_p"],
            return_logprobs=False,
            check=scores.device.type == "cpu",
        )
        # Behind an invalid row on a GPU, where nothing waits to find out, multinomial's own check speaks.
        alone = torch.full_like(scores, -torch.inf)
        zero = torch.zeros_like(out.token_ids, dtype=scores.dtype)
        value = torch.where(out.token_ids >= 0, zero, torch.nan)
        return alone.scatter_(1, out.token_ids.clamp(min=0)[:, None], value[:, None])

    def _check(self, input_ids: torch.Tensor, scores: torch.Tensor) -> None:
        rows = self._columns["topp_seed"].shape[0]
        if scores.shape[0] != rows:
            raise ValueError(
                f"scores must have {rows} rows ({rows // self._samples} seeds, {self._samples} samples each), got "
                f"{scores.shape[0]}; beam search is not sampling and is not supported"
            )
        if input_ids.shape[1] < self._width:
            raise ValueError(
                f"input_ids must hold the prompt of {self._width} tokens, got {input_ids.shape[1]}; prompts given as "
                "inputs_embeds alone have no positions here"
            )
        if self._samples > 1 and input_ids.shape[1] == self._width and _normalised(scores):
            raise ValueError(
                "scores are normalised log probabilities, as beam search computes them; with more than one sample of "
                "a prompt only num_beams=1 is supported"
            )


def sampling(
    topp_seed: Any,
    *,
    attention_mask: torch.Tensor | None = None,
    temperature: Any = 1.0,
    top_k: Any = 0,
    top_p: Any = 1.0,
    min_p: Any = 0.0,
    num_return_sequences: int = 1,
) -> dict[str, Any]:
    """Arguments for ``model.generate(**inputs, **sampling(...))``: the processor, and nobody else's sampling.

    transformers' own temperature and filters are set to neutral, and `num_beams` to 1, so that naming one of them
    twice is an error and a model's generation config cannot bring them in.

    Parameters
    ----------
    topp_seed, attention_mask, temperature, top_k, top_p, min_p, num_return_sequences
        As for `DetsampleLogitsProcessor`.

    Returns
    -------
    dict
        `logits_processor`, `do_sample`, `num_beams`, `num_return_sequences`, and neutral filters.

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
        "num_return_sequences": num_return_sequences,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "min_p": None,
        "typical_p": 1.0,
        "epsilon_cutoff": 0.0,
        "eta_cutoff": 0.0,
    }


def _seeds(topp_seed: Any) -> list[int]:
    if isinstance(topp_seed, int) and not isinstance(topp_seed, bool):
        return [topp_seed]
    if isinstance(topp_seed, torch.Tensor):
        topp_seed = topp_seed.reshape(-1).tolist()
    if not isinstance(topp_seed, Sequence) or not all(isinstance(s, int) for s in topp_seed) or not topp_seed:
        raise TypeError(f"topp_seed must be an int or a sequence of ints, one for each prompt, got {topp_seed!r}")
    return list(topp_seed)


def _signed(seed: int) -> int:
    """A seed's 64 bits as int64."""
    if not -(1 << 63) <= seed < 1 << 64:
        raise ValueError(f"topp_seed must fit in 64 bits, got {seed}")
    return (seed + (1 << 63)) % (1 << 64) - (1 << 63)


def _padding(attention_mask: torch.Tensor | None, prompts: int) -> tuple[int, torch.Tensor]:
    """The width of the prompts, 0 if not known, and how many tokens of each are padding."""
    if attention_mask is None:
        return 0, torch.zeros(prompts, dtype=torch.int64)
    mask = attention_mask.cpu() != 0
    if mask.ndim != 2 or mask.shape[0] != prompts:
        raise ValueError(f"attention_mask must have shape [{prompts}, T], got {list(attention_mask.shape)}")
    if (mask[:, 1:] < mask[:, :-1]).any():
        raise ValueError("attention_mask must have its zeros on the left: padding_side='left'")
    return mask.shape[1], (~mask).sum(dim=1)


def _column(name: str, value: Any, prompts: int, dtype: torch.dtype) -> torch.Tensor:
    column = torch.as_tensor(value, dtype=dtype).cpu().reshape(-1)
    if column.shape[0] not in (1, prompts):
        raise ValueError(f"{name} must be a number or have {prompts} entries, got {column.shape[0]}")
    return column.expand(prompts).contiguous()


def _normalised(scores: torch.Tensor) -> bool:
    """Whether every row is a log softmax; a model's logits are that by no accident."""
    return bool((scores.double().logsumexp(dim=1).abs() < 1e-4).all())
