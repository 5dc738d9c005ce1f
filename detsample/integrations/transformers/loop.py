"""`custom_generate`: the parameters and the padding are those that `generate` was given.

`generate` hands the loop of its caller's choice the batch, its mask, its own list of processors and the generation
config. This one takes from them what a draw needs, puts the logits processor where transformers' own temperature and
filters were, and goes on with the model's loop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from transformers import (
    LogitNormalization,
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from detsample.integrations.transformers.processor import DetsampleLogitsProcessor, alone

# What `generate` may also be asked for and would change what is drawn, behind detsample's back: its neutral values.
REFUSED: dict[str, tuple[Any, ...]] = {
    "top_h": (None,),
    "typical_p": (None, 1.0),
    "epsilon_cutoff": (None, 0.0),
    "eta_cutoff": (None, 0.0),
    "watermarking_config": (None,),
    "num_beams": (None, 1),
    "prompt_lookup_num_tokens": (None,),
}


def custom_generate(
    topp_seed: Any, *, attention_mask: Literal["unpadded"] | None = None, streamer: Any = None
) -> Callable[..., Any]:
    """What ``model.generate(..., do_sample=True, custom_generate=...)`` and pipelines take.

    Temperature, top-k, top-p, min-p, the mask and `num_return_sequences` are those of `generate` and of the model's
    generation config. With ``output_scores=True`` the scores are the log probabilities of the kept set, so
    ``compute_transition_scores`` returns the log probability that each token was drawn with.

    Parameters
    ----------
    topp_seed : int, or a sequence, an array or a tensor of B integers
        A seed for each prompt. One number is for one prompt. The i-th of several samples of a prompt has the seed
        ``fold_in(topp_seed, i)``.
    attention_mask : "unpadded", or None
        Says that prompts which begin with the padding token are not padded. Otherwise such a batch without a mask is
        refused, where transformers cannot tell either.
    streamer : object, optional
        Passed on to the model's loop: transformers does not hand `generate`'s own to a loop of the caller's.

    Returns
    -------
    callable
        To be called by `generate`. It holds no state: it may serve any number of calls.

    Raises
    ------
    ValueError
        When called: if ``do_sample`` is not set, if beams, drafts, a watermark or a filter that detsample does not have
        are asked for, if it is not known whether prompts are padded, and as `DetsampleLogitsProcessor`.

    Examples
    --------
    >>> draw = custom_generate([11, 12])
    >>> # model.generate(**inputs, custom_generate=draw, do_sample=True, temperature=0.8, top_p=0.95)
    """

    def generate(
        model: Any,
        input_ids: torch.Tensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: Any,
        generation_config: Any,
        **model_kwargs: Any,
    ) -> Any:
        _refuse(generation_config)
        samples = generation_config.num_return_sequences or 1
        mask = _mask(model, input_ids, generation_config, model_kwargs, attention_mask == "unpadded")
        drawing = _Drawing(
            topp_seed,
            attention_mask="unpadded" if mask is None else mask[::samples],
            num_return_sequences=samples,
            **_parameters(generation_config),
        )
        drawing.keeps_scores = bool(generation_config.return_dict_in_generate and generation_config.output_scores)
        out = model._sample(
            input_ids,
            logits_processor=LogitsProcessorList([*_without_filters(logits_processor, generation_config), drawing]),
            stopping_criteria=stopping_criteria,
            generation_config=generation_config,
            streamer=streamer,
            **model_kwargs,
        )
        if drawing.keeps_scores:
            out.scores = tuple(drawing.scores[: len(out.scores)])
        return out

    return generate


class _Drawing(DetsampleLogitsProcessor):
    """The processor, which keeps the scores that `generate` is to return."""

    keeps_scores = False

    def __init__(self, topp_seed: Any, *, temperature: float, **how: Any) -> None:
        super().__init__(topp_seed, temperature=temperature, **how)
        self._temperature = temperature
        self.scores: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        if not self.keeps_scores:
            return super().__call__(input_ids, scores)
        out = self.draw(input_ids, scores, return_logprobs=True, return_mask="bool")
        assert isinstance(out.mask, torch.Tensor)
        assert out.logprobs is not None
        kept = (scores.float() / self._temperature).masked_fill(~out.mask, -torch.inf)
        drawn = out.token_ids.clamp(min=0)[:, None]
        self.scores.append(kept.log_softmax(dim=-1).scatter_(1, drawn, out.logprobs[:, None]))
        return alone(scores, out.token_ids)


def _parameters(config: Any) -> dict[str, Any]:
    """The parameters that `generate` was given. A parameter that is None there is off."""
    neutral = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
    given = {name: getattr(config, name) for name in neutral}
    return {name: neutral[name] if value is None else value for name, value in given.items()}


def _refuse(config: Any) -> None:
    if not config.do_sample:
        raise ValueError(
            "do_sample must be True, got False: tokens with a seed are drawn, and generate without custom_generate is "
            "greedy"
        )
    for name, neutral in REFUSED.items():
        value = getattr(config, name, None)
        if value not in neutral:
            raise ValueError(f"{name} must be {neutral[-1]} with detsample's custom_generate, got {value!r}")


def _without_filters(processors: LogitsProcessorList, config: Any) -> list[Any]:
    """The processors, less those at their end that transformers made of the parameters that detsample has taken."""
    given, left = _parameters(config), list(processors)
    made = [
        (LogitNormalization, config.renormalize_logits is True),
        (MinPLogitsWarper, config.min_p is not None),
        (TopPLogitsWarper, given["top_p"] < 1.0),
        (TopKLogitsWarper, given["top_k"] != 0),
        (TemperatureLogitsWarper, given["temperature"] != 1.0),
    ]
    for kind in (kind for kind, there in made if there):
        if not left or type(left[-1]) is not kind:
            raise RuntimeError(f"this transformers puts no {kind.__name__} where detsample expects it: use `sampling`")
        left.pop()
    return left


def _mask(
    model: Any, input_ids: torch.Tensor, config: Any, model_kwargs: dict[str, Any], unpadded: bool
) -> torch.Tensor | None:
    """The mask of the rows; None where no token of theirs is padding."""
    if model.config.is_encoder_decoder or unpadded:
        return None
    mask = model_kwargs.get("attention_mask")
    if mask is not None:
        return mask if mask.shape[1] == input_ids.shape[1] else mask[:, -input_ids.shape[1] :]
    pad = getattr(config, "_pad_token_tensor", None)
    if pad is not None and len(input_ids) > 1 and input_ids.shape[1] > 0 and bool((input_ids[:, 0] == pad).any()):
        raise ValueError(
            "attention_mask must be given to generate: prompts begin with the padding token, and nobody knows whether "
            "they are padded; custom_generate(..., attention_mask='unpadded') says that they are not"
        )
    return None
