"""What both model runners share: parameters in device memory that stays in place, and the calls that read them there.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from vllm.logger import init_logger

import detsample
from detsample import rollout
from detsample.integrations.vllm import asking
from detsample.integrations.vllm.asking import to_device
from detsample.sampler.status import describe

logger = init_logger("vllm.detsample")

# vLLM filters by min-p first, and takes top-p's share of what is left.
ORDER: dict[str, Any] = {"filter_order": "min_p_first"}
FIELDS: tuple[tuple[str, Any], ...] = (
    ("topp_seed", np.int64), ("top_k", np.int64),
    ("temperature", np.float32), ("top_p", np.float32), ("min_p", np.float32),
)  # fmt: skip
RING = 8  # so many draws' tokens stay in memory; vLLM has at most one step more than pipeline stages in flight
SIGHTINGS = 3  # of the same logits' address, before a graph is made for it
MOST_GRAPHS = 256
MOST_PLANS = 4096
LOOK_EVERY = 64  # how many steps there are from one look at the rows' status to the next


class Request(NamedTuple):
    """What detsample reads of a request."""

    drawn: bool
    """Whether detsample draws it."""
    told: bool
    """Whether it asks for log probabilities."""
    values: tuple[Any, ...]
    """In the order of `FIELDS`."""
    asked: tuple[Any, ...] | None = None
    """What it asks to be done to its logits."""

    @property
    def plain(self) -> bool:
        """Whether its logits are final as they come."""
        return self.asked is None


NOBODY = Request(False, False, (0, 0, 1.0, 1.0, 0.0))
"""Stands for a row without a request."""


def read(params: Any, every: bool) -> Request:
    """Read vLLM's SamplingParams; with `every`, a request without a seed gets one from the operating system."""
    seed = params.seed
    if seed is None and every:
        seed = secrets.randbits(64) - (1 << 63)
    told = params.logprobs is not None or bool(getattr(params, "logprob_token_ids", None))
    values = seed or 0, params.top_k, params.temperature, params.top_p, params.min_p
    return Request(seed is not None, told, values, asking.read(params))


class Rows:
    """A batch of requests, a row each, as long as it stays the same."""

    def __init__(self, requests: Iterable[Request], device: Any) -> None:
        self.requests, self._device = list(requests), device
        drawn = np.array([r.drawn for r in self.requests], bool)
        self.count = len(drawn)
        self.any_drawn, self.all_drawn = bool(drawn.any()), bool(drawn.all())
        self.plain = all(r.plain for r in self.requests if r.drawn)
        self.told = any(r.told for r in self.requests)
        self.simple = self.all_drawn and not self.told
        self.shared = shared_filters([r for r in self.requests if r.drawn])
        self.others_np = np.flatnonzero(~drawn)
        if self.any_drawn and not self.all_drawn:
            self.drawn = to_device(drawn, device)
            self.others = to_device(self.others_np, device)

    @cached_property
    def lists(self) -> asking.Lists:
        """What is to be done to the rows' logits."""
        return asking.Lists([request.asked for request in self.requests], self._device)


def shared_filters(requests: list[Request]) -> dict[str, Any]:
    """Filters as numbers, where all requests have the same top-k or no filter at all: then `plan` knows that half of
    its kernels have nothing to do. A greedy request has its token whatever the filters are.
    """
    filters = {(max(k, 0), p < 1.0 or m > 0.0) for _, k, t, p, m in (r.values for r in requests) if t > 0}
    if len({k for k, _ in filters}) > 1:
        return {}
    if (0, True) in filters:
        return {}
    top_k = next(iter(filters), (0, False))[0]
    return {"top_k": top_k} if top_k else {"top_k": 0, "top_p": 1.0, "min_p": 0.0}


