"""One rank on a GPU (or, for tests, in Triton's interpreter): launches, and messages to the other ranks between them.

    tell_heads                   round 1: status and first tokens, which the kernels of `detsample.sample` find
    look                         round 2: exact sums; the best score, where min-p or nothing decides what is kept
    settle                       what is kept, or what to search for
    count_digits, narrow         a round for each digit of where it ends
    look                         the best score of what was found
    settle                       the results

Which of these a call has, `rounds` says. Nothing comes back to the host.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

from detsample.frameworks.pointer import Argument, missing
from detsample.kernels.sampling.masks import MASKED
from detsample.kernels.sampling.rows import RECORD
from detsample.kernels.sampling.tiles import QUADS, TILE
from detsample.kernels.sharded import settle as stages
from detsample.kernels.sharded.heads import ALL, LISTS, ONE, copy_rows, tell_heads
from detsample.kernels.sharded.look import count_mask, look
from detsample.kernels.sharded.rows import DIGIT_VALUES, STATE, SUMS
from detsample.kernels.sharded.search import count_digits, narrow
from detsample.launching.launch import launcher
from detsample.launching.workspace import allocate, layout
from detsample.sampler import on_gpu
from detsample.sampler.kernel_arguments import parameter_arguments
from detsample.sampler.output import Csr, SampleOutput, Wanted
from detsample.sampler.parameters import FILTER_ORDERS, Logits, Parameters, Scalar, Vector
from detsample.sharded.agreement import Place
from detsample.sharded.groups import Steps
from detsample.sharded.rounds import SEARCH_ROUNDS, Rounds, rounds_of
from detsample.speculative.arguments import Batch, Table
from detsample.speculative.on_gpu import expand_rows, match_drawn, power_of_two
from detsample.speculative.output import VerifyOutput

PROGRAMS = 1024
MOST_PARTS = 64
PLAIN = {"num_warps": 4, "enable_fp_fusion": False}
WIDE = {"num_warps": 8, "enable_fp_fusion": False}


def draw(place: Place, of: Logits, given: Parameters, wanted: Wanted) -> Steps[SampleOutput]:
    """One rank of `sample` or `mask`."""
    rounds = rounds_of(place.vocab, given, wanted)
    if not of.rows:
        return on_gpu.run(of, given, wanted)
    if of.allowed is not None:
        of = _without_forbidden(of)
    size = of.rows * place.vocab * (4 if of.dtype == "float32" else 2)
    if wanted.mask is None and 0 not in place.widths and rounds.cost_more_than(size):
        return (yield from _draw_whole(place, of, given, wanted))
    return (yield from Call(place, of, given, wanted, rounds).draw())


def verify(place: Place, batch: Batch, drafts: Table, logprobs: bool) -> Steps[VerifyOutput]:
    """One rank of `verify`."""
    rows = expand_rows(batch)
    drawn = yield from draw(place, batch.logits, rows.parameters, Wanted(True, logprobs, False, None))
    whole = replace(batch, logits=batch.logits._replace(vocab=place.vocab))
    return match_drawn(whole, drafts, drawn, rows, logprobs)


def _draw_whole(place: Place, of: Logits, given: Parameters, wanted: Wanted) -> Steps[SampleOutput]:
    """Draw from logits that are brought together: with few rows that takes less time than many rounds."""
    framework, device, widest = of.framework, of.device, max(place.widths)
    own = framework.empty((of.rows, widest), of.dtype, device)
    _copy(of, framework.argument(of.tensor), of.row_stride, of.vocab, framework.argument(own), widest)
    gathered = yield own
    whole = framework.empty((of.rows, place.vocab), of.dtype, device)
    for rank, width in enumerate(place.widths):
        to = framework.argument(whole[:, place.starts[rank] :])
        _copy(of, framework.argument(gathered[rank]), widest, width, to, place.vocab)
    everything = of._replace(tensor=whole, vocab=place.vocab, row_stride=place.vocab, pointer=None)
    out = on_gpu.run(everything, given, wanted)
    return replace(out, _kept_alive=None if framework.frees_behind_stream(device) else (own, gathered, whole, out))


def _without_forbidden(of: Logits) -> Logits:
    """A copy of the logits in which tokens that are not allowed have -inf."""
    framework = of.framework
    result = framework.empty((of.rows, of.vocab), of.dtype, of.device)
    _copy(of, framework.argument(of.tensor), of.row_stride, of.vocab, framework.argument(result), of.vocab, of.allowed)
    return of._replace(tensor=result, row_stride=of.vocab, pointer=None, allowed=None)


def _copy(
    of: Logits, logits: Argument, row_stride: int, columns: int, result: Argument, result_stride: int,
    allowed: Vector | None = None,
) -> None:  # fmt: skip
    sets, stride, word = missing(of.device[0], "int32"), 0, 0
    if allowed is not None:
        sets, stride = of.framework.argument(allowed.tensor), allowed.stride
        word = 8 if of.framework.dtype_name(allowed.tensor) == "uint8" else 32
    with of.framework.launching(of.device):
        grid = (of.rows, -(-columns // int(TILE.value)))
        where = (logits, row_stride, columns, sets, stride, result, result_stride)
        launcher(of.device)(copy_rows, grid, *where, WORD=word, **PLAIN)


class Call:
    """A call that takes rounds."""

    def __init__(self, place: Place, of: Logits, given: Parameters, wanted: Wanted, rounds: Rounds) -> None:
        self.place, self.of, self.given, self.wanted, self.rounds = place, of, given, wanted, rounds
        self.ranks = len(place.widths)
        self.parts = max(1, min(PROGRAMS // of.rows, MOST_PARTS, -(-max(place.widths) // int(TILE.value))))
        self.kept_alive: list[Any] = []
        self.areas = self._allocate({
            "state": ("int64", of.rows * int(STATE.value) if rounds.searches else 0),
            "records": ("int64", of.rows * int(RECORD.value)),
            "maxima": ("int32", 32), "unwanted": ("float32", of.rows), "local_kept": ("int32", of.rows),
        })  # fmt: skip
        self.merge = {"RANKS": power_of_two(self.ranks), "SLOTS": power_of_two(rounds.told)}

    def _allocate(self, areas: dict[str, tuple[str, int]]) -> dict[str, Any]:
        found = allocate(self.of.framework, self.of.device, layout(areas))
        self.kept_alive.append(found.memory)
        return found

    def _message(self, *shape: int) -> tuple[Any, Argument]:
        tensor = self.of.framework.empty((self.of.rows, *shape), "int64", self.of.device)
        self.kept_alive.append(tensor)
        return tensor, self.of.framework.argument(tensor)

    def _start(self, kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
        with self.of.framework.launching(self.of.device):
            launcher(self.of.device)(kernel, grid, *arguments, **options)

    def _told(self, gathered: Any) -> Argument:
        self.kept_alive.append(gathered)
        return self.of.framework.argument(gathered)

    @cached_property
    def _logits(self) -> list[Any]:
        """The logits as arguments: address, stride, columns, the token of the first column."""
        of = self.of
        address = of.framework.argument(of.tensor) if of.pointer is None else of.pointer
        return [address, of.row_stride, of.vocab, self.place.start]

    @cached_property
    def _parameters(self) -> list[Any]:
        return parameter_arguments(self.given, self.of.framework, self.of.device)

    @property
    def _counts(self) -> list[int]:
        return [self.place.vocab, self.of.rows, self.ranks, self.rounds.told]

    @property
    def _shifted(self) -> dict[str, bool]:
        return {"SHIFTED": self.place.start % 4 != 0}

    def draw(self) -> Steps[SampleOutput]:
        """Take the rounds."""
        of, rounds, wanted = self.of, self.rounds, self.wanted
        heads = self._told((yield self._heads()))
        sums = best = missing(of.device[0], "int64")
        if rounds.sums:
            weighs = wanted.log_z or not rounds.draws
            sums = best = self._told((yield self._look(heads, weighs, rounds.draws)))
        how: dict[str, Any] = {"SUMMED": rounds.sums, "TOLD_BEST": False, "DRAW": False}
        if rounds.searches:
            digits, message = self._message(2, int(DIGIT_VALUES.value))
            for stage in (stages.BEGIN, stages.COUNTED)[: rounds.searches]:
                self._settle(heads, sums, best, message, stage, how)
                for at in range(SEARCH_ROUNDS):
                    self._count_digits(heads, message)
                    self._narrow(self._told((yield digits)), message, at == SEARCH_ROUNDS - 1)
            if wanted.token:
                self._settle(heads, sums, best, message, stages.DONE, how)
                best = self._told((yield self._look(heads, False, True, True)))
        how |= {"TOLD_BEST": rounds.searches > 0 or rounds.draws, "DRAW": wanted.token}
        return self._results(heads, sums, best, how)

    def _heads(self) -> Any:
        """The message of round 1."""
        of, told = self.of, self.rounds.told
        drawn, lists = missing(of.device[0], "int32"), missing(of.device[0], "int64")
        tokens, given = drawn, ALL
        argument = of.framework.argument
        if told < of.vocab:
            off, one = Scalar(0), Scalar(1.0)
            first = Parameters(off, off, Scalar(0.0 if told == 1 else 1.0), Scalar(told), one, Scalar(0.0))
            found = on_gpu.run(of, first, Wanted(told == 1, False, False, None if told == 1 else "csr"))
            self.kept_alive.append(found)
            drawn = argument(found.status)
            if told == 1:
                tokens, given = argument(found.token_ids), ONE
            else:
                assert isinstance(found.mask, Csr)
                lists, tokens, given = argument(found.mask.row_offsets), argument(found.mask.token_ids), LISTS
        tensor, message = self._message(1 + told)
        self._start(
            tell_heads, (of.rows,), *self._logits, told, drawn, lists, tokens, message,
            GIVEN=int(given.value), SLOTS=power_of_two(told), **PLAIN,
        )  # fmt: skip
        return tensor

    def _look(self, heads: Argument, sums: bool, draws: bool, to_last: bool = False) -> Any:
        """The message with sums and the best score."""
        tensor, message = self._message(self.parts, int(SUMS.value))
        self._start(
            look, (self.of.rows, self.parts), *self._logits, *self._counts, *self._parameters, heads,
            self.areas["state"], message, SUM=sums, SEARCH=sums and self.rounds.searches > 0, DRAW=draws,
            TO_LAST=to_last, **self._shifted, **self.merge, **PLAIN,
        )  # fmt: skip
        return tensor

    def _settle(
        self, heads: Argument, sums: Argument, best: Argument, message: Argument, stage: Any, how: dict[str, Any],
        outputs: tuple[Argument, ...] | None = None,
    ) -> None:  # fmt: skip
        order = FILTER_ORDERS.index(self.given.filter_order)
        areas, kind = self.areas, self.of.device[0]
        results = outputs or tuple(missing(kind, of) for of in ("int64", "int32", "int32", "float32", "float32"))
        self._start(
            stages.settle, (self.of.rows,), self.place.start, *self._counts, order, *self._parameters,
            heads, sums, best, self.parts, areas["state"], message, areas["records"], areas["maxima"], *results,
            STAGE=int(stage.value), WRITES=outputs is not None, **how, **self.merge,
            PARTS=power_of_two(self.ranks * MOST_PARTS), **WIDE,
        )  # fmt: skip

    def _count_digits(self, heads: Argument, message: Argument) -> None:
        self._start(
            count_digits, (self.of.rows, self.parts), *self._logits, *self._counts, *self._parameters, heads,
            self.areas["state"], message, **self._shifted, **self.merge, **PLAIN,
        )  # fmt: skip

    def _narrow(self, told: Argument, message: Argument, last: bool) -> None:
        self._start(
            narrow, (self.of.rows,), *self._logits[:3], self.of.rows, self.ranks, self.place.rank, told,
            self.areas["state"], message, LAST=last, **PLAIN,
        )  # fmt: skip

    def _results(self, heads: Argument, sums: Argument, best: Argument, how: dict[str, Any]) -> SampleOutput:
        of, wanted, empty = self.of, self.wanted, self.of.framework.empty
        argument, rows, device, areas = of.framework.argument, (of.rows,), of.device, self.areas
        token_ids, num_kept, status = (empty(rows, kind, device) for kind in ("int64", "int32", "int32"))
        logprobs = empty(rows, "float32", device) if wanted.logprobs else None
        log_z = empty(rows, "float32", device) if wanted.log_z else None
        results = (token_ids, num_kept, status, logprobs, log_z)
        found = [areas["unwanted"] if x is None else argument(x) for x in results]
        self._settle(heads, sums, best, missing(device[0], "int64"), stages.DONE, how, tuple(found))
        mask = None if wanted.mask is None else self._mask(wanted.mask)
        alive = None if of.framework.frees_behind_stream(device) else (self.kept_alive, of.tensor, *results)
        return SampleOutput(token_ids if wanted.token else None, num_kept, status, logprobs, log_z, mask, alive)

    def _mask(self, kind: str) -> Any:
        """This rank's part of the kept sets, from the ends that `settle` wrote; any group of tokens may be kept."""
        of, areas, argument = self.of, self.areas, self.of.framework.argument
        tiles = -(-of.vocab // int(TILE.value))
        grid = (of.rows, -(-tiles * int(TILE.value) // int(MASKED.value)), 1)
        logits, row_stride, columns, _start = self._logits
        sets = (missing(of.device[0], "uint8"), 0)
        row = (logits, row_stride, *sets, columns, areas["records"], areas["maxima"], 0, int(QUADS.value), tiles)
        options = {"ALIGNED": False, "ALLOWED": False, **PLAIN}
        with of.framework.launching(of.device):
            mask = on_gpu.write_mask(of, row, grid, options, kind == "bits")
            if kind != "csr":
                return mask if self.place.columns else mask[:, :0]
            counts = of.framework.empty((of.rows,), "int32", of.device)
            launcher(of.device)(count_mask, (of.rows,), argument(mask), of.vocab, argument(counts), **PLAIN)
            spans = self._allocate({"spans": ("int32", of.rows * grid[1])})["spans"]
            return on_gpu.write_csr(of, row, grid, options, spans, counts, Scalar(0))
