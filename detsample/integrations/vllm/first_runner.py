"""The first model runner (``vllm/v1/worker/gpu_model_runner.py``, and the CPU's): its samplers, drawing with detsample.

`install` makes the runner's own sampler, and its rejection sampler, objects of a class derived from theirs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from vllm.v1.outputs import SamplerOutput

from detsample.integrations.vllm.drawing import Rows, Runner, derive, of_requests, read

PROCESSORS = ("LogitBiasLogitsProcessor", "MinTokensLogitsProcessor")
"""vLLM's own processors, whose requests are read from their parameters."""
Base: Any = object  # vLLM's class, once `install` has derived one from both


class FirstRunner(Runner):
    """The batch is the runner's, and its ``sampling_metadata`` a new object whenever that changes."""

    def __init__(self, runner: Any, every: bool) -> None:
        super().__init__(runner, every, torch.int32)
        self._runner = runner
        self._metadata: Any = None

    def rows(self, metadata: Any) -> Rows | None:
        """The batch's rows, if detsample draws one of them; None for a batch that vLLM makes up to warm up."""
        batch = self._runner.input_batch
        if metadata is not batch.sampling_metadata:
            return None
        if metadata is not self._metadata:
            self._metadata, self._key = metadata, None
        return self._batch(True, lambda: [self._request(self._runner.requests[name]) for name in batch.req_ids])

    def _request(self, state: Any) -> Any:
        """A request without a seed keeps the one that it got, wherever it moves."""
        known = getattr(state, "_detsample", None)
        if known is None:
            known = state._detsample = read(state.sampling_params, self._every)
        return known

    def change(self, logits: torch.Tensor, metadata: Any, in_place: bool = False, **drafts: Any) -> torch.Tensor | None:
        """`Lists.change` for the batch; None where its requests ask for something of vLLM's alone."""
        assert self._rows is not None
        holder = getattr(metadata, "thinking_budget_state_holder", None)
        if holder is not None and holder.has_tracked_requests():
            return None
        if not all(type(p).__name__ in PROCESSORS for p in metadata.logitsprocs.non_argmax_invariant):
            return None
        lists = self._rows.lists
        if not lists.any:
            return None
        states = [self._runner.requests[name] for name in self._runner.input_batch.req_ids]
        written = lists.written(metadata.prompt_token_ids, states)
        return lists.change(self._held(logits, lists, in_place), *written, in_place, **drafts)

    @property
    def position(self) -> torch.Tensor:
        """[B] int32, of the token behind each row's last input token, in the runner's own memory."""
        lengths = self._runner.seq_lens
        return getattr(lengths, "gpu", lengths)


class FirstSampler(Base):
    """vLLM's sampler, with detsample's tokens for the rows that it draws."""

    detsample: FirstRunner

    def forward(self, logits: torch.Tensor, sampling_metadata: Any, *arguments: Any, **keywords: Any) -> Any:
        """Called in each step without drafts."""
        ours = self.detsample
        rows = ours.rows(sampling_metadata)
        if rows is None:
            return super().forward(logits, sampling_metadata, *arguments, **keywords)
        final = (logits if rows.plain else ours.change(logits, sampling_metadata, True)) if rows.simple else None
        if final is not None:
            tokens = ours.drawer.draw(final, ours.position[: rows.count])
            return SamplerOutput(sampled_token_ids=tokens.unsqueeze(-1), logprobs_tensors=None)
        with ours.asked(rows):
            metadata = replace(sampling_metadata, generators={})  # so vLLM draws the other rows as without any seed
            return ours.told(super().forward(logits, metadata, *arguments, **keywords), rows)

    def apply_logits_processors(self, logits: torch.Tensor, sampling_metadata: Any, *arguments: Any) -> torch.Tensor:
        """Called by vLLM's `forward` with logits of fp32, for what requests ask to be done to them."""
        ours = self.detsample
        final = None if ours.current is None else ours.change(logits, sampling_metadata, True)
        return super().apply_logits_processors(logits, sampling_metadata, *arguments) if final is None else final

    def sample(self, logits: torch.Tensor, sampling_metadata: Any, *arguments: Any, **keywords: Any) -> Any:
        """Called by vLLM's `forward` with final logits: before temperature and filters."""
        ours, rows = self.detsample, self.detsample.current
        if rows is None:
            return super().sample(logits, sampling_metadata, *arguments, **keywords)
        position = ours.position[: rows.count]
        processed = None
        if rows.told and ours.processed_mode:
            # vLLM scales the logits in place for the other rows.
            own = logits if rows.all_drawn else logits.clone()
            ours.kept = ours.drawer.draw_and_keep(own, position)
            tokens, processed = ours.kept.tokens, ours.kept.processed()
            if self.logprobs_mode == "processed_logprobs":
                processed = processed.log_softmax(-1)
        else:
            tokens = ours.drawer.draw(logits, position)
        if rows.all_drawn:
            return tokens, processed
        theirs, their_processed = super().sample(logits, sampling_metadata, *arguments, **keywords)
        if processed is not None:
            processed = torch.where(rows.drawn[:, None], processed, their_processed)
        return torch.where(rows.drawn, tokens.to(theirs.dtype), theirs), processed


