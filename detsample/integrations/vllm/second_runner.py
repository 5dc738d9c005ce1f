"""The second model runner (``vllm/v1/worker/gpu``, with Triton): its samplers, drawing with detsample.

`install` makes the runner's own sampler, and its rejection sampler, objects of a class derived from theirs.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from vllm.v1.worker.gpu.input_batch import get_num_sampled_and_rejected
from vllm.v1.worker.gpu.sample.output import SamplerOutput

from detsample.integrations.vllm.asking import to_device
from detsample.integrations.vllm.drawing import NOBODY, Rows, Runner, derive, of_requests, read

Base: Any = object  # vLLM's class, once `install` has derived one from both
UNSCALED = SimpleNamespace(apply_temperature=lambda *_: None, apply_min_p=lambda *_: None)
"""In place of vLLM's sampling states, without effect on logits."""
STEPS = 10  # where `rejection_sample` has the number of speculative steps


class SecondRunner(Runner):
    """A request sits in a slot; a batch names slots, in any order, and tells each row's length."""

    def __init__(self, runner: Any, every: bool) -> None:
        super().__init__(runner, every, torch.int64)
        self.ones = torch.ones(runner.max_num_reqs, dtype=torch.int32, device=runner.device)
        self.zeros = torch.zeros_like(self.ones)
        self._slots = [NOBODY] * runner.max_num_reqs
        self._sampler, self._version = runner.sampler, 0
        self._placed: Rows | None = None
        """The batch whose tokens begin at `_begin`, and behind the prompts at `_behind`."""
        self._begin = self._behind = self.zeros
        self.batch: Any = None
        """The one that vLLM's sampler is asked about."""
        self.verifying: Rows | None = None
        """Set while vLLM's rejection sampler is to ask for its verdict."""
        self.final: Any = None
        self.allowed: tuple[Any, Any] = None, None
        """A batch, and the sets of allowed tokens that its draw is to read."""
        self.asked_of = self.judged = 0
        """How many of its rows, and how many of its requests, vLLM's rejection sampler has asked about."""

    def add(self, slot: int, params: Any) -> None:
        """Take a request into its slot, whoever had it before."""
        self._slots[slot] = read(params, self._every)
        self._version += 1

    def rows(self, slots: np.ndarray) -> Rows | None:
        """The batch's rows, if detsample draws one of them."""
        return self._batch((self._version, slots.tobytes()), lambda: [self._slots[slot] for slot in slots])

    def change(self, logits: torch.Tensor, rows: Rows, in_place: bool = False, start: int = 0) -> torch.Tensor:
        """`Lists.change` for the batch, or for the part of it whose logits begin with row `start`. The tokens so far
        are read on the device, where vLLM keeps them.
        """
        if rows.plain:
            return logits
        batch, states, lists, drafts = self.batch, self._sampler.req_states, rows.lists, {}
        ids, slots = states.all_token_ids.gpu, batch.idx_mapping
        if self._placed is not rows:
            self._placed, self._begin = rows, slots.long() * ids.shape[1]
            self._behind = self._begin + states.prompt_len.gpu.index_select(0, slots)
        begin, behind, end = self._begin, self._behind, self._begin + states.total_len.gpu.index_select(0, slots)
        if self.verifying:
            inputs, offsets = batch.input_ids[batch.logits_indices], batch.cu_num_logits.long()
            table = of_requests(inputs, offsets, self._sampler.num_speculative_tokens)
            drafts = {"draft_tokens": table, "row_offsets": offsets - start}
        # Where none are asked about there are none, but in the same types, so that there is one kernel.
        prompt = ids.view(-1), begin, behind if lists.of_prompt else begin
        output = ids.view(-1), behind, end if lists.of_output else behind
        return lists.change(self._held(logits, lists, in_place), prompt, output, in_place, **drafts)

    def whose(self, rows: int) -> tuple[int, torch.Tensor, torch.Tensor]:
        """Of the next rows of logits that vLLM asks about: the first, the row of the batch, the position to be drawn.

        vLLM asks about a part of the batch after the other, where all of it would take too much memory.
        """
        start, self.asked_of = self.asked_of, self.asked_of + rows
        batch, here = self.batch, torch.arange(start, start + rows, device=self._device)
        owner = torch.searchsorted(batch.cu_num_logits, here.to(batch.cu_num_logits.dtype), right=True) - 1
        return start, owner, (batch.positions[batch.logits_indices[start : start + rows]] + 1).int()

    def verdict(
        self, original: Callable[..., Any], processed: torch.Tensor, *arguments: Any, **keywords: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Stand in for vLLM's `rejection_sample`, for the requests of one call of it."""
        rows = self.verifying
        if rows is None:
            return original(processed, *arguments, **keywords)
        _, drafts, offsets, pos, *_ = arguments
        start, self.judged = self.judged, self.judged + offsets.shape[0] - 1
        ours = self.drawer.verify(self.final, drafts, offsets, pos, arguments[STEPS - 1], start)
        if rows.all_drawn:
            return ours
        theirs = original(processed, *arguments, **keywords)
        drawn = rows.drawn[start : self.judged]
        return torch.where(drawn[:, None], ours[0], theirs[0]), torch.where(drawn, ours[1], theirs[1])


class SecondSampler(Base):
    """vLLM's sampler, with detsample's tokens for the rows that it draws."""

    detsample: SecondRunner
    sampling_states: Any
    logits_processors: list[Any]

    def add_request(self, req_idx: int, *arguments: Any) -> None:
        """Called when a request enters a slot; its parameters come last, whatever stands between."""
        super().add_request(req_idx, *arguments)
        self.detsample.add(req_idx, arguments[-1])

    def __call__(self, logits: torch.Tensor, input_batch: Any) -> Any:
        """Called in each step without drafts."""
        ours = self.detsample
        rows, ours.batch = ours.rows(input_batch.idx_mapping_np), input_batch
        if rows is None or rows.count != logits.shape[0]:
            return super().__call__(logits, input_batch)
        if self.nothing_but_tokens(logits, input_batch):
            of, allowed = ours.allowed
            final, position = ours.change(logits, rows, True), input_batch.seq_lens[: rows.count]
            tokens = ours.drawer.draw(final, position, allowed if of is input_batch else None)
            return self._all_drawn(tokens, input_batch)
        with ours.asked(rows):
            return ours.told(super().__call__(logits, input_batch), rows)

    def nothing_but_tokens(self, logits: torch.Tensor, batch: Any) -> bool:
        """Whether a step is nothing but tokens, a row each, that detsample draws, and needs no mask in the logits."""
        rows = self.detsample.rows(batch.idx_mapping_np)
        if rows is None or rows.count != logits.shape[0] or not rows.simple:
            return False
        if not rows.plain and rows.lists.special:
            return False
        replayed, masked = getattr(self, "trace_replay_state", None), getattr(self, "return_sampling_mask", False)
        return not self.compute_nans and replayed is None and not masked and not self._processors()

    def _processors(self) -> list[Any] | None:
        """The custom logits processors: those behind vLLM's own three; None in vLLM 0.26, which knows none."""
        return self.logits_processors[3:] if hasattr(self, "logits_processors") else None

    def _all_drawn(self, tokens: torch.Tensor, batch: Any) -> Any:
        prefilling = getattr(batch, "is_prefilling_np", None)
        if prefilling is None or prefilling.any():
            counts = get_num_sampled_and_rejected(
                batch.seq_lens.new_ones(batch.num_reqs), batch.seq_lens, batch.cu_num_logits, batch.idx_mapping,
                self.req_states.prefill_len.gpu,
            )  # fmt: skip
        else:  # one token each, and nothing was drafted
            counts = self.detsample.ones[: batch.num_reqs], self.detsample.zeros[: batch.num_reqs]
        return SamplerOutput(tokens.view(-1, 1), None, None, *counts)

    def sample(self, logits: torch.Tensor, *arguments: Any, **keywords: Any) -> Any:
        """Called by vLLM's `__call__`, for tokens and the logits that log probabilities are made of."""
        ours, rows = self.detsample, self.detsample.current
        if rows is None:
            return super().sample(logits, *arguments, **keywords)
        theirs = None
        if not rows.all_drawn:
            ours.current = None
            theirs = super().sample(*(_others(x, rows) for x in (logits, *arguments)), **keywords)
        processed = final = self._final(logits, rows, 0, *arguments)
        position = ours.batch.seq_lens[: rows.count]
        if self._keeps(rows):
            ours.kept = ours.drawer.draw_and_keep(final, position)
            tokens, processed = ours.kept.tokens, ours.kept.processed()
        else:
            tokens = ours.drawer.draw(final, position)
        if theirs is not None:
            tokens.index_copy_(0, rows.others, theirs[0])
            if ours.kept is not None:
                processed.index_copy_(0, rows.others, theirs[1].float())
        return tokens, processed

    def apply_sampling_params(self, logits: torch.Tensor, *arguments: Any, **keywords: Any) -> torch.Tensor:
        """Called by vLLM's rejection sampler, for the logits that it verifies with."""
        ours, rows = self.detsample, self.detsample.verifying
        if rows is None:
            return super().apply_sampling_params(logits, *arguments, **keywords)
        # vLLM scales them in place for the other requests.
        own = logits.clone() if rows.plain and not rows.all_drawn else logits
        start, owner, position = ours.whose(logits.shape[0])
        processed = ours.final = self._final(own, rows, start, *arguments)
        if self._keeps(rows):
            processed = ours.drawer.draw_and_keep(ours.final, position, owner).processed()
        if rows.all_drawn:
            return processed
        theirs = super().apply_sampling_params(logits, *arguments, **keywords)
        if not self._keeps(rows):
            return theirs
        return torch.where(rows.drawn[owner][:, None], processed, theirs.float())

    def _keeps(self, rows: Rows) -> bool:
        """Whether kept sets are asked for."""
        return getattr(self, "return_sampling_mask", False) or (rows.told and self.detsample.processed_mode)

    def _final(self, logits: torch.Tensor, rows: Rows, start: int, *arguments: Any) -> torch.Tensor:
        """The logits, from row `start` on, with all that is done to them but temperature and filters. Behind what
        requests ask for come custom processors and thinking budgets, by vLLM's own code.
        """
        final, custom = self.detsample.change(logits, rows, start=start), self._processors()
        if custom is None or not (custom or (not rows.plain and rows.lists.special)):
            return final
        known = self.sampling_states, self.logits_processors
        self.sampling_states, self.logits_processors = UNSCALED, custom
        try:
            return super().apply_sampling_params(final, *arguments, skip_top_k_top_p=True)
        finally:
            self.sampling_states, self.logits_processors = known


class SecondRejection(Base):
    """vLLM's rejection sampler, with detsample's verdict for the requests that it draws."""

    detsample: SecondRunner

    def __call__(self, logits: torch.Tensor, input_batch: Any, *arguments: Any, **keywords: Any) -> Any:
        """Called in each step with drafts."""
        ours = self.detsample
        ours.verifying, ours.batch = ours.rows(input_batch.idx_mapping_np), input_batch
        ours.asked_of = ours.judged = 0
        try:
            return super().__call__(logits, input_batch, *arguments, **keywords)
        finally:
            ours.verifying = ours.batch = ours.final = None


def _others(value: Any, rows: Rows) -> Any:
    """The part of an argument, a row each, that belongs to rows which vLLM draws."""
    return value[rows.others_np] if isinstance(value, np.ndarray) else value.index_select(0, rows.others)


def read_grammars(runner: Any, ours: SecondRunner) -> torch.Tensor:
    """Have a draw read the grammars' sets, where vLLM would write -inf into the logits first; returns their memory."""
    worker = runner.structured_outputs_worker
    write, device = worker.apply_grammar_bitmask, runner.device
    sets = torch.full((runner.max_num_reqs, worker.grammar_bitmask.shape[1]), -1, dtype=torch.int32, device=device)

    def apply_grammar_bitmask(logits: torch.Tensor, batch: Any, names: list[str], masks: np.ndarray) -> None:
        if len(masks) != len(names) or not runner.sampler.nothing_but_tokens(logits, batch):
            return write(logits, batch, names, masks)
        row_of, now = {name: row for row, name in enumerate(batch.req_ids)}, torch.cuda.current_stream()
        with torch.cuda.stream(worker.copy_stream):  # while the model computes the logits
            masked = to_device(np.array([row_of[name] for name in names], np.int64), device)
            given = to_device(masks, device)
        now.wait_stream(worker.copy_stream)
        ours.allowed = batch, sets[: batch.num_reqs].fill_(-1).index_copy_(0, masked, given)
        worker.copy_stream.wait_stream(now)  # what it copies next may be in the same memory

    worker.apply_grammar_bitmask = apply_grammar_bitmask
    return sets


def install(runner: Any, every: bool) -> SecondRunner:
    """Have the runner's samplers ask detsample."""
    ours = SecondRunner(runner, every)
    derive(runner.sampler, SecondSampler, ours)
    ours.sets = read_grammars(runner, ours)
    if runner.rejection_sampler is not None:
        from vllm.v1.worker.gpu.spec_decode import rejection_sampler as module

        derive(runner.rejection_sampler, SecondRejection, ours)
        original = getattr(module.rejection_sample, "_detsample_original", module.rejection_sample)

        def rejection_sample(*arguments: Any, **keywords: Any) -> Any:
            return ours.verdict(original, *arguments, **keywords)

        rejection_sample._detsample_original = original  # type: ignore[attr-defined]
        module.rejection_sample = rejection_sample
    return ours
