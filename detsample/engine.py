"""The sequence of launches that serves a call on a GPU (or, for tests, in Triton's interpreter).

    scan    (rows x parts)   one look at every logit: maxima, score bounds, validity, rough sums
    narrow  (rows)           finishes or draws rows with few candidates, no filter or none valid; aims at the others
    mass    (rows x parts)   exact sums, and the tokens around the boundary; rows that need neither leave at once
    retry   (fixed)          the latter once more, for the rows where `narrow` aimed badly; launched twice
    wide    (rows)           finishes the others
    masks   (rows x tiles)   only when a mask is asked for

Six launches, because each needs what all parts of a row found in the one before; nothing of size B x V is made
on the way and nothing comes back to the host. Every launch passes `enable_fp_fusion=False`: a fused
multiply-add would change bits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from detsample.buffer import Buffer
from detsample.kernels.candidates import CAPACITY, LIST, MOST_K
from detsample.kernels.masks import bit_mask, bool_mask, csr_offsets, csr_tail, csr_tokens
from detsample.kernels.mass import mass as mass_kernel
from detsample.kernels.narrow import MOST_SELECTED
from detsample.kernels.narrow import narrow as narrow_kernel
from detsample.kernels.pivots import RUNGS
from detsample.kernels.retry import retry as retry_kernel
from detsample.kernels.rows import (
    MIN_P_GIVEN,
    POSITION_GIVEN,
    RECORD,
    RETRIES,
    SEED_GIVEN,
    SUMS,
    TEMPERATURE_GIVEN,
    TOP_K_GIVEN,
    TOP_P_GIVEN,
    WANT_LOG_Z,
    WANT_LOGPROBS,
    WANT_TOKEN,
)
from detsample.kernels.scan import scan as scan_kernel
from detsample.kernels.tiles import LANES, MOST_GROUPS, MOST_SEGMENTS, QUADS, TILE
from detsample.kernels.wide import wide as wide_kernel
from detsample.output import Csr, SampleOutput
from detsample.parameters import Logits, Parameter, Parameters, Scalar
from detsample.workspace import allocate

PROGRAMS_PER_MULTIPROCESSOR = 6
RETRY_PROGRAMS_PER_MULTIPROCESSOR = 4


@dataclass(frozen=True)
class Tuning:
    """How the work is cut; none of it can change a bit of any result.

    Attributes
    ----------
    parts : int or None
        Programs a row in `scan` and `mass`; None: enough to fill the GPU.
    segment_tiles : int or None
        Tiles in a segment; None: as few as 128 segments a row allow, or one segment a part where rows are many.
    warps : tuple of int
        Warps a program of `scan`, of `mass` and `retry`, of `narrow`, of `wide`.
    """

    parts: int | None = None
    segment_tiles: int | None = None
    warps: tuple[int, int, int, int] = (4, 4, 8, 16)


DEFAULT_TUNING = Tuning()


@dataclass(frozen=True)
class Wanted:
    """Which results a call asks for."""

    token: bool
    logprobs: bool
    log_z: bool
    mask: str | None

    def bits(self) -> int:
        """The `want` argument of the kernels."""
        return WANT_TOKEN.value * self.token + WANT_LOGPROBS.value * self.logprobs + WANT_LOG_Z.value * self.log_z


@dataclass(frozen=True)
class Cut:
    """How the rows of a call are cut; see `kernels.tiles` for the words."""

    quads: int
    segment_tiles: int
    segments: int
    parts: int
    segments_of_part: int

    @property
    def groups(self) -> int:
        """Groups of tokens in a row."""
        return self.segments * int(LANES.value) // self.quads


def cut_rows(logits: Logits, tuning: Tuning) -> Cut:
    """Choose segments and parts for a call."""
    tiles = -(-logits.vocab // int(TILE.value))
    programs = PROGRAMS_PER_MULTIPROCESSOR * logits.framework.multiprocessor_count(logits.device)
    parts = min(tiles, tuning.parts or max(1, programs // max(logits.rows, 1)))
    alone = parts * int(LANES.value) <= int(MOST_GROUPS.value)
    most = parts if alone else int(MOST_SEGMENTS.value)
    segment_tiles = max(tuning.segment_tiles or 1, -(-tiles // most))
    segments = -(-tiles // segment_tiles)
    quads = 1 if segments * int(LANES.value) <= int(MOST_GROUPS.value) else int(QUADS.value)
    segments_of_part = -(-segments // min(segments, parts))
    return Cut(quads, segment_tiles, segments, -(-segments // segments_of_part), segments_of_part)


def list_pitch(cut: Cut) -> int:
    """Elements between two rows of the memory that holds the groups' maxima first and the listed tokens then."""
    return max(cut.groups, int(LIST.value))


