"""The sequence of launches that serves a call on a GPU (or, for tests, in Triton's interpreter).

    expand         (rows)       the parameters of every row, from those of its request
    ...                         `detsample.sample` of all rows
    match          (requests)   the longest agreeing prefix; `longest_path` for trees

`reject` takes the kept sets from `detsample.mask` instead, and draws by the kernels of `speculative_rejection`.
Nothing comes back to the host.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from detsample.frameworks import Framework
from detsample.frameworks.pointer import Argument, integer
from detsample.kernels.rows import (
    MIN_P_GIVEN,
    POSITION_GIVEN,
    SEED_GIVEN,
    TEMPERATURE_GIVEN,
    TOP_K_GIVEN,
    TOP_P_GIVEN,
)
from detsample.kernels.speculative_match import match as match_kernel
from detsample.kernels.speculative_rejection import SPAN, accept, finish, measure_draft, measure_target, residual
from detsample.kernels.speculative_rows import COUNT_GIVEN, ROWS, expand
from detsample.kernels.speculative_tree import longest_path as longest_path_kernel
from detsample.launching.launch import launcher
from detsample.launching.workspace import allocate, layout
from detsample.sampler.kernel_arguments import float_bits, words
from detsample.sampler.output import MaskOutput, SampleOutput
from detsample.sampler.parameters import Logits, Parameter, Scalar, Vector
from detsample.sampler.sample import mask, sample
from detsample.speculative.arguments import Batch, Table
from detsample.speculative.output import TreeOutput, VerifyOutput

Draw = Callable[..., SampleOutput]
Keep = Callable[..., MaskOutput]

PLAIN = {"num_warps": 1, "enable_fp_fusion": False}
SQUARE = {"num_warps": 4, "enable_fp_fusion": False}
WIDE = {"num_warps": 8, "enable_fp_fusion": False}
PROGRAMS_PER_MULTIPROCESSOR = 4


@dataclass(frozen=True)
class Rows:
    """The parameters of every row; None where one number serves all."""

    owner: Any
    temperature: Any
    top_k: Any
    top_p: Any
    min_p: Any
    topp_seed: Any
    position: Any
    unused_real: Any


@dataclass(frozen=True)
class Drawn:
    """All rows of a batch, drawn."""

    sampled: SampleOutput
    rows: Rows


def power_of_two(number: int) -> int:
    """The least power of two that is not below a positive number."""
    return 1 << (number - 1).bit_length()


def _pointer(batch: Batch, parameter: Parameter, unused: Any) -> tuple[Argument, int]:
    tensor, stride = (parameter.tensor, parameter.stride) if isinstance(parameter, Vector) else (unused, 0)
    return batch.logits.framework.argument(tensor), integer(stride)


def _table(framework: Framework, table: Table) -> tuple[Argument, int, int]:
    """A table as kernels take it: its address, the step from row to row and that from column to column."""
    return framework.argument(table.tensor), integer(table.row_stride), integer(table.stride)


def request_arguments(batch: Batch, rows: Rows) -> list[Any]:
    """What kernels are told to find a request's rows, from `rows` on: see `speculative_rows.rows_of_request`."""
    framework = batch.logits.framework
    counts = batch.counts
    said = 0 if isinstance(counts, Vector) else int(counts.value)
    offsets = batch.row_offsets or Vector(rows.owner, 0)
    return [
        batch.logits.rows, batch.width, batch.extra, COUNT_GIVEN.value * isinstance(counts, Vector),
        *_pointer(batch, counts, rows.owner), said, framework.argument(offsets.tensor), integer(offsets.stride),
        framework.argument(rows.owner),
    ]  # fmt: skip


