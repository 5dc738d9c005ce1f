"""One rank on a GPU (or, for tests, in Triton's interpreter): launches, and messages to the other ranks between them.

Calls with rounds (`rounds`):

    tell_heads                   round 1: status and first tokens, which the kernels of `detsample.sample` find
    look                         round 2: exact sums, and the best score
    settle                       the results

All others exchange rows:

    copy_rows                    rows for each rank; where these are the logits as they lie, nothing is copied
    copy_rows                    whole rows of what came, for `detsample.sample`
    tell_drawn, take_drawn       the results

Nothing comes back to the host.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any

from detsample.frameworks.pointer import Argument, missing
from detsample.kernels.sampling.masks import MASKED
from detsample.kernels.sampling.rows import RECORD
from detsample.kernels.sampling.tiles import QUADS, TILE
from detsample.kernels.sharded.exchange import BLOCK, DRAWN, copy_rows, take_drawn, tell_drawn
from detsample.kernels.sharded.heads import ALL, LISTS, ONE, tell_heads
from detsample.kernels.sharded.look import count_mask, look
from detsample.kernels.sharded.rows import SUMS
from detsample.kernels.sharded.settle import settle
from detsample.launching.launch import launcher
from detsample.launching.workspace import allocate, layout
from detsample.sampler import on_gpu
from detsample.sampler.kernel_arguments import parameter_arguments
from detsample.sampler.output import Csr, SampleOutput, Wanted
from detsample.sampler.parameters import FILTER_ORDERS, Logits, Parameters, Scalar, Vector
from detsample.sharded.agreement import Place
from detsample.sharded.groups import Parcels, Steps
from detsample.sharded.rounds import Rounds, rounds_of
from detsample.speculative.arguments import Batch, Table
from detsample.speculative.on_gpu import expand_rows, match_drawn, power_of_two
from detsample.speculative.output import VerifyOutput

PROGRAMS = 1024
MOST_PARTS = 64
PLAIN = {"num_warps": 4, "enable_fp_fusion": False}
WIDE = {"num_warps": 8, "enable_fp_fusion": False}


def draw(place: Place, of: Logits, given: Parameters, wanted: Wanted) -> Steps[SampleOutput]:
    """One rank of `sample` or `mask`."""
    if not of.rows:
        return on_gpu.run(of, given, wanted)
    rounds, call = rounds_of(place.vocab, given, wanted), Call(place, of, given, wanted)
    return (yield from (call.exchange() if rounds is None else call.take(rounds)))


def verify(place: Place, batch: Batch, drafts: Table, logprobs: bool) -> Steps[VerifyOutput]:
    """One rank of `verify`."""
    rows = expand_rows(batch)
    drawn = yield from draw(place, batch.logits, rows.parameters, Wanted(True, logprobs, False, None))
    whole = replace(batch, logits=batch.logits._replace(vocab=place.vocab))
    return match_drawn(whole, drafts, drawn, rows, logprobs)


def _of_rows(parameter: Any, first: int, count: int) -> Any:
    """A parameter of some of the rows."""
    if not isinstance(parameter, Vector) or parameter.stride == 0:
        return parameter
    return Vector(parameter.tensor[first : first + count], parameter.stride)


class Call:
    """A call of one rank."""

    def __init__(self, place: Place, of: Logits, given: Parameters, wanted: Wanted) -> None:
        self.place, self.of, self.given, self.wanted = place, of, given, wanted
        self.ranks = len(place.widths)
        self.kept_alive: list[Any] = []
        self.areas = self._allocate({
            "records": ("int64", of.rows * int(RECORD.value)), "maxima": ("int32", 32), "unwanted": ("float32", of.rows)
        })  # fmt: skip

    def _allocate(self, areas: dict[str, tuple[str, int]]) -> dict[str, Any]:
        found = allocate(self.of.framework, self.of.device, layout(areas))
        self.kept_alive.append(found.memory)
        return found

    def _new(self, shape: tuple[int, ...], dtype: str = "int64") -> tuple[Any, Argument]:
        tensor = self.of.framework.empty(shape, dtype, self.of.device)
        return tensor, self._keep(tensor)

    def _keep(self, tensor: Any) -> Argument:
        self.kept_alive.append(tensor)
        return self.of.framework.argument(tensor)

    def _start(self, kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
        with self.of.framework.launching(self.of.device):
            launcher(self.of.device)(kernel, grid, *arguments, **{**PLAIN, **options})

    @cached_property
    def _logits(self) -> list[Any]:
        """The logits as arguments: address, stride, the allowed tokens and their stride, columns."""
        of = self.of
        address = of.framework.argument(of.tensor) if of.pointer is None else of.pointer
        return [address, of.row_stride, *on_gpu.allowed_words(of), of.vocab]

    @property
    def _allowed(self) -> dict[str, bool]:
        return {"ALLOWED": self.of.allowed is not None}

    def exchange(self) -> Steps[SampleOutput]:
        """Get some of the rows whole, draw them, and tell the others."""
        of, place, wanted, framework = self.of, self.place, self.wanted, self.of.framework
        each, widest = -(-of.rows // self.ranks), max(place.widths)
        if of.allowed is None and (of.rows, of.vocab, of.row_stride) == (each * self.ranks, widest, widest):
            rows = of.tensor.reshape((of.rows, widest))
        else:
            rows, to = self._new((each * self.ranks, widest), of.dtype)
            self._copy(self._logits, of.rows, each, len(rows), to, widest, 0, **self._allowed)
        received = yield Parcels(rows)
        self._keep(received)
        whole, to = self._new((each, place.vocab), of.dtype)
        none = (missing(of.device[0], "uint32"), 0)
        for rank, width in enumerate(place.widths):
            if width:
                part = framework.argument(received[rank * each :])
                self._copy([part, widest, *none, width], each, each, each, to, place.vocab, place.starts[rank])
        first = min(place.rank * each, of.rows - each)
        some: dict[str, Any] = {name: _of_rows(x, first, each) for name, x in self.given._asdict().items()}
        given = Parameters(**some)
        mine = Logits(whole, framework, of.device, each, place.vocab, place.vocab, of.dtype)
        drawn = on_gpu.run(mine, given, wanted._replace(mask="records"))
        told, message = self._new((each, int(DRAWN.value)))
        unwanted = self.areas["unwanted"]
        found = [drawn.token_ids, drawn.num_kept, drawn.status, drawn.logprobs, drawn.log_z]
        drawn_here = [unwanted if x is None else self._keep(x) for x in found]
        boundaries: Any = drawn.mask
        memory, records = boundaries
        self.kept_alive.append(memory)
        self._start(tell_drawn, (-(-each // int(BLOCK.value)),), *drawn_here, records, each, message)
        gathered = self._keep((yield told))
        sizes, areas = (place.start, of.rows, each), self.areas
        return self._results(
            lambda *found: self._start(
                take_drawn, (of.rows,), gathered, *sizes, areas["records"], areas["maxima"], *found
            )
        )

    def _copy(self, of: list[Any], rows: int, each: int, copies: int, *to: Any, ALLOWED: bool = False) -> None:
        grid = (copies, -(-of[-1] // int(TILE.value)))
        self._start(copy_rows, grid, *of, rows, each, *to, ALLOWED=ALLOWED)

    def take(self, rounds: Rounds) -> Steps[SampleOutput]:
        """Take the rounds."""
        of, place, wanted = self.of, self.place, self.wanted
        parts = max(1, min(PROGRAMS // of.rows, MOST_PARTS, -(-max(place.widths) // int(TILE.value))))
        counts = [place.vocab, of.rows, self.ranks, rounds.told]
        parameters = parameter_arguments(self.given, of.framework, of.device)
        merge = {"RANKS": power_of_two(self.ranks), "SLOTS": power_of_two(rounds.told)}
        heads = self._keep((yield self._heads(rounds.told)))
        sums = missing(of.device[0], "int64")
        if rounds.sums:
            tensor, message = self._new((of.rows, parts, int(SUMS.value)))
            self._start(
                look, (of.rows, parts), *self._logits, place.start, *counts, *parameters, heads, message,
                SUM=wanted.log_z or not rounds.draws, DRAW=rounds.draws, SHIFTED=place.start % 4 != 0,
                **self._allowed, **merge,
            )  # fmt: skip
            sums = self._keep((yield tensor))
        order, areas = FILTER_ORDERS.index(self.given.filter_order), self.areas
        return self._results(
            lambda *found: self._start(
                settle, (of.rows,), place.start, *counts, order, *parameters, heads, sums, parts, areas["records"],
                areas["maxima"], *found, SUMMED=rounds.sums, TOLD_BEST=rounds.draws, DRAW=wanted.token, **merge,
                PARTS=power_of_two(self.ranks * MOST_PARTS), **WIDE,
            )
        )  # fmt: skip

    def _heads(self, told: int) -> Any:
        """The message of round 1."""
        of = self.of
        drawn, lists = missing(of.device[0], "int32"), missing(of.device[0], "int64")
        tokens, given = drawn, ALL
        if told < of.vocab:
            off, one = Scalar(0), Scalar(1.0)
            first = Parameters(off, off, Scalar(0.0 if told == 1 else 1.0), Scalar(told), one, Scalar(0.0))
            found = on_gpu.run(of, first, Wanted(told == 1, False, False, None if told == 1 else "csr"))
            self.kept_alive.append(found)
            drawn = self._keep(found.status)
            if told == 1:
                tokens, given = self._keep(found.token_ids), ONE
            else:
                assert isinstance(found.mask, Csr)
                lists, tokens, given = self._keep(found.mask.row_offsets), self._keep(found.mask.token_ids), LISTS
        tensor, message = self._new((of.rows, 1 + told))
        self._start(
            tell_heads, (of.rows,), *self._logits, self.place.start, told, drawn, lists, tokens, message,
            GIVEN=int(given.value), SLOTS=power_of_two(told), **self._allowed,
        )  # fmt: skip
        return tensor

    def _results(self, write: Callable[..., None]) -> SampleOutput:
        """The output, of results that `write` writes, given token ids, num_kept, status, logprobs and log_z."""
        of, wanted, empty = self.of, self.wanted, self.of.framework.empty
        rows, device = (of.rows,), of.device
        token_ids, num_kept, status = (empty(rows, kind, device) for kind in ("int64", "int32", "int32"))
        logprobs = empty(rows, "float32", device) if wanted.logprobs else None
        log_z = empty(rows, "float32", device) if wanted.log_z else None
        results = (token_ids, num_kept, status, logprobs, log_z)
        write(*(self.areas["unwanted"] if x is None else of.framework.argument(x) for x in results))
        mask = None if wanted.mask is None else self._mask(wanted.mask)
        alive = None if of.framework.frees_behind_stream(device) else (self.kept_alive, of.tensor, *results)
        return SampleOutput(token_ids if wanted.token else None, num_kept, status, logprobs, log_z, mask, alive)

    def _mask(self, kind: str) -> Any:
        """This rank's part of the kept sets, from the ends that `settle` wrote; any group of tokens may be kept."""
        of, areas, argument = self.of, self.areas, self.of.framework.argument
        tiles = -(-of.vocab // int(TILE.value))
        grid = (of.rows, -(-tiles * int(TILE.value) // int(MASKED.value)), 1)
        row = (*self._logits, areas["records"], areas["maxima"], 0, int(QUADS.value), tiles)
        options = {"ALIGNED": False, **self._allowed, **PLAIN}
        with of.framework.launching(of.device):
            mask = on_gpu.write_mask(of, row, grid, options, kind == "bits")
            if kind != "csr":
                return mask if self.place.columns else mask[:, :0]
            counts = of.framework.empty((of.rows,), "int32", of.device)
            launcher(of.device)(count_mask, (of.rows,), argument(mask), of.vocab, argument(counts), **PLAIN)
            spans = self._allocate({"spans": ("int32", of.rows * grid[1])})["spans"]
            return on_gpu.write_csr(of, row, grid, options, spans, counts, Scalar(0))
