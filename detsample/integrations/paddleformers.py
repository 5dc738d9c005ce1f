"""PaddleFormers: a logits processor that draws the tokens of `generate`. See docs/paddleformers.md."""

from __future__ import annotations

from typing import Any

from detsample.integrations.missing import missing

try:
    import paddle
    from paddleformers.generation import LogitsProcessor, LogitsProcessorList
except ImportError as error:
    raise missing("detsample.integrations.paddleformers", "paddleformers", "paddle") from error

import detsample
from detsample.integrations.prompts import Prompts


class DetsampleLogitsProcessor(LogitsProcessor):
    """Draws the next token of each sequence and leaves only that token's score finite.

    PaddleFormers calls processors behind its penalties and before its own temperature, top-k and top-p, to which one
    finite score leaves no choice. A row's token depends on its scores, its parameters and its length.

    Parameters
    ----------
    topp_seed : int, or a sequence, an array or a tensor of B integers
        A seed for each prompt. One number is for one prompt.
    attention_mask : [B, T], "unpadded", or None
        The mask of the prompts, as `generate` gets it: padding on the left does not count as positions. ``"unpadded"``:
        no prompt is padded. None is the same, for one prompt only.
    temperature, top_p, min_p : float, or a sequence, an array or a tensor of B real numbers
        As for `detsample.sample`; of a prompt each.
    top_k : int, or a sequence, an array or a tensor of B integers
        As for `detsample.sample`.
    num_return_sequences : int
        Samples of each prompt. If more than one, the i-th has the seed ``fold_in(topp_seed, i)``.

    Raises
    ------
    TypeError
        If a seed, a top-k or the number of samples is not an integer, or another parameter not a real number.
    ValueError
        If a parameter is out of range or has not one entry for each prompt, or padding is not known, or not on the
        left. When called: if there are other rows than prompts times samples, as with beams, or if there is no token
        yet; on the CPU also for an invalid row (see `detsample.Status`).

    Examples
    --------
    >>> draw = DetsampleLogitsProcessor(7, top_k=2)
    >>> draw(paddle.to_tensor([[5, 6, 7]]), paddle.to_tensor([[0.0, 1.0, 2.0, 3.0]])).tolist()
    [[-inf, -inf, -inf, 0.0]]
    >>> draw.logprobs.tolist()
    [[-0.3132616877555847]]
    """

    def __init__(
        self,
        topp_seed: Any,
        *,
        attention_mask: Any = None,
        temperature: Any = 1.0,
        top_k: Any = 0,
        top_p: Any = 1.0,
        min_p: Any = 0.0,
        num_return_sequences: int = 1,
    ) -> None:
        self._prompts = Prompts(topp_seed, attention_mask, temperature, top_k, top_p, min_p, num_return_sequences)
        self._columns: dict[str, Any] = {}
        self._told: list[Any] = []
        self._length = -1

    def __call__(self, input_ids: Any, logits: Any) -> Any:
        """The scores with the drawn token's at 0 and all others at ``-inf``.

        Parameters
        ----------
        input_ids : [rows, T'] int64
            The sequences so far, with their padding.
        logits : [rows, V] floating
            Final, and not yet scaled by a temperature. Not changed.

        Returns
        -------
        [rows, V] of the logits' dtype

        Raises
        ------
        ValueError
            See above.
        """
        of, length = self._prompts, input_ids.shape[1]
        of.check(length, logits.shape[0])
        if length != self._length + 1:  # a generation begins
            self._told = []
        self._length = length
        place = logits.place
        if not self._columns:
            columns = of.columns | {"position": -of.padding}
            self._columns = {name: paddle.to_tensor(column, place=place) for name, column in columns.items()}
        given = self._columns | {"position": self._columns["position"] + length}
        out = detsample.sample(logits.astype("float32"), **given, check=place.is_cpu_place())
        self._told.append(out.logprobs)
        drawn = out.token_ids.unsqueeze(1)
        value = paddle.where(drawn >= 0, 0.0, float("nan")).astype(logits.dtype)  # paddle.multinomial reports a NaN
        return paddle.put_along_axis(paddle.full_like(logits, -float("inf")), drawn.clip(min=0), value, 1)

    @property
    def logprobs(self) -> Any:
        """[rows, T] float32: the log probability that each token of the last generation was drawn with.

        The scores that `generate` returns are those of tokens without a choice: 0. Behind a sequence's end token they
        mean nothing.
        """
        return paddle.stack(self._told, axis=1)

    def keywords(self) -> dict[str, Any]:
        """Arguments for ``model.generate(**inputs, **draw.keywords())``: this processor, and nobody else's sampling.

        Returns
        -------
        dict
            `logits_processors`, `decode_strategy`, `num_return_sequences`, `num_beams`, and neutral filters.
        """
        neutral = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "num_beams": 1}
        drawing = {"logits_processors": LogitsProcessorList([self]), "decode_strategy": "sampling"}
        return {**neutral, **drawing, "num_return_sequences": self._prompts.samples}