class FirstRejection(Base):
    """vLLM's rejection sampler, with detsample's verdict for the requests that it draws."""

    detsample: FirstRunner

    def forward(self, metadata: Any, draft_probs: Any, logits: torch.Tensor, sampling_metadata: Any) -> Any:
        """Called in each step with drafts."""
        ours = self.detsample
        rows = ours.rows(sampling_metadata)
        if rows is None:
            return super().forward(metadata, draft_probs, logits, sampling_metadata)
        offsets = torch.nn.functional.pad(metadata.cu_num_sampled_tokens, (1, 0))
        drafts = torch.full((logits.shape[0],), -1, dtype=torch.int64, device=logits.device)
        drafts[metadata.target_logits_indices.long() + 1] = metadata.draft_token_ids.long()
        final = logits if rows.plain else self._final(metadata, logits, sampling_metadata, drafts, offsets)
        sampled = self._verified(metadata, final, drafts, offsets)
        if not rows.all_drawn:
            # The rejection sampler writes to its logits where they are fp32 already.
            bare = replace(sampling_metadata, generators={}, max_num_logprobs=None)
            theirs = super().forward(metadata, draft_probs, logits.clone(), bare).sampled_token_ids
            sampled = torch.where(rows.drawn[:, None], sampled, theirs)
        told = None
        if sampling_metadata.max_num_logprobs is not None:
            told = self._told(metadata, logits, final, offsets, sampled, sampling_metadata.max_num_logprobs)
        return SamplerOutput(sampled_token_ids=sampled, logprobs_tensors=told)

    def _verified(
        self, metadata: Any, final: torch.Tensor, drafts: torch.Tensor, offsets: torch.Tensor
    ) -> torch.Tensor:
        """[B, K + 1] int32, -1 behind the last token."""
        ours, count = self.detsample, len(metadata.num_draft_tokens)
        # Of a request's first row; `verify` asks for no other.
        first = ours.position[:count] - (offsets[1:] - offsets[:-1])
        position = torch.zeros(final.shape[0], dtype=first.dtype, device=final.device)
        position[offsets[:-1].long()] = first
        tokens, drawn = ours.drawer.verify(final, drafts, offsets, position, metadata.max_spec_len)
        behind = torch.arange(tokens.shape[1], device=tokens.device) >= drawn[:, None]
        return tokens.masked_fill(behind, -1).int()

    def _final(
        self, metadata: Any, logits: torch.Tensor, sampling_metadata: Any, drafts: torch.Tensor, offsets: torch.Tensor
    ) -> torch.Tensor:
        """All rows' logits with what their requests ask for; a row sees the drafts before it."""
        table = of_requests(drafts, offsets, metadata.max_spec_len)
        known = self.detsample.change(logits, sampling_metadata, draft_tokens=table, row_offsets=offsets.long())
        if known is not None:
            return known
        targets, bonus = metadata.target_logits_indices.long(), metadata.bonus_logits_indices.long()
        final = torch.empty(logits.shape, dtype=torch.float32, device=logits.device)
        final[targets] = self.apply_logits_processors(logits[targets].float(), sampling_metadata, metadata)
        final[bonus] = self.sampler.apply_logits_processors(logits[bonus].float(), sampling_metadata, True)
        return final

    def _told(
        self, metadata: Any, logits: torch.Tensor, final: torch.Tensor, offsets: torch.Tensor, sampled: torch.Tensor,
        most: int,
    ) -> Any:  # fmt: skip
        ours = self.detsample
        told = logits.float()
        if ours.processed_mode:
            count = torch.arange(len(metadata.num_draft_tokens), device=logits.device)
            rows = count.repeat_interleave(offsets[1:] - offsets[:-1], output_size=logits.shape[0])
            slot = torch.arange(logits.shape[0], device=logits.device) - offsets[rows]
            length = (offsets[1:] - offsets[:-1])[rows]
            position = ours.position[rows] - length + 1 + slot
            told = ours.drawer.draw_and_keep(final, position.int(), rows).processed()
        targets, bonus = metadata.target_logits_indices.long(), metadata.bonus_logits_indices.long()
        return self._get_logprobs_tensors(most, metadata, logits, told[targets], told[bonus], sampled)


def install(runner: Any, every: bool) -> FirstRunner:
    """Have the runner's samplers ask detsample."""
    ours = FirstRunner(runner, every)
    derive(runner.sampler, FirstSampler, ours)
    if getattr(runner, "rejection_sampler", None) is not None:
        derive(runner.rejection_sampler, FirstRejection, ours)
    return ours
