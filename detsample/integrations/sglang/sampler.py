"""SGLang's sampler, drawing with detsample: tokens, their log probabilities and the sets that they are drawn from."""

from __future__ import annotations

from typing import Any, Final

import torch
from sglang.srt.layers import sampler as theirs

import detsample

BACKEND = "detsample"
# SGLang takes top-p's share of the whole softmax, and what both top-k and top-p keep; min-p comes behind.
ORDER: Final = "joint"


class DetsampleSampler(theirs.Sampler):
    """SGLang's `Sampler`, for batches that have seeds; others are SGLang's.

    Penalties, logit bias and grammars have been applied when it is asked, as for any sampler. A token's position is its
    absolute index: one more than that of the input token, which is what SGLang tells. Where it is made, on a GPU, it
    compiles and loads its kernels.
    """

    def __init__(self) -> None:
        super().__init__()
        if torch.cuda.is_available():
            detsample.warmup(
                "torch", torch.cuda.current_device(), dtypes=["float32"], masks=["bool"], parameters={"top_k": "int32"}
            )

    def forward(
        self,
        logits_output: Any,
        sampling_info: Any,
        return_logprob: bool,
        top_logprobs_nums: list[int],
        token_ids_logprobs: list[Any],
        positions: torch.Tensor,
        *,
        logprob_logits: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Draw a token a row; called by SGLang in each step.

        Parameters
        ----------
        logits_output, sampling_info, return_logprob, top_logprobs_nums, token_ids_logprobs, positions, logprob_logits
            As SGLang's sampler takes them.

        Returns
        -------
        [B] int32
            0 for a row that detsample calls invalid.
        """
        told = (return_logprob, top_logprobs_nums, token_ids_logprobs)
        if sampling_info.sampling_seed is None:
            return super().forward(logits_output, sampling_info, *told, positions, logprob_logits=logprob_logits)
        logits = self._preprocess_logits(logits_output.next_token_logits, sampling_info)
        masked = sampling_info.sampling_mask_batch_indices
        out = detsample.sample(
            logits,
            sampling_info.sampling_seed,
            position=positions[: logits.shape[0]].long() + 1,
            temperature=sampling_info.temperatures,
            top_k=sampling_info.top_ks,
            top_p=sampling_info.top_ps,
            min_p=sampling_info.min_ps,
            filter_order=ORDER,
            return_mask=None if masked is None else "bool",
        )
        tokens = out.token_ids.clamp(min=0).to(torch.int32)
        if return_logprob:
            scored = logits if logprob_logits is None else self._preprocess_logits(logprob_logits, sampling_info)
            logprobs = self._logprobs(scored, sampling_info.temperatures)
            result = self.output_logprob_processor.compute_logprobs(logprobs, *told[1:], tokens)
            result.write_output_to(logits_output)
        self._sync_token_ids_across_tp(tokens, sampling_info)
        if masked is not None:
            heat = sampling_info.temperatures
            logits_output.sampling_mask_output = self._kept(logits, heat, out, tokens, sampling_info)
        return tokens

    def _logprobs(self, logits: torch.Tensor, temperatures: torch.Tensor) -> torch.Tensor:
        """[B, V] as SGLang returns them: of the whole softmax, at the rows' temperatures or, if it is told so, at 1."""
        if theirs.SGLANG_RETURN_ORIGINAL_LOGPROB:
            return torch.log_softmax(logits, dim=-1)
        if self.rl_on_policy_target is not None:  # as the trainer computes them
            return torch.log_softmax(logits.bfloat16().div(temperatures).bfloat16(), dim=-1)
        return torch.log_softmax(logits / temperatures, dim=-1)

    def _kept(
        self, logits: torch.Tensor, temperatures: torch.Tensor, out: Any, tokens: torch.Tensor, info: Any
    ) -> Any:
        """The kept sets in SGLang's layout, with the log probabilities of the draw."""
        rows = info.sampling_mask_batch_indices
        heated = (logits / temperatures).masked_fill(~out.mask, -torch.inf).index_select(0, rows)
        # Not below the smallest number: SGLang takes a weight of 0 for a token that is not kept.
        kept = out.mask.index_select(0, rows)
        weights = torch.where(kept, torch.softmax(heated, -1).clamp(min=torch.finfo(torch.float32).tiny), 0.0)
        capture = theirs._SamplingMaskCapture(weights, None, None, rows)
        told = self._build_sampling_mask_output(tokens, capture, info.sampling_support_logprobs_capture_indices)
        told.selected_logprobs = out.logprobs.index_select(0, rows)
        return told