def _areas(rows: int, cut: Cut) -> dict[str, tuple[str, int]]:
    """What the kernels share, see their arguments of these names."""
    return {
        "records": ("int64", rows * int(RECORD.value)),
        "sums": ("int64", rows * int(SUMS.value)),
        "missed": ("int32", (rows + 1) * int(RETRIES.value)),
        "part_counts": ("int32", rows * cut.parts),
        "part_key": ("int32", rows * cut.parts),
        # `narrow` is the last to read the maxima, `mass` the first to list tokens.
        "group_key": ("int32", rows * list_pitch(cut)),
        "group_bound": ("float32", rows * cut.groups),
        "row_pivots": ("float32", rows * int(RUNGS.value)),
        "part_rungs": ("float32", rows * cut.parts * int(RUNGS.value)),
        "scratch_code": ("int64", rows * int(CAPACITY.value)),
        "scratch_groups": ("int32", rows * int(MOST_SELECTED.value)),
        "unwanted": ("float32", rows),
        "unused_real": ("float32", 1),
        "unused_integer": ("int64", 1),
    }


def words(value: int) -> tuple[int, int]:
    """The low and the high half of a 64-bit integer, each as a signed 32-bit one, which is always an i32 argument."""
    value &= (1 << 64) - 1
    return _signed(value & 0xFFFFFFFF), _signed(value >> 32)


def _signed(word: int) -> int:
    return word - (1 << 32) if word >= 1 << 31 else word


def _float_bits(value: float) -> tuple[int]:
    return (int(np.float32(value).view(np.int32)),)


def _clipped(value: int) -> tuple[int]:
    return (max(-1, min(value, (1 << 31) - 1)),)


def _arguments(parameters: Parameters, logits: Logits, areas: dict[str, Buffer]) -> tuple[int, list[Any]]:
    """(`given`, arguments): for each parameter a pointer, a stride and the scalar's words; one side of them is
    not used.
    """
    given: int = 0
    arguments: list[Any] = []
    unused_real, unused_integer = areas["unused_real"], areas["unused_integer"]
    table: tuple[tuple[Any, Parameter, Buffer, Callable[[Any], tuple[int, ...]], tuple[int, ...]], ...] = (
        (TEMPERATURE_GIVEN, parameters.temperature, unused_real, _float_bits, (0,)),
        (TOP_K_GIVEN, parameters.top_k, unused_integer, _clipped, (0,)),
        (TOP_P_GIVEN, parameters.top_p, unused_real, _float_bits, (0,)),
        (MIN_P_GIVEN, parameters.min_p, unused_real, _float_bits, (0,)),
        (SEED_GIVEN, parameters.topp_seed, unused_integer, words, (0, 0)),
        (POSITION_GIVEN, parameters.position, unused_integer, words, (0, 0)),
    )
    for bit, parameter, unused, as_words, none in table:
        if isinstance(parameter, Scalar):
            arguments += [unused, 0, *as_words(parameter.value)]
        else:
            arguments += [logits.framework.buffer(parameter.tensor), parameter.stride, *none]
            given |= bit.value
    return given, arguments


def _is_aligned(logits: Logits, buffer: Buffer) -> bool:
    """Whether every row starts on 16 bytes, so that kernels may load it in full width."""
    return buffer.data_ptr() % 16 == 0 and logits.row_stride % 16 == 0


def _may_need_mass(parameters: Parameters, wanted: Wanted, vocab: int) -> bool:
    """Whether some row may need `mass`, as far as the host can tell; of each row `narrow` decides."""
    top_k = parameters.top_k
    if wanted.log_z or not isinstance(top_k, Scalar):
        return True
    if 1 <= top_k.value < vocab:
        return top_k.value > int(MOST_K.value)
    return wanted.logprobs or not (_is_off(parameters.top_p, 1.0) and _is_off(parameters.min_p, 0.0))


def _is_off(parameter: Parameter, off: float) -> bool:
    return isinstance(parameter, Scalar) and parameter.value == off


