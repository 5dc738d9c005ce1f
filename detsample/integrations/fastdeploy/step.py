"""What the functions that one call of a FastDeploy sampler makes have to know of each other.

FastDeploy masks logits, takes a softmax, applies min-p and draws, in four functions that see only their arguments.
Within a `Step` the draw remembers the masked logits and min-p, so that it is made from logits, where it is exact, and
it finds the rows' absolute positions.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import paddle

import detsample
from detsample.integrations.fastdeploy.holding import hold, holding
from detsample.integrations.fastdeploy.masking import apply_top_k_top_p_triton
from detsample.integrations.fastdeploy.probabilities import (
    _compute_sampling_mask,
    _random_sample,
    min_p_is_off,
    min_p_sampling,
    top_k_top_p_sampling,
    window,
)
from detsample.integrations.fastdeploy.speculative import Rows, build_sampling_params, owned_rows
from detsample.integrations.fastdeploy.tensors import beside, first_rows, streams

SIGNATURE = inspect.signature(top_k_top_p_sampling)


class Lengths(NamedTuple):
    """What FastDeploy's inputs say of a step's rows, for B slots or more; int32, [B] or [B, 1]."""

    this_time: Any  # seq_lens_this_time, the tokens that the model was given
    decoder: Any  # seq_lens_decoder, the tokens that the cache had before
    ends: Any = None  # cu_seqlens_q_output [B + 1], if a request may own several rows, or none; else row b is slot b's


def read_lengths(inputs: Any, one_row_a_slot: bool) -> Lengths | None:
    """The lengths in FastDeploy's inputs, None where they are not.

    An InputBatch is no mapping: ``in`` and ``[]`` are what all of its versions have. With `one_row_a_slot`, each slot
    has one row, whatever the inputs say.
    """
    if inputs is None or "seq_lens_this_time" not in inputs or "seq_lens_decoder" not in inputs:
        return None
    several = not one_row_a_slot and "cu_seqlens_q_output" in inputs
    ends = inputs["cu_seqlens_q_output"] if several else None
    return Lengths(inputs["seq_lens_this_time"], inputs["seq_lens_decoder"], ends)


@dataclass
class Step:
    """One call of a sampler."""

    lengths: Lengths | None  # without them positions are 0
    wants_masks: bool = False  # whether the sampler will ask for kept sets
    masked: Any = field(default=None, init=False)
    log_z: Any = field(default=None, init=False)
    before_min_p: Any = field(default=None, init=False)
    behind_min_p: Any = field(default=None, init=False)
    min_p: Any = field(default=None, init=False)
    _owned: Rows | None = field(default=None, init=False)

    def build_sampling_params(
        self, top_p: Any, top_k: Any, infer_seed: Any, this_time: Any, cu_seqlens: Any, rows: int, increment: int = 0
    ) -> tuple[Any, Any, Any]:
        """`build_sampling_params` with the lengths of this step."""
        decoder = None if self.lengths is None else self.lengths.decoder
        return build_sampling_params(
            top_p, top_k, infer_seed, this_time, cu_seqlens, rows, increment, seq_lens_decoder=decoder
        )

    def apply_top_k_top_p_triton(
        self, logits: Any, k: Any, p: Any, mask_value: float = float("-inf"), return_mask: bool = False
    ) -> Any:
        """As `masking.apply_top_k_top_p_triton`. The draw will be made from the logits that it leaves."""
        if self.wants_masks:
            top_k = 0 if k is None else first_rows("k", k, logits.shape[0])
            top_p = 1.0 if p is None else first_rows("p", p, logits.shape[0])
            kept = detsample.mask(logits, top_k=top_k, top_p=top_p, kind="bits", return_log_z=True)
            self.log_z = hold(kept, top_k, top_p).log_z
        out = apply_top_k_top_p_triton(logits, k, p, mask_value, return_mask)
        # A value other than -inf gives another distribution. Then the draw is made from the probabilities.
        self.masked = logits if mask_value == float("-inf") else None
        return out

    def min_p_sampling(self, probs: Any, min_p_arr: Any, min_p_arr_cpu: list[float] | None = None) -> Any:
        """As `probabilities.min_p_sampling`; the draw goes back to what was before."""
        if min_p_is_off(min_p_arr, min_p_arr_cpu):
            return probs
        min_p = self._per_row("min_p_arr", min_p_arr, probs)
        out = min_p_sampling(probs, min_p)
        self.before_min_p, self.behind_min_p, self.min_p = probs, out, min_p
        return out

    def _random_sample(self, probs: Any, topp_seed: Any = None) -> Any:
        """As `probabilities._random_sample`, from the masked logits if there were any."""
        seeds = self.streams(probs, topp_seed)
        if self.masked is None or list(self.masked.shape) != list(probs.shape):
            return _random_sample(probs, seeds)
        seed, position = streams(seeds, probs)
        out = detsample.sample(self.masked, seed, position=position, min_p=self._min_p(), return_logprobs=False)
        return hold(out, seed, position).token_ids.unsqueeze(1)

    def top_k_top_p_sampling(self, x: Any, *arguments: Any, **keywords: Any) -> tuple[Any, Any]:
        """As `probabilities.top_k_top_p_sampling`, with the rows' own positions."""
        given = SIGNATURE.bind(x, *arguments, **keywords)
        given.arguments["topp_seed"] = self.streams(x, given.arguments.get("topp_seed"))
        return top_k_top_p_sampling(*given.args, **given.kwargs)

    def _compute_sampling_mask(
        self, probs: Any, top_p: Any, top_k: Any = None, top_k_list: list[int] | None = None, **bound: Any
    ) -> tuple[Any, Any, Any, int]:
        """As `probabilities._compute_sampling_mask`, min-p included."""
        if self.masked is None or self.log_z is None or list(self.masked.shape) != list(probs.shape):
            source = self.before_min_p if probs is self.behind_min_p else probs
            min_p = self.min_p if probs is self.behind_min_p else None
            return _compute_sampling_mask(source, top_p, top_k, top_k_list, min_p=min_p, **bound)
        kept = hold(detsample.mask(self.masked, min_p=self._min_p(), return_log_z=True))
        rows, vocab = probs.shape
        return *window(kept, vocab, bound.get("max_kept")), self.log_z + kept.log_z, rows

    def streams(self, probs: Any, topp_seed: Any) -> Any:
        """Seeds and positions [B, 2] of the rows; what was given, where positions are not known."""
        pairs = topp_seed is not None and len(topp_seed.shape) == 2 and topp_seed.shape[1] == 2
        if topp_seed is None or pairs or self.lengths is None:
            return topp_seed
        of = {
            "topp_seed": topp_seed,
            "seq_lens_decoder": self.lengths.decoder,
            "seq_lens_this_time": self.lengths.this_time,
        }
        seed, decoder, this_time = (self._per_row(name, x, probs).astype("int64") for name, x in of.items())
        rows = self._rows(probs)
        later = 0 if rows is None else rows.later
        return paddle.stack([seed, decoder + this_time - later], axis=1)

    def _rows(self, probs: Any) -> Rows | None:
        """The owners of the rows; None if row b belongs to slot b."""
        if self.lengths is None or self.lengths.ends is None:
            return None
        count = probs.shape[0]
        if self._owned is None or self._owned.owner.shape[0] != count:
            ends = beside(self.lengths.ends, probs)
            self._owned = owned_rows(self.lengths.this_time.shape[0], ends, count)
        return self._owned

    def _per_row(self, name: str, parameter: Any, probs: Any) -> Any:
        """A request's parameter for each of its rows. Row and request have different numbers if a slot is idle or owns
        several rows.
        """
        rows = self._rows(probs)
        return first_rows(name, beside(parameter, probs), probs.shape[0]) if rows is None else rows.of(parameter)

    def _min_p(self) -> Any:
        return 0.0 if self.min_p is None else self.min_p


_STEP: ContextVar[Step | None] = ContextVar("detsample_fastdeploy_step", default=None)


def current() -> Step | None:
    """The step that this thread is in."""
    return _STEP.get()


@contextmanager
def entered(step: Step) -> Iterator[None]:
    """A step as the current one; what its calls still write to is kept until the next one is over."""
    token = _STEP.set(step)
    try:
        with holding():
            yield
    finally:
        _STEP.reset(token)