def expand_rows(batch: Batch, parents: Table | None = None) -> Rows:
    """Launch `expand`."""
    framework, device, count = batch.logits.framework, batch.logits.device, batch.logits.rows
    given = batch.given
    table: tuple[tuple[Any, Parameter, str], ...] = (
        (TEMPERATURE_GIVEN, given.temperature, "float32"),
        (TOP_K_GIVEN, given.top_k, "int64"),
        (TOP_P_GIVEN, given.top_p, "float32"),
        (MIN_P_GIVEN, given.min_p, "float32"),
        (SEED_GIVEN, given.topp_seed, "int64"),
    )
    results = [
        framework.empty((count,), dtype, device) if isinstance(parameter, Vector) else None
        for _, parameter, dtype in table
    ]
    flat = batch.row_offsets is not None
    owner = framework.empty((count if flat else 1,), "int32", device)
    position = framework.empty((count,), "int64", device)
    unused_real = framework.empty((1,), "float32", device)
    rows = Rows(owner, results[0], results[1], results[2], results[3], results[4], position, unused_real)
    unused = {"float32": unused_real, "int64": position}
    bits = COUNT_GIVEN.value * isinstance(batch.counts, Vector)
    pointers: list[Any] = []
    for bit, parameter, dtype in table:
        bits |= bit.value * isinstance(parameter, Vector)
        pointers += _pointer(batch, parameter, unused[dtype])
    first = words(int(given.position.value)) if isinstance(given.position, Scalar) else (0, 0)
    bits |= POSITION_GIVEN.value * isinstance(given.position, Vector)
    pointers += [*_pointer(batch, given.position, position), *first]
    stores = [
        framework.argument(unused[dtype] if result is None else result)
        for result, (_, _, dtype) in zip(results, table, strict=True)
    ]
    total, width, extra, _, *finding, owners = request_arguments(batch, rows)
    tree = parents or Table(owner, 0, 0)
    if count:
        with framework.launching(device):
            launch = launcher(device)
            launch(expand, (-(-count // int(ROWS.value)),),
                total, batch.requests, width, extra, bits, *finding,
                *_table(framework, tree),
                *pointers, owners, *stores, framework.argument(position),
                FLAT=flat, TREE=parents is not None, **SQUARE,
            )  # fmt: skip
    return rows


def _of_rows(parameter: Parameter, tensor: Any) -> Any:
    return parameter.value if isinstance(parameter, Scalar) else tensor


def _filters(batch: Batch, rows: Rows) -> dict[str, Any]:
    given = batch.given
    return {
        "temperature": _of_rows(given.temperature, rows.temperature),
        "top_k": _of_rows(given.top_k, rows.top_k),
        "top_p": _of_rows(given.top_p, rows.top_p),
        "min_p": _of_rows(given.min_p, rows.min_p),
    }


def draw(batch: Batch, logprobs: bool, parents: Table | None = None, by: Draw = sample) -> Drawn:
    """Draw every row of a batch."""
    rows, given = expand_rows(batch, parents), batch.given

    seed = _of_rows(given.topp_seed, rows.topp_seed)
    filters = _filters(batch, rows)
    sampled = by(batch.logits.tensor, seed, position=rows.position, **filters, return_logprobs=logprobs)
    return Drawn(sampled, rows)


def _drawn_pointers(batch: Batch, drawn: Drawn) -> list[Argument]:
    sampled, argument = drawn.sampled, batch.logits.framework.argument
    logprobs = drawn.rows.unused_real if sampled.logprobs is None else sampled.logprobs
    return [argument(sampled.token_ids), argument(sampled.status), argument(logprobs)]


def _kept_alive(batch: Batch, *working: Any) -> Any:
    return None if batch.logits.framework.frees_behind_stream(batch.logits.device) else working


def match(batch: Batch, drafts: Table, logprobs: bool, by: Draw = sample) -> VerifyOutput:
    """Launch all of `verify`; `by` draws rows, with the signature of `detsample.sample`."""
    framework, device, shape = batch.logits.framework, batch.logits.device, (batch.requests, batch.width)
    drawn = draw(batch, logprobs, by=by)
    token_ids = framework.empty(shape, "int64", device)
    accepted = framework.empty(shape[:1], "int32", device)
    status = framework.empty(shape[:1], "int32", device)
    of_tokens = framework.empty(shape, "float32", device) if logprobs else None
    if batch.requests:
        with framework.launching(device):
            launch = launcher(device)
            launch(match_kernel, (batch.requests,),
                batch.logits.vocab, *request_arguments(batch, drawn.rows),
                *_table(framework, drafts), *_drawn_pointers(batch, drawn),
                *(framework.argument(t) for t in (token_ids, accepted, status)),
                framework.argument(drawn.rows.unused_real if of_tokens is None else of_tokens),
                WIDTH=power_of_two(batch.width), FLAT=batch.row_offsets is not None, LOGPROBS=logprobs, **PLAIN,
            )  # fmt: skip
    return VerifyOutput(token_ids, accepted, status, of_tokens, _kept_alive(batch, drawn))


def longest_path(batch: Batch, drafts: Table, parents: Table, logprobs: bool, by: Draw = sample) -> TreeOutput:
    """Launch all of `verify_tree`; `by` draws rows, with the signature of `detsample.sample`."""
    framework, device, shape = batch.logits.framework, batch.logits.device, (batch.requests, batch.width)
    drawn = draw(batch, logprobs, parents, by)
    token_ids = framework.empty(shape, "int64", device)
    accepted = framework.empty(shape[:1], "int32", device)
    nodes = framework.empty(shape, "int32", device)
    status = framework.empty(shape[:1], "int32", device)
    of_tokens = framework.empty(shape, "float32", device) if logprobs else None
    if batch.requests:
        with framework.launching(device):
            launch = launcher(device)
            launch(longest_path_kernel, (batch.requests,),
                batch.logits.vocab, *request_arguments(batch, drawn.rows),
                *_table(framework, drafts), *_drawn_pointers(batch, drawn),
                *_table(framework, parents),
                *(framework.argument(t) for t in (token_ids, accepted, nodes, status)),
                framework.argument(drawn.rows.unused_real if of_tokens is None else of_tokens),
                WIDTH=power_of_two(batch.width), FLAT=batch.row_offsets is not None, LOGPROBS=logprobs, **PLAIN,
            )  # fmt: skip
    return TreeOutput(token_ids, accepted, nodes, status, of_tokens, _kept_alive(batch, drawn))


def _row_arguments(batch: Batch, rows: Rows) -> tuple[list[Any], list[Any]]:
    """Temperature, behind a word that says which of the two are vectors, and seed of rows, as the kernels take them."""
    argument, given = batch.logits.framework.argument, batch.given
    bits, seed_words, says = 0, (0, 0), 0
    if isinstance(given.temperature, Scalar):
        (bits,) = float_bits(given.temperature.value)
    else:
        says |= TEMPERATURE_GIVEN.value
    if isinstance(given.topp_seed, Scalar):
        seed_words = words(int(given.topp_seed.value))
    else:
        says |= SEED_GIVEN.value
    temperature = argument(rows.unused_real if rows.temperature is None else rows.temperature)
    seed = argument(rows.position if rows.topp_seed is None else rows.topp_seed)
    return [says, temperature, 1, bits], [seed, 1, *seed_words, argument(rows.position)]


def reject(
    batch: Batch, drafts: Table, draft_rows: Logits, is_logits: bool, logprobs: bool, by: Keep = mask
) -> VerifyOutput:
    """Launch all of `verify(method="rejection")`; `by` finds kept sets, with the signature of `detsample.mask`."""
    framework, device, shape = batch.logits.framework, batch.logits.device, (batch.requests, batch.width)
    vocab, requests, flat = batch.logits.vocab, batch.requests, batch.row_offsets is not None
    rows = expand_rows(batch)
    kept = by(batch.logits.tensor, **_filters(batch, rows), kind="bits")
    token_ids = framework.empty(shape, "int64", device)
    accepted = framework.empty(shape[:1], "int32", device)
    status = framework.empty(shape[:1], "int32", device)
    of_tokens = framework.empty(shape, "float32", device) if logprobs else None
    said = framework.argument(rows.unused_real if of_tokens is None else of_tokens)
    all_spans = -(-vocab // int(SPAN.value))
    programs = PROGRAMS_PER_MULTIPROCESSOR * framework.multiprocessor_count(device)
    spans = -(-all_spans // min(all_spans, max(1, programs // max(requests, 1))))
    parts = -(-all_spans // spans)
    areas = allocate(framework, device, layout({
        "mass": ("int64", batch.logits.rows), "draft_mass": ("int64", draft_rows.rows),
        "decisions": ("int64", requests * 3), "part_score": ("int64", requests * parts),
        "peak": ("float32", batch.logits.rows), "draft_peak": ("float32", draft_rows.rows),
        "part_token": ("int32", requests * parts),
    }))  # fmt: skip
    target = (framework.argument(batch.logits.tensor), batch.logits.row_stride)
    masks = (framework.argument(kept.mask), -(-vocab // 32))
    temperature, seed = _row_arguments(batch, rows)
    measured = (areas["peak"], areas["mass"])
    of_draft = (areas["draft_peak"], areas["draft_mass"])
    values = (framework.argument(draft_rows.tensor), draft_rows.row_stride)
    row_status = framework.argument(kept.status)
    if requests:
        with framework.launching(device):
            launch = launcher(device)
            if batch.logits.rows:
                launch(measure_target, (batch.logits.rows,),
                    *target, vocab, *masks, row_status, *temperature, *measured, **WIDE
                )
            if draft_rows.rows:
                launch(measure_draft, (draft_rows.rows,), *values, vocab, *of_draft, LOGITS=is_logits, **WIDE)
            launch(accept, (requests,),
                *target, vocab, *masks, row_status, *temperature, *measured, *seed, *values, draft_rows.rows, *of_draft,
                *request_arguments(batch, rows), *_table(framework, drafts),
                *(framework.argument(t) for t in (token_ids, accepted, status)), said, areas["decisions"],
                WIDTH=power_of_two(batch.width), FLAT=flat, LOGITS=is_logits, LOGPROBS=logprobs, **PLAIN,
            )  # fmt: skip
            launch(residual, (requests, parts),
                *target, vocab, *masks, *temperature, *measured, *seed, *values, *of_draft, areas["decisions"],
                parts, spans, areas["part_score"], areas["part_token"], LOGITS=is_logits, **WIDE,
            )  # fmt: skip
            launch(finish, (requests,),
                *target, *temperature, *measured, areas["decisions"], parts, areas["part_score"], areas["part_token"],
                batch.width, framework.argument(token_ids), framework.argument(accepted), said,
                PARTS=power_of_two(parts), LOGPROBS=logprobs, **PLAIN,
            )  # fmt: skip
    return VerifyOutput(token_ids, accepted, status, of_tokens, _kept_alive(batch, rows, kept, areas))
