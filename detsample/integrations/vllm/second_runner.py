"""The second model runner (``vllm/v1/worker/gpu``, with Triton): its samplers, drawing with detsample.

`install` makes the runner's own sampler, and its rejection sampler, objects of a class derived from theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from vllm.v1.worker.gpu.input_batch import get_num_sampled_and_rejected
from vllm.v1.worker.gpu.sample.output import SamplerOutput

from detsample.integrations.vllm.drawing import NOBODY, Rows, Runner, derive, read, to_device

Base: Any = object  # vLLM's class, once `install` has derived one from both
STEPS = 10  # where `rejection_sample` has the number of speculative steps


class SecondRunner(Runner):
    """A request sits in a slot; a batch names slots, in any order, and tells each row's length."""

    def __init__(self, runner: Any, every: bool) -> None:
        super().__init__(runner, every, torch.int64)
        self.ones = torch.ones(runner.max_num_reqs, dtype=torch.int32, device=runner.device)
        self.zeros = torch.zeros_like(self.ones)
        self._slots = [NOBODY] * runner.max_num_reqs
        self._version = 0
        self.position: Any = None
        self.verifying: Rows | None = None
        """Set while vLLM's rejection sampler is to ask for its verdict."""
        self.final: Any = None
        self.allowed: tuple[Any, Any] = None, None
        """A batch, and the sets of allowed tokens that its draw is to read."""
        self._judging: Any = None
        self._asked = self._judged = 0

    def add(self, slot: int, params: Any) -> None:
        """Take a request into its slot, whoever had it before."""
        self._slots[slot] = read(params, self._every)
        self._version += 1

    def rows(self, slots: np.ndarray) -> Rows | None:
        """The batch's rows, if detsample draws one of them."""
        return self._batch((self._version, slots.tobytes()), lambda: [self._slots[slot] for slot in slots])

    @contextmanager
    def judging(self, rows: Rows, batch: Any) -> Iterator[None]:
        """Inside this context, vLLM's rejection sampler gets its verdict from here."""
        self.verifying, self._judging, self._asked, self._judged = rows, batch, 0, 0
        try:
            yield
        finally:
            self.verifying = self._judging = self.final = None

    def whose(self, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Of the next rows of logits that vLLM asks about: the row of the batch, and the position to be drawn.

        vLLM asks about a part of the batch after the other, where all of it would take too much memory.
        """
        start, self._asked = self._asked, self._asked + rows
        batch, here = self._judging, torch.arange(start, start + rows, device=self._device)
        owner = torch.searchsorted(batch.cu_num_logits, here.to(batch.cu_num_logits.dtype), right=True) - 1
        return owner, (batch.positions[batch.logits_indices[start : start + rows]] + 1).int()

    def verdict(
        self, original: Callable[..., Any], processed: torch.Tensor, *arguments: Any, **keywords: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Stand in for vLLM's `rejection_sample`, for the requests of one call of it."""
        rows = self.verifying
        if rows is None:
            return original(processed, *arguments, **keywords)
        _, drafts, offsets, pos, *_ = arguments
        start, self._judged = self._judged, self._judged + offsets.shape[0] - 1
        ours = self.drawer.verify(self.final, drafts, offsets, pos, arguments[STEPS - 1], start)
        if rows.all_drawn:
            return ours
        theirs = original(processed, *arguments, **keywords)
        drawn = rows.drawn[start : self._judged]
        return torch.where(drawn[:, None], ours[0], theirs[0]), torch.where(drawn, ours[1], theirs[1])


class SecondSampler(Base):
    """vLLM's sampler, with detsample's tokens for the rows that it draws."""

    detsample: SecondRunner
    sampling_states: Any

    def add_request(self, req_idx: int, *arguments: Any) -> None:
        """Called when a request enters a slot; its parameters come last, whatever stands between."""
        super().add_request(req_idx, *arguments)
        self.detsample.add(req_idx, arguments[-1])

    def __call__(self, logits: torch.Tensor, input_batch: Any) -> Any:
        """Called in each step without drafts."""
        ours = self.detsample
        if self.nothing_but_tokens(logits, input_batch):
            of, allowed = ours.allowed
            position = input_batch.seq_lens[: len(logits)]
            tokens = ours.drawer.draw(logits, position, allowed if of is input_batch else None)
            return self._all_drawn(tokens, input_batch)
        rows = ours.rows(input_batch.idx_mapping_np)
        if rows is None or rows.count != logits.shape[0]:
            return super().__call__(logits, input_batch)
        ours.position = input_batch.seq_lens[: rows.count]
        with ours.asked(rows):
            return ours.told(super().__call__(logits, input_batch), rows)

    def nothing_but_tokens(self, logits: torch.Tensor, batch: Any) -> bool:
        """Whether a step is nothing but tokens, a row each, that detsample draws from the logits as they are."""
        rows = self.detsample.rows(batch.idx_mapping_np)
        if rows is None or rows.count != logits.shape[0] or not rows.simple:
            return False
        replayed, masked = getattr(self, "trace_replay_state", None), getattr(self, "return_sampling_mask", False)
        return not self.compute_nans and replayed is None and not masked and len(self._processors()) == 0

    def _processors(self) -> list[Any]:
        """The custom logits processors: those behind vLLM's own three."""
        return getattr(self, "logits_processors", [])[3:]

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
        final = self._final(logits, *arguments) if self._changes(rows) else logits
        processed = final
        if self._keeps(rows):
            ours.kept = ours.drawer.draw_and_keep(final, ours.position)
            tokens, processed = ours.kept.tokens, ours.kept.processed()
        else:
            tokens = ours.drawer.draw(final, ours.position)
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
        own = logits if rows.all_drawn else logits.clone()  # vLLM scales them in place for the other requests
        ours.final = self._final(own, *arguments) if self._changes(rows) else own
        owner, position = ours.whose(logits.shape[0])
        processed = ours.final
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

    def _changes(self, rows: Rows) -> bool:
        """Whether vLLM changes the logits of a row that is drawn here, other than by temperature and filters."""
        return not rows.plain or len(self._processors()) > 0

    def _final(self, logits: torch.Tensor, *arguments: Any) -> torch.Tensor:
        """The logits with everything that vLLM does to them but temperature and filters."""
        states, self.sampling_states = self.sampling_states, Unscaled(self.sampling_states)
        try:
            return super().apply_sampling_params(logits, *arguments, skip_top_k_top_p=True)
        finally:
            self.sampling_states = states


class SecondRejection(Base):
    """vLLM's rejection sampler, with detsample's verdict for the requests that it draws."""

    detsample: SecondRunner

    def __call__(self, logits: torch.Tensor, input_batch: Any, *arguments: Any, **keywords: Any) -> Any:
        """Called in each step with drafts."""
        ours = self.detsample
        rows = ours.rows(input_batch.idx_mapping_np)
        if rows is None:
            return super().__call__(logits, input_batch, *arguments, **keywords)
        with ours.judging(rows, input_batch):
            return super().__call__(logits, input_batch, *arguments, **keywords)


class Unscaled:
    """vLLM's sampling states, without effect on logits."""

    def __init__(self, states: Any) -> None:
        self._states = states

    def __getattr__(self, name: str) -> Any:
        return getattr(self._states, name)

    def apply_temperature(self, *arguments: Any) -> None:
        """Change nothing."""

    def apply_min_p(self, *arguments: Any) -> None:
        """Change nothing."""


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
