"""PaddleFormers: `generate`, drawing with detsample. See docs/paddleformers.md."""

from __future__ import annotations

from typing import Any, NamedTuple

from detsample.integrations.missing import missing

try:
    import paddle
    import paddleformers  # noqa: F401
except ImportError as error:
    raise missing("detsample.integrations.paddleformers", "paddleformers", "paddle") from error

import detsample
from detsample.integrations.prompts import Prompts


class Generated(NamedTuple):
    """What `generate` returns."""

    token_ids: Any
    """[rows, T] int64, as the model's own `generate` gives them: without the prompts, unless ``trunc_input=False``."""
    logprobs: Any
    """[rows, T] float32: the log probability that each token was drawn with. Behind a row's end token they mean
    nothing."""


def generate(
    model: Any,
    topp_seed: Any,
    *,
    attention_mask: Any = None,
    temperature: Any = 1.0,
    top_k: Any = 0,
    top_p: Any = 1.0,
    min_p: Any = 0.0,
    num_return_sequences: int = 1,
    **inputs: Any,
) -> Generated:
    """``model.generate(...)`` with each token drawn by detsample.

    A row's token depends on its logits, its parameters and its length. PaddleFormers' penalties come before the draw;
    its own temperature, top-k and top-p are off. Not for two threads with one model.

    Parameters
    ----------
    model : PretrainedModel
    topp_seed : int, or a sequence, an array or a tensor of B integers
        A seed for each prompt. One number is for one prompt.
    attention_mask : [B, T], "unpadded", or None
        Padding on the left does not count as positions. ``"unpadded"``: no prompt is padded, and the model makes its
        own mask. None is the same, for one prompt only.
    temperature, top_p, min_p : float, or a sequence, an array or a tensor of B real numbers
        As for `detsample.sample`; of a prompt each.
    top_k : int, or a sequence, an array or a tensor of B integers
        As for `detsample.sample`.
    num_return_sequences : int
        Samples of each prompt. If more than one, the i-th has the seed ``fold_in(topp_seed, i)``.
    **inputs
        `input_ids` and whatever else the model's `generate` takes.

    Returns
    -------
    Generated

    Raises
    ------
    TypeError
        If a seed, a top-k or the number of samples is not an integer, or another parameter not a real number; if one of
        `inputs` is what is set here: `decode_strategy` or `num_beams`.
    ValueError
        If a parameter is out of range or has not one entry for each prompt, or padding is not known, or not on the
        left; if there are other rows than prompts times samples; on the CPU also for an invalid row (see
        `detsample.Status`).

    Examples
    --------
    >>> # generate(model, [11, 12], **inputs, temperature=0.8, top_p=0.9, max_new_tokens=8).logprobs
    """
    draw = _Draw(Prompts(topp_seed, attention_mask, temperature, top_k, top_p, min_p, num_return_sequences))
    if attention_mask is not None and not isinstance(attention_mask, str):
        inputs["attention_mask"] = attention_mask
    made = model.get_logits_processor

    def with_draw(*arguments: Any, **keywords: Any) -> Any:
        # PaddleFormers 1.2.0 cannot take a list of processors: it iterates over it, and its lists do not do that.
        processors = made(*arguments, **keywords)
        processors.append(draw)
        return processors

    model.get_logits_processor = with_draw
    try:
        token_ids, _ = model.generate(
            decode_strategy="sampling", num_beams=1, temperature=1.0, top_k=0, top_p=1.0,
            num_return_sequences=draw.prompts.samples, **inputs,
        )  # fmt: skip
    finally:
        del model.get_logits_processor
    return Generated(token_ids, paddle.stack(draw.told, axis=1))


class _Draw:
    """A logits processor that leaves one finite score in each row, the drawn token's; so what follows has no choice."""

    def __init__(self, prompts: Prompts) -> None:
        self.prompts = prompts
        self.told: list[Any] = []
        self._columns: dict[str, Any] = {}

    def __call__(self, input_ids: Any, logits: Any) -> Any:
        length, place = input_ids.shape[1], logits.place
        self.prompts.check(length, logits.shape[0])
        if not self._columns:
            columns = self.prompts.columns | {"position": -self.prompts.padding}
            self._columns = {name: paddle.to_tensor(column, place=place) for name, column in columns.items()}
        given = self._columns | {"position": self._columns["position"] + length}
        out = detsample.sample(logits.astype("float32"), **given, check=place.is_cpu_place())
        self.told.append(out.logprobs)
        drawn = out.token_ids.unsqueeze(1)
        value = paddle.where(drawn >= 0, 0.0, float("nan")).astype(logits.dtype)  # paddle.multinomial reports a NaN
        return paddle.put_along_axis(paddle.full_like(logits, -float("inf")), drawn.clip(min=0), value, 1)