def run(logits: Logits, parameters: Parameters, wanted: Wanted, tuning: Tuning = DEFAULT_TUNING) -> SampleOutput:
    """Launch the kernels for one call.

    Parameters
    ----------
    logits, parameters
        Checked by `detsample.parameters`.
    wanted
        Results to make; the others are None.
    tuning
        How to cut the work.

    Returns
    -------
    SampleOutput
        Tensors of the logits' framework on the logits' device, not yet computed: nothing waits for the device.
    """
    framework, device, rows = logits.framework, logits.device, logits.rows
    cut = cut_rows(logits, tuning)
    areas = allocate(framework, device, _areas(rows, cut))
    token_ids = framework.empty((rows,), "int64", device)
    num_kept = framework.empty((rows,), "int32", device)
    status = framework.empty((rows,), "int32", device)
    logprobs = framework.empty((rows,), "float32", device) if wanted.logprobs else None
    log_z = framework.empty((rows,), "float32", device) if wanted.log_z else None
    mask: Any = None
    results = [
        areas["unwanted"] if tensor is None else framework.buffer(tensor)
        for tensor in (token_ids, num_kept, status, logprobs, log_z)
    ]
    buffer = framework.buffer(logits.tensor)
    row = (buffer, logits.row_stride, logits.vocab)
    retry_programs = RETRY_PROGRAMS_PER_MULTIPROCESSOR * framework.multiprocessor_count(device)
    given, parameter_arguments = _arguments(parameters, logits, areas)
    want, aligned, warps = wanted.bits(), _is_aligned(logits, buffer), tuning.warps

    def shared(*names: str) -> list[Buffer]:
        return [areas[name] for name in names]

    pitch = list_pitch(cut)
    with framework.launching(device):
        scan_kernel[(rows, cut.parts)](
            *row, cut.quads, cut.segment_tiles, cut.segments, cut.segments_of_part, cut.parts, want,
            given, *parameter_arguments, *shared("records", "sums", "missed", "group_key"), pitch,
            *shared("group_bound", "part_key", "part_counts", "row_pivots", "part_rungs"),
            ALIGNED=aligned, OVERLAP=False, num_warps=warps[0], maxnreg=72, enable_fp_fusion=False,
        )  # fmt: skip
        narrow_kernel[(rows,)](
            *row, cut.quads, cut.segment_tiles, cut.groups, cut.parts, want,
            *shared("records", "group_key"), pitch,
            *shared(
                "group_bound", "part_key", "part_counts", "row_pivots", "part_rungs", "scratch_code", "scratch_groups"
            ),
            *results, OVERLAP=False, num_warps=warps[2], enable_fp_fusion=False,
        )  # fmt: skip
        if _may_need_mass(parameters, wanted, logits.vocab):
            mass_kernel[(rows, cut.parts)](
                *row, cut.quads, cut.segment_tiles, cut.segments, cut.segments_of_part, cut.parts,
                *shared("records", "sums", "missed", "group_key"), pitch, *shared("group_bound", "row_pivots"),
                ALIGNED=aligned, OVERLAP=False, num_warps=warps[1], maxnreg=80, enable_fp_fusion=False,
            )  # fmt: skip
            for attempt in range(1, 1 + int(RETRIES.value)):
                retry_kernel[(retry_programs,)](
                    *row, rows, attempt, *shared("records", "sums", "missed", "group_key"), pitch,
                    *shared("row_pivots"),
                    ALIGNED=aligned, OVERLAP=False, num_warps=warps[1], maxnreg=80, enable_fp_fusion=False,
                )  # fmt: skip
        wide_kernel[(rows,)](
            *row, cut.quads, cut.segment_tiles, cut.segments, want,
            *shared("records", "sums", "group_key"), pitch, *shared("group_bound", "scratch_code"),
            *results, ALIGNED=aligned, OVERLAP=False, num_warps=warps[3], enable_fp_fusion=False,
        )  # fmt: skip
        if wanted.mask is not None:
            mask = _write_mask(logits, row, aligned, wanted.mask, areas["records"], num_kept, parameters.top_k)
    kept_alive = None if framework.frees_behind_stream(device) else areas["records"]  # which owns all areas
    return SampleOutput(token_ids, num_kept, status, logprobs, log_z, mask, kept_alive)


def _write_mask(
    logits: Logits, row: tuple[Any, ...], aligned: bool, kind: str, records: Buffer, num_kept: Any, top_k: Parameter
) -> Any:
    framework, rows, tiles = logits.framework, logits.rows, -(-logits.vocab // int(TILE.value))
    common = {"ALIGNED": aligned, "num_warps": 4, "enable_fp_fusion": False}
    if kind == "bool":
        mask = framework.empty((rows, logits.vocab), "bool", logits.device)
        bool_mask[(rows, tiles)](*row, records, framework.buffer(mask), **common)
        return mask
    if kind == "bits":
        width = -(-logits.vocab // 32)
        mask = framework.empty((rows, width), "int32", logits.device)
        bit_mask[(rows, tiles)](*row, width, records, framework.buffer(mask), **common)
        return mask
    return _write_csr(logits, row, common, records, num_kept, top_k)


def _write_csr(
    logits: Logits, row: tuple[Any, ...], common: dict[str, Any], records: Buffer, num_kept: Any, top_k: Parameter
) -> Csr:
    framework, rows = logits.framework, logits.rows
    row_offsets = framework.empty((rows + 1,), "int64", logits.device)
    offsets = framework.buffer(row_offsets)
    plain = {"num_warps": 4, "enable_fp_fusion": False}
    csr_offsets[(1,)](rows, framework.buffer(num_kept), offsets, **plain)
    if isinstance(top_k, Scalar) and 1 <= top_k.value < logits.vocab:
        capacity = rows * int(top_k.value)
    else:
        capacity = int(framework.fetch(num_kept).sum(dtype=np.int64))
    token_ids = framework.empty((capacity,), "int32", logits.device)
    if capacity:
        kept = framework.buffer(token_ids)
        csr_tokens[(rows,)](*row, records, offsets, kept, **common)
        csr_tail[(-(-capacity // int(TILE.value)),)](rows, capacity, offsets, kept, **plain)
    return Csr(row_offsets, token_ids)
