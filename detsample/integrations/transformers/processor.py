"""The logits processor: it leaves one finite score in each row, that of the drawn token.

`generate` calls processors behind penalties, biases and constraints and before its own temperature, top-k, top-p and
min-p, so the scores are final and not yet scaled. With one finite score, whatever follows has no choice.

A loop of our own would have to follow caches, compilation and speculative drafts; a processor keeps them all. What it
cannot see, the padding and the generation config, `custom_generate` of the module `loop` reads for it.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from transformers import LogitsProcessor, LogitsProcessorList

import detsample
from detsample.integrations.prompts import Prompts
from detsample.sampler.output import SampleOutput


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
        self._prompts = Prompts(topp_seed, attention_mask, temperature, top_k, top_p, min_p, num_return_sequences)
        self._length = -1
        columns = self._prompts.columns | {"padding": self._prompts.padding}
        self._columns = {name: torch.from_numpy(column) for name, column in columns.items()}

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
            **({"return_logprobs": False, "return_num_kept": False} | wanted),
        )

    def _check(self, input_ids: torch.Tensor, scores: torch.Tensor) -> None:
        length, rows = input_ids.shape[1], scores.shape[0]
        self._prompts.check(length, rows)
        # This is checked where a generation begins and not at each token, because the check waits for a GPU.
        begins = length == self._prompts.width or length != self._length + 1
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


def _normalised(scores: torch.Tensor) -> bool:
    """Whether every row is a log softmax. The logits of a model are never that by accident."""
    return bool((scores.double().logsumexp(dim=1).abs() < 1e-4).all())