class Columns:
    """The parameters of a batch's rows on the device, at addresses that never change."""

    def __init__(self, device: Any, capacity: int) -> None:
        capacity = -(-capacity // 16) * 16  # so that each column starts on 16 bytes
        self._kind = np.dtype([*((name, kind, capacity) for name, kind in FIELDS), ("draws", np.int64, 1)])
        self._memory, self._device = torch.zeros(self._kind.itemsize, dtype=torch.uint8, device=device), device
        self._columns = {
            name: self._memory[start : start + kind.itemsize].view(getattr(torch, kind.base.name))
            for name, (kind, start, *_) in self._kind.fields.items()  # type: ignore[union-attr]
        }
        self.draws = self._columns.pop("draws")
        """[1], how many draws there were; the kernel behind a draw counts on."""

    def load(self, requests: list[Request], draws: int) -> None:
        """Copy a batch's parameters to the device in one copy, after everything that still reads those of the last
        batch; and how many draws there were.
        """
        host = np.zeros(1, self._kind)
        for index, (name, _) in enumerate(FIELDS):
            host[name][0, : len(requests)] = [r.values[index] for r in requests]
        host["draws"] = draws
        self._memory.copy_(to_device(host.view(np.uint8), self._device))

    def of(self, rows: int) -> dict[str, torch.Tensor]:
        """The columns of the first rows."""
        return {name: column[:rows] for name, column in self._columns.items()}


class Drawer:
    """Draws the tokens of at most `capacity` rows, in the type that the runner has; those of `ring` draws stay in
    memory.
    """

    def __init__(self, device: Any, capacity: int, dtype: torch.dtype, ring: int = RING) -> None:
        self._dtype, self._device = dtype, torch.device(device)
        self._columns = Columns(device, capacity)
        self._shared: dict[str, Any] = {}
        self._plans: dict[tuple[Any, ...], detsample.Plan] = {}
        self._graphs: dict[tuple[Any, ...], Any] = {}
        self._sightings: dict[tuple[Any, ...], int] = {}
        self._invalid = torch.zeros(capacity, dtype=torch.int32, device=device)
        self._ring = torch.zeros((ring, -(-capacity // 16) * 16), dtype=dtype, device=device)
        self._calls = self._draws = 0
        self._look: tuple[torch.Tensor, Any] | None = None
        self._pool = None

    def load(self, rows: Rows) -> None:
        """Take a new batch's parameters."""
        self._columns.load(rows.requests, self._draws)
        self._shared = rows.shared

    def draw(
        self, logits: torch.Tensor, position: torch.Tensor, allowed: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Draw a token a row, [R], from logits [R, V] that are final except for temperature, filters and the sets of
        allowed tokens.

        `position`, [R] int32, is the index of the token being drawn. Its memory, and that of `allowed`, is read again
        for the next call's. The result is written to again `ring` draws later. An invalid row has token 0, and the log
        reports it.
        """
        shared = self._shared
        rows, slot = logits.shape[0], self._draws % len(self._ring)
        sets = None if allowed is None else allowed.data_ptr()
        key = (rows, logits.dtype, logits.stride(0), position.data_ptr(), sets, *shared.values())
        plan = self._plans.get(key)
        if plan is None:
            if len(self._plans) >= MOST_PLANS:
                for known in (self._plans, self._graphs, self._sightings):
                    known.clear()
            of = self._columns.of(rows) | shared
            plan = self._plans[key] = detsample.plan(
                logits, position=position, allowed=allowed, return_logprobs=False, return_num_kept=False, **ORDER, **of
            )
        graph = self._captured((*key, logits.data_ptr()), plan, logits) if logits.is_cuda else None
        if graph is None:
            self._draw(plan, logits)
        else:
            graph.replay()
        self._draws += 1  # as the kernel behind the draw does
        self._look_at_status()
        return self._ring[slot, :rows]

    def _draw(self, plan: detsample.Plan, logits: torch.Tensor) -> None:
        out = plan(logits)
        if logits.is_cuda:
            from detsample.integrations.vllm.kernels import settle_tokens

            settle_tokens(out.token_ids, out.status, self._invalid, self._ring, self._columns.draws)
        else:
            self._collect(out.status, 0)
            self._ring[self._draws % len(self._ring), : len(out.token_ids)] = out.token_ids.clamp(min=0)

    def draw_and_keep(self, logits: torch.Tensor, position: torch.Tensor, rows: Any = None) -> Kept:
        """As `draw`, with the kept sets, as log probabilities need them; `rows` [R] int64 are those of the batch that
        the rows of the logits are of, where they are not the same.
        """
        of = self._columns.of(logits.shape[0] if rows is None else len(self._invalid))
        if rows is not None:
            of = {name: column.index_select(0, rows.long()) for name, column in of.items()}
        out = detsample.sample(logits, position=position, return_mask="bits", **ORDER, **of)
        if rows is None:  # else `verify` draws the same requests
            self._collect(out.status, 0)
        self._look_at_status()
        return Kept(out.token_ids.clamp(min=0).to(self._dtype), out.mask, logits, of["temperature"])

    def verify(
        self, logits: torch.Tensor, drafts: torch.Tensor, offsets: torch.Tensor, position: torch.Tensor,
        most: int, start: int = 0,
    ) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
        """Accept drafted tokens that would have been drawn, and draw the one behind them.

        The rows of request b start at ``offsets[b]``; `drafts` and `position` [R] are of each row's input token, which
        behind a request's first row is a drafted one, -1 where nothing was. There are at most `most` of them, and the
        first request's row in the batch is `start`.

        Returns the tokens, [B, most + 1] int64, with 0 in place of an invalid row's and behind the last, and their
        numbers, [B] int32.
        """
        first = offsets[:-1].long()
        table = of_requests(drafts, offsets, most)
        requests = start + first.shape[0]
        of = {name: column[start:] for name, column in self._columns.of(requests).items()}
        out = detsample.speculative.verify(
            logits, table, (offsets[1:] - offsets[:-1] - 1).int(), position=position[first].long() + 1,
            row_offsets=offsets.contiguous(), return_logprobs=False, **ORDER, **of,
        )  # fmt: skip
        self._collect(out.status, start)
        self._look_at_status()
        return out.token_ids.clamp(min=0), out.num_accepted + 1

    def _captured(self, key: tuple[Any, ...], plan: detsample.Plan, logits: torch.Tensor) -> Any:
        """The graph of a call with logits at this address: vLLM's are at one or two, step after step."""
        if key in self._graphs:
            return self._graphs[key]
        seen = self._sightings[key] = self._sightings.get(key, 0) + 1
        if seen < SIGHTINGS or len(self._graphs) >= MOST_GRAPHS:
            return None
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        graph, here, aside = torch.cuda.CUDAGraph(), torch.cuda.current_stream(), torch.cuda.Stream()
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            # Only this thread: others copy the last step's results meanwhile.
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                self._draw(plan, logits)
            finally:
                graph.capture_end()
        here.wait_stream(aside)
        self._graphs[key] = graph
        return graph

    def _collect(self, status: torch.Tensor, start: int) -> None:
        self._invalid[start : start + len(status)].bitwise_or_(status)

    def _look_at_status(self) -> None:
        """Read the collected status bits now and then, without waiting for the device."""
        self._calls += 1
        if self._look is not None and (self._look[1] is None or self._look[1].query()):
            bits = int(np.bitwise_or.reduce(self._look[0].numpy()))
            self._look = None
            if bits:
                logger.error("detsample: rows could not be drawn and got token 0: %s", describe(bits))
        if self._calls % LOOK_EVERY == 0 and self._look is None:
            self._look = self._begin_look()

    def _begin_look(self) -> tuple[torch.Tensor, Any]:
        seen, done = self._invalid.to("cpu", non_blocking=True, copy=True), None
        if self._invalid.is_cuda:
            done = torch.cuda.Event()
            done.record()
        self._invalid.zero_()
        return seen, done


class Kept(NamedTuple):
    """A draw with its kept sets."""

    tokens: torch.Tensor
    bits: torch.Tensor
    """[R, ceil(V / 32)] int32."""
    logits: torch.Tensor
    temperature: torch.Tensor

    def processed(self) -> torch.Tensor:
        """[R, V] float32: the logits at the rows' temperatures, -inf outside the kept sets."""
        vocab = self.logits.shape[1]
        shifts = torch.arange(32, dtype=torch.int32, device=self.bits.device)
        kept = ((self.bits[:, :, None] >> shifts) & 1).bool().flatten(1)[:, :vocab]
        heat = torch.where(self.temperature == 0, 1.0, self.temperature)[:, None]
        return (self.logits.float() / heat).masked_fill(~kept, -torch.inf)

    def logprobs(self, top: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Ids [R, 1 + top] and log probabilities of each row's token and the `top` most probable ones in the kept set,
        ``-inf`` where that is smaller; and the token's rank, from 1 on.
        """
        heat = {"temperature": self.temperature}
        own = rollout.observe(self.logits, self.tokens, self.bits, top_n=top, **heat)
        ids = torch.cat((self.tokens[:, None].int(), own.top_token_ids), 1)
        others = [
            rollout.observe(self.logits, ids[:, i].clone(), self.bits, **heat).logprobs for i in range(1, 1 + top)
        ]
        return ids.clamp(min=0), torch.stack((own.logprobs, *others), 1), own.rank.long() + 1


class Runner:
    """A model runner's batch, as detsample draws it."""

    def __init__(self, runner: Any, every: bool, dtype: torch.dtype) -> None:
        mode = runner.model_config.logprobs_mode
        self.processed_mode, self.exact_mode = mode.startswith("processed_"), mode == "processed_logprobs"
        stages = runner.parallel_config.pipeline_parallel_size
        self.drawer = Drawer(runner.device, runner.max_num_reqs, dtype, max(RING, stages + 2))
        self._device, self._every, self._most = runner.device, every, runner.max_num_reqs
        self._key: Any = None
        self._rows: Rows | None = None
        self.sets: torch.Tensor | None = None
        """Where the sets of allowed tokens are that a draw reads, a row each, if it reads any."""
        self.current: Rows | None = None
        """Set while vLLM's sampler is to ask for tokens."""
        self.kept: Kept | None = None
        self._wide: torch.Tensor | None = None

    def _held(self, logits: torch.Tensor, lists: asking.Lists, in_place: bool) -> torch.Tensor:
        """Logits that may be changed in place, as fp32 in memory that stays, unless they can hold what comes of it: so
        that the draw behind it finds them where its graph does.
        """
        if not in_place or lists.forbids_only or logits.dtype == torch.float32:
            return logits
        if self._wide is None:
            self._wide = logits.new_empty((self._most, logits.shape[1]), dtype=torch.float32)
        return self._wide[: len(logits)].copy_(logits)

    def _batch(self, key: Any, requests: Callable[[], Iterable[Request]]) -> Rows | None:
        """The rows of a batch that has another key than the last one, if detsample draws any of them."""
        if key != self._key:
            self._key, self._rows = key, Rows(requests(), self._device)
            if self._rows.any_drawn:
                self.drawer.load(self._rows)
        return self._rows if self._rows is not None and self._rows.any_drawn else None

    @contextmanager
    def asked(self, rows: Rows) -> Iterator[None]:
        """Inside this context, vLLM's sampler gets its tokens from here."""
        self.current, self.kept = rows, None
        try:
            yield
        finally:
            self.current = None

    def told(self, out: Any, rows: Rows) -> Any:
        """vLLM's output, with detsample's bits in its table of log probabilities for the rows that it drew."""
        tensors = out.logprobs_tensors
        if self.kept is None or not self.exact_mode or tensors is None:
            return out
        ids, values, rank = self.kept.logprobs(tensors.logprobs.shape[1] - 1)
        if not rows.all_drawn:
            drawn = rows.drawn[:, None]
            ids = torch.where(drawn, ids, tensors.logprob_token_ids.int())
            values = torch.where(drawn, values, tensors.logprobs)
            rank = torch.where(rows.drawn, rank, tensors.selected_token_ranks.long())
        out.logprobs_tensors = tensors._replace(
            logprob_token_ids=ids.to(tensors.logprob_token_ids.dtype), logprobs=values,
            selected_token_ranks=rank.to(tensors.selected_token_ranks.dtype),
        )  # fmt: skip
        return out


def of_requests(drafts: torch.Tensor, offsets: torch.Tensor, most: int) -> torch.Tensor:
    """[B, most] int64, the drafts of each request, of those of all rows: behind a request's last draft is anything."""
    behind = offsets[:-1].long()[:, None] + torch.arange(1, most + 1, device=drafts.device)
    return drafts[behind.clamp(max=len(drafts) - 1)].long()


def derive(sampler: Any, mixin: type, ours: Runner) -> None:
    """Make an object one of a class derived from its own."""
    kind = type(sampler)
    sampler.detsample = ours
    sampler.__class__ = type(f"{mixin.__name__}Of{kind.__name__}", (mixin, kind), {})
