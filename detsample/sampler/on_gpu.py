"""The sequence of launches that serves a call on a GPU (or, for tests, in Triton's interpreter).

    summarize    (rows x parts)   one look at every logit: maxima, score bounds, validity, rough sums
    settle       (rows x 2)       finishes rows that are invalid, without a filter or with few candidates; guesses the
                                  boundary of others
    sum_weights  (rows x parts)   exact sums, and the tokens around the boundary, for the rows that need them
    sum_weights  (fixed)          the same once more, for the rows where the guess was wrong; launched twice
    finish       (rows)           finishes the rows that are left
    masks        (rows x spans)   only if a mask is asked for

There are six launches, because each needs what all parts of a row found in the one before. Nothing of size B x V is
made on the way, and nothing comes back to the host. Every launch passes `enable_fp_fusion=False`, because a fused
multiply-add would change bits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from typing import Any, NamedTuple

import numpy as np

from detsample.frameworks.buffer import HostBuffer
from detsample.frameworks.pointer import ALIGNMENT, Argument, integer, missing, pointer, pointer_types
from detsample.kernels.sampling.boundary.pivots import RUNGS
from detsample.kernels.sampling.candidates import LIST, MOST_K, MOST_K_LISTED, SCRATCH
from detsample.kernels.sampling.dependent_launch import can_overlap
from detsample.kernels.sampling.finish import finish as finish_kernel
from detsample.kernels.sampling.masks import MASKED, csr_counts, csr_offsets, csr_tail, csr_tokens, dense_mask
from detsample.kernels.sampling.rows import (
    COUNTERS,
    PARAMETER_NAMES,
    RECORD,
    RETRIES,
    SUMS,
    WANT_KEPT,
    WANT_LOG_Z,
    WANT_LOGPROBS,
    WANT_TOKEN,
)
from detsample.kernels.sampling.settle import settle as settle_kernel
from detsample.kernels.sampling.sum_weights import sum_weights as sum_weights_kernel
from detsample.kernels.sampling.summarize import summarize as summarize_kernel
from detsample.kernels.sampling.tiles import LANES, MOST_GROUPS, MOST_SEGMENTS, QUADS, TILE
from detsample.launching.launch import Names, Step, launcher, only_compiles, step_launcher
from detsample.launching.workspace import Layout, addresses, as_argument, layout
from detsample.sampler.kernel_arguments import parameter_arguments
from detsample.sampler.output import Csr, SampleOutput, Wanted
from detsample.sampler.parameters import FILTER_ORDERS, Logits, Parameter, Parameters, Scalar, is_number

PROGRAMS_PER_MULTIPROCESSOR = 7
RETRY_PROGRAMS_PER_MULTIPROCESSOR = 4


@dataclass(frozen=True)
class Tuning:
    """How the work is cut and launched. None of it can change a bit of any result.

    Attributes
    ----------
    parts : int or None
        How many programs a row gets in `summarize` and `sum_weights`. None means enough to fill the GPU.
    segment_tiles : int or None
        How many tiles a segment has. None means as few as possible with at most 64 segments in a row or, where rows are
        many, with as many groups as there may be.
    warps : tuple of int
        How many warps a program of `summarize`, of `sum_weights`, of `settle` and of `finish` has.
    overlap : tuple of str
        Kernels whose programs start before the kernel ahead has ended (`kernels/sampling/dependent_launch.py`),
        if the GPU and Triton can do that; "retry" means the later launches of `sum_weights`. With many rows
        `settle` and `sum_weights` would be slower for it, because they would take registers from the kernel
        ahead (docs/performance.md).
    """

    parts: int | None = None
    segment_tiles: int | None = None
    warps: tuple[int, int, int, int] = (4, 4, 8, 16)
    overlap: tuple[str, ...] = ("retry", "finish")


FEW_ROWS = 8
"""With at most this many rows, kernels are short, and it matters most how soon the next one starts."""
FEW_ROWS_TUNING = Tuning(overlap=("settle", "sum_weights", "retry", "finish"))
DEFAULT_TUNING = Tuning()


def tuning_for(rows: int) -> Tuning:
    """How the work of a batch with this many rows is cut best."""
    return FEW_ROWS_TUNING if rows <= FEW_ROWS else DEFAULT_TUNING


class Cut(NamedTuple):
    """How the rows of a call are cut; see `kernels.sampling.tiles` for the words."""

    quads: int
    segment_tiles: int
    segments: int
    parts: int
    segments_of_part: int
    stretches: int
    stretch_tiles: int
    stretches_of_part: int
    segments_of_stretch: int
    spans: int
    """How many programs make the mask of one segment."""
    groups: int
    """Groups of tokens in a row."""
    pitch: int
    """The distance, in elements, between two rows of the memory that first holds the groups' maxima and then the listed
    tokens.
    """


@lru_cache(maxsize=1024)
def cut_rows(rows: int, vocab: int, programs: int, tuning: Tuning, masked: bool) -> tuple[Cut, Layout]:
    """How rows are cut for a number of programs, and the layout of the memory that the kernels share. It is larger if
    `masked`.
    """
    cut = _cut(rows, vocab, programs, tuning)
    return cut, layout(_areas(rows, cut, masked))


def _cut(rows: int, vocab: int, programs: int, tuning: Tuning) -> Cut:
    tiles = -(-vocab // int(TILE.value))
    parts = min(tiles, tuning.parts or max(1, programs // max(rows, 1)))
    alone = int(MOST_GROUPS.value) // int(LANES.value)  # segments of one quad to a group
    if tuning.parts is None and parts <= alone * 5 // 4:
        parts = min(parts, alone)  # a few programs less cost less than groups that are folded
    most = alone // parts * parts if parts <= alone else int(MOST_SEGMENTS.value)
    segment_tiles = max(tuning.segment_tiles or 1, -(-tiles // most))
    segments = -(-tiles // segment_tiles)
    quads = 1 if segments * int(LANES.value) <= int(MOST_GROUPS.value) else int(QUADS.value)
    segments_of_part = -(-segments // min(segments, parts))
    groups = segments * int(LANES.value) // quads
    parts = -(-segments // segments_of_part)
    segments_of_stretch = segments_of_part if quads == 1 else 1
    stretch_tiles = segments_of_stretch * segment_tiles
    stretches = -(-segments // segments_of_stretch)
    stretches_of_part = segments_of_part // segments_of_stretch
    spans = -(-segment_tiles * int(TILE.value) // int(MASKED.value))
    pitch = max(groups, int(LIST.value))
    return Cut(
        quads, segment_tiles, segments, parts, segments_of_part,
        stretches, stretch_tiles, stretches_of_part, segments_of_stretch, spans, groups, pitch,
    )  # fmt: skip


def _areas(rows: int, cut: Cut, masked: bool) -> dict[str, tuple[str, int]]:
    """The memory that the kernels share. Each area is the argument of the kernels that has its name."""
    pitch = ("int32", rows * cut.pitch)
    return {
        "records": ("int64", rows * int(RECORD.value)),
        "sums": ("int64", rows * int(SUMS.value)),
        "missed": ("int32", rows * (1 + int(RETRIES.value)) + int(COUNTERS.value)),
        "part_counts": ("int32", rows * cut.parts),
        "part_key": ("int32", rows * cut.parts),
        "group_key": pitch,
        # After tokens were listed, the maxima are needed only to make masks. Without masks the list takes their place.
        "list_token": pitch if masked else ("int32", 0),
        "span_counts": ("int32", rows * cut.segments * cut.spans if masked else 0),
        "group_bound": ("float32", rows * cut.stretches * int(LANES.value) // max(cut.quads, 1)),
        "row_pivots": ("float32", rows * int(RUNGS.value)),
        "part_rungs": ("float32", rows * cut.parts * int(RUNGS.value)),
        "scratch_code": ("int64", rows * int(SCRATCH.value)),
        "unwanted": ("float32", rows),
    }


def _is_aligned(logits: Logits, buffer: Argument) -> bool:
    """Whether every row starts on 16 bytes, so that kernels may load it in full width."""
    return buffer.data_ptr() % ALIGNMENT == 0 and logits.row_stride % 16 == 0


def _may_need_sums(parameters: Parameters, wanted: Wanted, vocab: int) -> bool:
    """Whether any row may need `sum_weights`, as far as the host can tell. On the device, `settle` decides this for
    each row.
    """
    top_k = parameters.top_k
    if wanted.log_z or not isinstance(top_k, Scalar):
        return True
    if 1 <= top_k.value < vocab:
        joint = parameters.filter_order == "joint" and not is_number(parameters.top_p, 1.0)
        return joint or top_k.value > int(MOST_K.value)
    return wanted.logprobs or not (is_number(parameters.top_p, 1.0) and is_number(parameters.min_p, 0.0))


def _may_be_in_doubt(parameters: Parameters, vocab: int) -> bool:
    """Whether any row may be in doubt, or have top-p of all tokens, as far as the host can tell."""
    top_k = parameters.top_k
    if not isinstance(top_k, Scalar) or int(MOST_K_LISTED.value) < top_k.value < vocab:
        return True
    few = 1 <= top_k.value < vocab and parameters.filter_order != "joint"
    return not (few or is_number(parameters.top_p, 1.0))


def _want(wanted: Wanted) -> int:
    """The `want` argument of the kernels."""
    kept = wanted.num_kept or wanted.logprobs or wanted.log_z or wanted.mask is not None
    return int(
        WANT_TOKEN.value * wanted.token + WANT_LOGPROBS.value * wanted.logprobs + WANT_LOG_Z.value * wanted.log_z
        + WANT_KEPT.value * kept
    )  # fmt: skip


class Steps(NamedTuple):
    """The launches of a call. `NAMES` has the arguments of their kernels."""

    summarize: Step
    settle: Step
    sum_weights: Step
    retry: Step
    finish: Step


@cache
def _steps(aligned: bool, allowed: bool, waits: bool, tuning: Tuning) -> Steps:
    """The launches of a call, for a GPU where kernels can wait for the kernel before them (`waits`) or cannot."""
    summarize, sum_weights, settle, finish = tuning.warps

    step = partial(Step, OVERLAP=waits, ALLOWED=allowed, enable_fp_fusion=False)

    def early(kernel: str) -> bool:
        return waits and kernel in tuning.overlap

    return Steps(
        summarize=step(summarize_kernel, ALIGNED=aligned, num_warps=summarize, maxnreg=72),
        settle=step(settle_kernel, early("settle"), num_warps=settle, maxnreg=128),
        sum_weights=step(sum_weights_kernel, early("sum_weights"), ALIGNED=aligned, num_warps=sum_weights, maxnreg=72),
        retry=step(sum_weights_kernel, early("retry"), ALIGNED=aligned, num_warps=sum_weights, maxnreg=72),
        finish=step(finish_kernel, early("finish"), ALIGNED=aligned, num_warps=finish),
    )


_KINDS = {area.name: area.kind for area in layout(_areas(0, Cut(*[0] * len(Cut._fields)), False)).areas}
_RESULTS = {"token_ids": "int64", "num_kept": "int32", "status": "int32", "logprobs": "float32", "log_z": "float32"}
# What `launch` passes, in this order; a kernel takes what it has an argument of the same name for.
NAMES = Names(
    ["logits", "row_stride", "allowed", "allowed_stride", "given", *PARAMETER_NAMES],
    {
        **dict.fromkeys(["vocab", *Cut._fields, "want", "filter_order", "rows", "attempt", "every_row"], int),
        **{name: pointer_types(dtype)[0] for name, dtype in _RESULTS.items()}, **_KINDS,
    },
)  # fmt: skip
ATTEMPT = NAMES.order.index("attempt")
ATTEMPTS = int(RETRIES.value)


class Prepared(NamedTuple):
    """What calls have in common if only the values and the address of their logits differ."""

    logits: Logits
    parameters: Parameters
    wanted: Wanted
    tuning: Tuning
    cut: Cut
    laid: Layout
    values: list[Any]
    """The values of the first arguments in `NAMES`, up to the results."""
    settle_programs: int
    """How many programs a row has in `settle`: two, or one if no row may be in doubt."""
    needs_mass: bool
    retry_programs: int
    waits: bool
    """Whether kernels can wait for the kernel before them."""


def prepare(logits: Logits, parameters: Parameters, wanted: Wanted, tuning: Tuning) -> Prepared:
    """Prepare everything in a call that does not depend on the address of its logits.

    Parameters
    ----------
    logits, parameters
        Checked by `detsample.sampler.parameters`.
    wanted
        Results to make; the others are None.
    tuning
        How to cut the work.
    """
    framework, device, rows, vocab = logits.framework, logits.device, logits.rows, logits.vocab
    multiprocessors = framework.multiprocessor_count(device)
    programs = PROGRAMS_PER_MULTIPROCESSOR * multiprocessors
    cut, laid = cut_rows(rows, vocab, programs, tuning, wanted.mask is not None)
    given = parameter_arguments(parameters, framework, device)
    order = FILTER_ORDERS.index(parameters.filter_order)
    of_logits = (_argument(logits), logits.row_stride, *allowed_words(logits))
    values = [*of_logits, *given, vocab, *cut, _want(wanted), order, rows, 0]
    values.append(int(wanted.log_z or rows == 1))
    # Without rows nothing would set the number of missed rows, and the programs of `retry` would read it all the same.
    needs_mass = rows > 0 and _may_need_sums(parameters, wanted, vocab)
    settle_programs = 2 if _may_be_in_doubt(parameters, vocab) else 1
    retry_programs = max(RETRY_PROGRAMS_PER_MULTIPROCESSOR * multiprocessors, rows)
    waits = can_overlap(framework.compute_capability(device))
    return Prepared(
        logits, parameters, wanted, tuning, cut, laid, values, settle_programs, needs_mass, retry_programs, waits
    )


def launch(prepared: Prepared, logits: Argument) -> SampleOutput:
    """Launch the kernels of a call.

    Parameters
    ----------
    prepared
        From `prepare`; its vectors are read by the kernels, now.
    logits
        The address of the logits, which must be laid out like those of `prepared`.

    Returns
    -------
    SampleOutput
        Tensors of the logits' framework on the logits' device, not yet computed: nothing waits for the device.
    """
    of, parameters, wanted, tuning, cut, laid, values, settle_programs, needs_mass, retry_programs, waits = prepared
    framework, device, rows = of.framework, of.device, of.rows
    with framework.launching(device):
        areas = addresses(framework, device, laid)
        token_ids = framework.empty((rows,), "int64", device)
        num_kept = framework.empty((rows,), "int32", device)
        status = framework.empty((rows,), "int32", device)
        logprobs = framework.empty((rows,), "float32", device) if wanted.logprobs else None
        log_z = framework.empty((rows,), "float32", device) if wanted.log_z else None
        mask: Any = None
        address = _address if device[0] == "gpu" else framework.argument
        unwanted = areas["unwanted"]
        if wanted.mask is None:
            areas["list_token"] = areas["group_key"]
        values = [
            *values, address(token_ids), address(num_kept), address(status),
            unwanted if logprobs is None else address(logprobs), unwanted if log_z is None else address(log_z),
            *areas.values(),
        ]  # fmt: skip
        values[0] = logits
        aligned = _is_aligned(of, logits)
        steps = _steps(aligned, of.allowed is not None, waits, tuning)
        start = step_launcher(device, NAMES, values)
        start(steps.summarize, (rows, cut.parts))
        start(steps.settle, (rows, settle_programs))
        if needs_mass:
            start(steps.sum_weights, (rows * cut.parts,))
            for attempt in range(1, 1 + ATTEMPTS):
                values[ATTEMPT] = attempt
                start(steps.retry, (retry_programs,))
        start(steps.finish, (rows,))
        if wanted.mask is not None:
            records, maxima = as_argument(areas["records"], "int64"), as_argument(areas["group_key"], "int32")
            row = (*values[:4], of.vocab, records, maxima, cut.pitch, cut.quads, cut.segment_tiles)
            grid = (rows, cut.spans, cut.segments)
            options = {"ALIGNED": aligned, "ALLOWED": of.allowed is not None, **_MASK_OPTIONS}
            if wanted.mask == "records":  # what masks are made of, for one who makes them
                mask = (areas.memory, records)
            elif wanted.mask == "csr":
                counts = as_argument(areas["span_counts"], "int32")
                mask = write_csr(of, row, grid, options, counts, num_kept, parameters.top_k)
            else:
                mask = write_mask(of, row, grid, options, wanted.mask == "bits")
    # Callers may want only some of the results; all of them are written to.
    written = (areas.memory, token_ids, num_kept, status, logprobs, log_z)
    kept_alive = None if framework.frees_behind_stream(device) else written
    counted = num_kept if wanted.num_kept else None
    return SampleOutput(token_ids, counted, status, logprobs, log_z, mask, kept_alive)


def run(logits: Logits, parameters: Parameters, wanted: Wanted) -> SampleOutput:
    """Serve one call: `prepare` and `launch`."""
    prepared = prepare(logits, parameters, wanted, tuning_for(logits.rows))
    return launch(prepared, prepared.values[0])


def planned(logits: Logits, parameters: Parameters, wanted: Wanted) -> Callable[[Any, Any], SampleOutput]:
    """Return the function that serves calls which differ in their logits only. It takes the logits and their address.
    """
    prepared = prepare(logits, parameters, wanted, tuning_for(logits.rows))
    return lambda _tensor, pointer: launch(prepared, pointer)


def _argument(logits: Logits) -> Argument:
    return logits.framework.argument(logits.tensor) if logits.pointer is None else logits.pointer


def allowed_words(logits: Logits) -> tuple[Argument, int]:
    """The allowed sets as words, or as bytes where rows are not whole words, and the step from row to row."""
    sets = logits.allowed
    if sets is None:
        return missing(logits.device[0], "uint32"), 0
    if sets.pointer is not None:
        of_word = 4 if sets.pointer.dtype == "uint8" else 1
        if (sets.pointer | sets.stride | -(-logits.vocab // 8)) % of_word:
            return sets.pointer, integer(sets.stride)
        return pointer(sets.pointer, "uint32"), integer(sets.stride // of_word)
    array = logits.framework.as_array(sets.tensor)
    array = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    words = array.view(np.uint8 if array.shape[1] * array.itemsize % 4 else np.uint32)
    return HostBuffer(words), words.shape[1]


def _address(tensor: Any) -> int:
    """The address of a new tensor on a GPU. It is a multiple of 16, like everything that frameworks allocate; an empty
    tensor may have none.
    """
    return tensor.data_ptr() or 0


_MASK_OPTIONS = {"num_warps": 4, "enable_fp_fusion": False}


def write_mask(
    logits: Logits, row: tuple[Any, ...], grid: tuple[int, ...], options: dict[str, Any], bits: bool
) -> Any:
    """Write kept sets as a tensor: of bools, or as bits. `row` is what a mask kernel is told of the rows."""
    width = -(-logits.vocab // 32) if bits else logits.vocab
    mask = logits.framework.empty((logits.rows, width), "int32" if bits else "bool", logits.device)
    where = (logits.framework.argument(mask), width)
    launcher(logits.device)(dense_mask, grid, *row, *where, AS_BITS=bits, **options)
    return mask


def write_csr(
    logits: Logits,
    row: tuple[Any, ...],
    grid: tuple[int, ...],
    options: dict[str, Any],
    counts: Argument,
    num_kept: Any,
    top_k: Parameter,
) -> Csr:
    """Write kept sets as lists of ids. `counts` is memory for a number for each program; without a number for `top_k`
    this waits for `num_kept`.
    """
    start = launcher(logits.device)
    framework, rows = logits.framework, logits.rows
    row_offsets = framework.empty((rows + 1,), "int64", logits.device)
    offsets = framework.argument(row_offsets)
    start(csr_offsets, (1,), rows, framework.argument(num_kept), offsets, **_MASK_OPTIONS)
    if isinstance(top_k, Scalar) and 1 <= top_k.value < logits.vocab:
        capacity = rows * int(top_k.value)
    elif only_compiles():
        capacity = rows * logits.vocab
    else:
        capacity = int(framework.fetch(num_kept).sum(dtype=np.int64))
    token_ids = framework.empty((capacity,), "int32", logits.device)
    if capacity:
        kept = framework.argument(token_ids)
        start(csr_counts, grid, *row, counts, **options)
        start(csr_tokens, grid, *row, counts, offsets, kept, **options)
        start(csr_tail, (-(-capacity // int(TILE.value)),), rows, integer(capacity), offsets, kept, **_MASK_OPTIONS)
    return Csr(row_offsets, token_ids)
