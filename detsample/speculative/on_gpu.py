"""The sequence of launches that serves a call on a GPU (or, for tests, in Triton's interpreter).

    expand         (rows)       the parameters of every row, from those of its request
    ...                         all rows drawn, as by `detsample.sample`
    match          (requests)   the longest agreeing prefix; `longest_path` for trees

For rejection, the kept sets of the rows are found instead, and the kernels of `kernels.speculative.rejection` draw.
Nothing comes back to the host.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from detsample.frameworks import Framework
from detsample.frameworks.pointer import Argument, integer, missing
from detsample.kernels.speculative.match import match as match_kernel
from detsample.kernels.speculative.rejection import SPAN, accept, finish, measure_draft, measure_target, residual
from detsample.kernels.speculative.rows import COUNT_GIVEN, ROWS, expand
from detsample.kernels.speculative.tree import longest_path as longest_path_kernel
from detsample.launching.launch import launcher
from detsample.launching.workspace import allocate, layout
from detsample.sampler.kernel_arguments import (
    MIN_P,
    POSITION,
    SEED,
    TEMPERATURE,
    TOP_K,
    TOP_P,
    arguments,
)
from detsample.sampler.output import SampleOutput, Wanted
from detsample.sampler.parameters import Logits, Parameters, Scalar, Vector
from detsample.sampler.run import run
from detsample.speculative.arguments import Batch, Drafter, Table
from detsample.speculative.output import TreeOutput, VerifyOutput

PLAIN = {"num_warps": 1, "enable_fp_fusion": False}
SQUARE = {"num_warps": 4, "enable_fp_fusion": False}
WIDE = {"num_warps": 8, "enable_fp_fusion": False}
PROGRAMS_PER_MULTIPROCESSOR = 4

# What `expand` copies to rows, in the order of its arguments.
COPIED = {"temperature": TEMPERATURE, "top_k": TOP_K, "top_p": TOP_P, "min_p": MIN_P, "topp_seed": SEED}


@dataclass(frozen=True)
class Rows:
    """What is known of every row."""

    owner: Any
    """The request that each row belongs to, if rows are ragged; else None."""
    parameters: Parameters


def power_of_two(number: int) -> int:
    """The smallest power of two that is at least a positive number."""
    return 1 << (number - 1).bit_length()


def _table(framework: Framework, table: Table) -> tuple[Argument, int, int]:
    """A table as kernel arguments: its address, the step from row to row, and the step from column to column."""
    return framework.argument(table.tensor), integer(table.row_stride), integer(table.stride)


def _pointer(of: Logits, tensor: Any, dtype: str) -> Argument:
    """A tensor as a kernel argument, or a stand-in if there is none."""
    return missing(of.device[0], dtype) if tensor is None else of.framework.argument(tensor)


def request_arguments(batch: Batch, rows: Rows) -> list[Any]:
    """The arguments with which kernels find a request's rows, from `rows` on: see `rows_of_request` in
    `kernels.speculative.rows`.
    """
    of, counts, offsets = batch.logits, batch.counts, batch.row_offsets
    if isinstance(counts, Scalar):
        said = [0, missing(of.device[0], "int32"), 0, int(counts.value)]
    else:
        said = [COUNT_GIVEN.value, of.framework.argument(counts.tensor), integer(counts.stride), 0]
    first = (None, 0) if offsets is None else (offsets.tensor, integer(offsets.stride))
    found = [_pointer(of, first[0], "int32"), first[1], _pointer(of, rows.owner, "int32")]
    return [of.rows, batch.width, batch.extra, *said, *found]


def expand_rows(batch: Batch, parents: Table | None = None) -> Rows:
    """Launch `expand`."""
    of, given, flat = batch.logits, batch.given, batch.row_offsets is not None
    framework, device, count = of.framework, of.device, of.rows
    owner = framework.empty((count,), "int32", device) if flat else None
    position = framework.empty((count,), "int64", device)
    copies = {
        name: framework.empty((count,), kind.dtype, device)
        for name, kind in COPIED.items()
        if isinstance(getattr(given, name), Vector)
    }
    of_rows: dict[str, Any] = {name: Vector(tensor, 1) for name, tensor in {**copies, "position": position}.items()}
    rows = Rows(owner, given._replace(**of_rows))
    pointers: list[Any] = []
    vectors = 0
    for name, kind in COPIED.items():
        bit, address, stride, *_ = arguments(framework, device, [(kind, getattr(given, name))])
        vectors |= bit
        pointers += [address, stride]
    bit, *first = arguments(framework, device, [(POSITION, given.position)])
    stores = [_pointer(of, copies.get(name), kind.dtype) for name, kind in COPIED.items()]
    total, width, extra, counted, *finding, owners = request_arguments(batch, rows)
    if count:
        with framework.launching(device):
            launcher(device)(expand, (-(-count // int(ROWS.value)),),
                total, batch.requests, width, extra, vectors | bit | counted, *finding,
                *((missing(device[0], "int32"), 0, 0) if parents is None else _table(framework, parents)),
                *pointers, *first, owners, *stores, framework.argument(position),
                FLAT=flat, TREE=parents is not None, **SQUARE,
            )  # fmt: skip
    return rows


def draw(batch: Batch, logprobs: bool) -> SampleOutput:
    """Draw every row of a batch."""
    sampled, rows = _draw(batch, logprobs)
    return replace(sampled, _kept_alive=_kept_alive(batch, sampled._kept_alive, rows))


def _draw(batch: Batch, logprobs: bool, parents: Table | None = None) -> tuple[SampleOutput, Rows]:
    rows = expand_rows(batch, parents)
    return run(batch.logits, rows.parameters, Wanted(True, logprobs, False, None, num_kept=False)), rows


def _drawn_pointers(batch: Batch, drawn: SampleOutput) -> list[Argument]:
    of = batch.logits
    logprobs = _pointer(of, drawn.logprobs, "float32")
    return [of.framework.argument(drawn.token_ids), of.framework.argument(drawn.status), logprobs]


def _kept_alive(batch: Batch, *working: Any) -> Any:
    return None if batch.logits.framework.frees_behind_stream(batch.logits.device) else working


def _results(batch: Batch, logprobs: bool) -> tuple[Any, Any, Any, Any]:
    """Memory for tokens, how many of them were accepted, status, and log probabilities if they are wanted."""
    framework, device, shape = batch.logits.framework, batch.logits.device, (batch.requests, batch.width)
    return (
        framework.empty(shape, "int64", device),
        framework.empty(shape[:1], "int32", device),
        framework.empty(shape[:1], "int32", device),
        framework.empty(shape, "float32", device) if logprobs else None,
    )


def verify(batch: Batch, drafts: Table, drafter: Drafter | None, logprobs: bool) -> VerifyOutput:
    """Launch all of `detsample.speculative.verify`."""
    return _match(batch, drafts, logprobs) if drafter is None else _reject(batch, drafts, drafter, logprobs)


def _match(batch: Batch, drafts: Table, logprobs: bool) -> VerifyOutput:
    drawn, rows = _draw(batch, logprobs)
    return match_drawn(batch, drafts, drawn, rows, logprobs)


def match_drawn(batch: Batch, drafts: Table, drawn: SampleOutput, rows: Rows, logprobs: bool) -> VerifyOutput:
    """Launch `match` for rows that are drawn."""
    of, framework = batch.logits, batch.logits.framework
    token_ids, accepted, status, of_tokens = _results(batch, logprobs)
    if batch.requests:
        with framework.launching(of.device):
            launcher(of.device)(match_kernel, (batch.requests,),
                of.vocab, *request_arguments(batch, rows), *_table(framework, drafts), *_drawn_pointers(batch, drawn),
                *map(framework.argument, (token_ids, accepted, status)), _pointer(of, of_tokens, "float32"),
                WIDTH=power_of_two(batch.width), FLAT=batch.row_offsets is not None, LOGPROBS=logprobs, **PLAIN,
            )  # fmt: skip
    return VerifyOutput(token_ids, accepted, status, of_tokens, _kept_alive(batch, drawn, rows))


def verify_tree(batch: Batch, drafts: Table, parents: Table, logprobs: bool) -> TreeOutput:
    """Launch all of `detsample.speculative.verify_tree`."""
    of, framework = batch.logits, batch.logits.framework
    drawn, rows = _draw(batch, logprobs, parents)
    token_ids, accepted, status, of_tokens = _results(batch, logprobs)
    nodes = framework.empty((batch.requests, batch.width), "int32", of.device)
    if batch.requests:
        with framework.launching(of.device):
            launcher(of.device)(longest_path_kernel, (batch.requests,),
                of.vocab, *request_arguments(batch, rows), *_table(framework, drafts), *_drawn_pointers(batch, drawn),
                *_table(framework, parents),
                *map(framework.argument, (token_ids, accepted, nodes, status)), _pointer(of, of_tokens, "float32"),
                WIDTH=power_of_two(batch.width), FLAT=batch.row_offsets is not None, LOGPROBS=logprobs, **PLAIN,
            )  # fmt: skip
    return TreeOutput(token_ids, accepted, nodes, status, of_tokens, _kept_alive(batch, drawn, rows))


def _reject(batch: Batch, drafts: Table, drafter: Drafter, logprobs: bool) -> VerifyOutput:
    of, draft_rows, is_logits = batch.logits, drafter.rows, drafter.is_logits
    framework, device, vocab, requests = of.framework, of.device, of.vocab, batch.requests
    rows = expand_rows(batch)
    kept = run(of, rows.parameters, Wanted(False, False, False, "bits"))
    token_ids, accepted, status, of_tokens = _results(batch, logprobs)
    said = _pointer(of, of_tokens, "float32")
    all_spans = -(-vocab // int(SPAN.value))
    programs = PROGRAMS_PER_MULTIPROCESSOR * framework.multiprocessor_count(device)
    spans = -(-all_spans // min(all_spans, max(1, programs // max(requests, 1))))
    parts = -(-all_spans // spans)
    areas = allocate(framework, device, layout({
        "mass": ("int64", of.rows), "draft_mass": ("int64", draft_rows.rows),
        "decisions": ("int64", requests * 3), "part_score": ("int64", requests * parts),
        "peak": ("float32", of.rows), "draft_peak": ("float32", draft_rows.rows),
        "part_token": ("int32", requests * parts),
    }))  # fmt: skip
    target = (framework.argument(of.tensor), of.row_stride)
    masks = (framework.argument(kept.mask), -(-vocab // 32))
    drawn_with = rows.parameters
    given = arguments(framework, device, [(TEMPERATURE, drawn_with.temperature), (SEED, drawn_with.topp_seed)])
    temperature, seed = given[:4], [*given[4:], arguments(framework, device, [(POSITION, drawn_with.position)])[1]]
    measured = (areas["peak"], areas["mass"])
    of_draft = (areas["draft_peak"], areas["draft_mass"])
    values = (framework.argument(draft_rows.tensor), draft_rows.row_stride)
    row_status = framework.argument(kept.status)
    if requests:
        with framework.launching(device):
            launch = launcher(device)
            if of.rows:
                launch(measure_target, (of.rows,),
                    *target, vocab, *masks, row_status, *temperature, *measured, **WIDE
                )
            if draft_rows.rows:
                launch(measure_draft, (draft_rows.rows,), *values, vocab, *of_draft, LOGITS=is_logits, **WIDE)
            launch(accept, (requests,),
                *target, vocab, *masks, row_status, *temperature, *measured, *seed, *values, draft_rows.rows, *of_draft,
                *request_arguments(batch, rows), *_table(framework, drafts),
                *map(framework.argument, (token_ids, accepted, status)), said, areas["decisions"],
                WIDTH=power_of_two(batch.width), FLAT=batch.row_offsets is not None, LOGITS=is_logits,
                LOGPROBS=logprobs, **PLAIN,
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
