"""What one call of a FastDeploy sampler knows, for the functions that it calls one by one.

FastDeploy masks logits, takes a softmax, applies min-p and draws, in four functions that see only their arguments.
Within a `Step` the draw remembers the masked logits and min-p, so that it is made from logits, where it is exact, and
it finds the rows' absolute positions.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import paddle

import detsample
from detsample.integrations.fastdeploy.masking import apply_top_k_top_p_triton
from detsample.integrations.fastdeploy.probabilities import _compute_sampling_mask, min_p_sampling, window
from detsample.integrations.fastdeploy.speculative import build_sampling_params
from detsample.integrations.fastdeploy.tensors import beside, first_rows, streams


@dataclass
class Step:
    """One call of a sampler.

    Attributes
    ----------
    share_inputs : dict, or None
        FastDeploy's, with ``seq_lens_this_time``, ``seq_lens_decoder`` and, where a request owns several rows,
        ``cu_seqlens_q_output``. Without them positions are 0.
    wants_masks : bool
        Whether the sampler will ask for kept sets.
    """

    share_inputs: Any
    wants_masks: bool = False
    masked: Any = field(default=None, init=False)
    log_z: Any = field(default=None, init=False)
    before_min_p: Any = field(default=None, init=False)
    behind_min_p: Any = field(default=None, init=False)
    min_p: Any = field(default=None, init=False)

    def build_sampling_params(
        self, top_p: Any, top_k: Any, infer_seed: Any, this_time: Any, cu_seqlens: Any, rows: int, increment: int = 0
    ) -> tuple[Any, Any, Any]:
        """`build_sampling_params` with the lengths of this step."""
        decoder = self.share_inputs["seq_lens_decoder"]
        return build_sampling_params(
            top_p, top_k, infer_seed, this_time, cu_seqlens, rows, increment, seq_lens_decoder=decoder
        )

    def apply_top_k_top_p_triton(
        self, logits: Any, k: Any, p: Any, mask_value: float = float("-inf"), return_mask: bool = False
    ) -> Any:
        """As `masking.apply_top_k_top_p_triton`; what it leaves is what the draw will be made from."""
        if self.wants_masks:
            top_k = 0 if k is None else first_rows("k", k, logits.shape[0])
            top_p = 1.0 if p is None else first_rows("p", p, logits.shape[0])
            self.log_z = detsample.mask(logits, top_k=top_k, top_p=top_p, kind="bits", return_log_z=True).log_z
        out = apply_top_k_top_p_triton(logits, k, p, mask_value, return_mask)
        # Another value than -inf is another distribution: then the probabilities are what there is.
        self.masked = logits if mask_value == float("-inf") else None
        return out

    def min_p_sampling(self, probs: Any, min_p_arr: Any, min_p_arr_cpu: list[float] | None = None) -> Any:
        """As `probabilities.min_p_sampling`; the draw goes back to what was before."""
        out = min_p_sampling(probs, min_p_arr, min_p_arr_cpu)
        if out is not probs:
            self.before_min_p, self.behind_min_p, self.min_p = probs, out, min_p_arr
        return out

    def random_sample(self, probs: Any, topp_seed: Any, otherwise: Any) -> Any:
        """As `probabilities._random_sample`, from the masked logits if there were any."""
        seeds = self.streams(probs, topp_seed)
        if self.masked is None or list(self.masked.shape) != list(probs.shape):
            return otherwise(probs, seeds)
        pair = streams(seeds, probs)
        out = detsample.sample(
            self.masked, pair[0], position=pair[1], min_p=self._min_p(probs), return_logprobs=False
        )
        return out.token_ids.unsqueeze(1)

    def compute_sampling_mask(
        self, probs: Any, top_p: Any, top_k: Any = None, top_k_list: list[int] | None = None, **bound: Any
    ) -> tuple[Any, Any, Any, int]:
        """As `probabilities._compute_sampling_mask`, min-p included."""
        if self.masked is None or self.log_z is None or list(self.masked.shape) != list(probs.shape):
            source = self.before_min_p if probs is self.behind_min_p else probs
            min_p = self.min_p if probs is self.behind_min_p else None
            return _compute_sampling_mask(source, top_p, top_k, top_k_list, min_p=min_p, **bound)
        kept = detsample.mask(self.masked, min_p=self._min_p(probs), return_log_z=True)
        rows, vocab = probs.shape
        return *window(kept, vocab, bound.get("max_kept")), self.log_z + kept.log_z, rows

    def streams(self, probs: Any, topp_seed: Any) -> Any:
        """Seeds and positions [B, 2] of the rows; what was given, where positions are not known."""
        if topp_seed is None or (len(topp_seed.shape) == 2 and topp_seed.shape[1] == 2):
            return topp_seed
        given, rows = self.share_inputs or {}, probs.shape[0]
        if "seq_lens_decoder" not in given or "seq_lens_this_time" not in given:
            return topp_seed
        this_time, decoder = given["seq_lens_this_time"], given["seq_lens_decoder"]
        ends = given.get("cu_seqlens_q_output")
        if ends is not None:
            none = paddle.zeros_like(this_time)
            return self.build_sampling_params(none, none, topp_seed, this_time, ends, rows)[2]
        parts = [
            first_rows(name, beside(x, probs), rows).astype("int64")
            for name, x in (("topp_seed", topp_seed), ("seq_lens_decoder", decoder), ("seq_lens_this_time", this_time))
        ]
        return paddle.stack([parts[0], parts[1] + parts[2]], axis=1)

    def _min_p(self, probs: Any) -> Any:
        return 0.0 if self.min_p is None else first_rows("min_p_arr", beside(self.min_p, probs), probs.shape[0])


_STEP: ContextVar[Step | None] = ContextVar("detsample_fastdeploy_step", default=None)


def current() -> Step | None:
    """The step that this thread is in."""
    return _STEP.get()


@contextmanager
def entered(step: Step) -> Iterator[None]:
    """A step as the current one."""
    token = _STEP.set(step)
    try:
        yield
    finally:
        _STEP.reset(token)
