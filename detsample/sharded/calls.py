"""`sample`, `mask`, `verify` and `plan`, for one rank of a group or for all shards in one process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np

from detsample import frameworks
from detsample.frameworks import operations
from detsample.frameworks.recording import unrecorded
from detsample.frameworks.types import FilterOrder, MaskKind
from detsample.sampler.output import MaskOutput, SampleOutput, Wanted
from detsample.sampler.parameters import (
    MASK_KINDS,
    Logits,
    Parameters,
    read_draw,
    read_flag,
    read_wanted,
    read_wanted_of_mask,
)
from detsample.sampler.plan import Plan
from detsample.sampler.run import serving
from detsample.sampler.status import raise_for_status
from detsample.sharded.agreement import Place, agreed_place, starts_of
from detsample.sharded.groups import Steps, alone, group_of, together
from detsample.speculative import status as request_status
from detsample.speculative.arguments import read_chains
from detsample.speculative.output import VerifyOutput

R = TypeVar("R")


@unrecorded
def sample(
    local_logits: Any,
    topp_seed: Any,
    *,
    vocab_start: Any = None,
    vocab: Any = None,
    group: Any = None,
    position: Any = 0,
    temperature: Any = 1.0,
    top_k: Any = 0,
    top_p: Any = 1.0,
    min_p: Any = 0.0,
    filter_order: FilterOrder = "top_k_first",
    allowed: Any = None,
    return_logprobs: bool = True,
    return_log_z: bool = False,
    return_mask: MaskKind | None = None,
    shared_noise: bool = False,
    check: bool = False,
) -> Any:
    """Draw one token for each row, on every rank of a group: the bits of `detsample.sample` of the whole rows.

    All ranks call it with the same arguments but `local_logits` and `vocab_start`, and get the same results. The shards
    are in the order of the ranks; they may differ in size, and be empty. On a GPU nothing waits for the device,
    except in the first call of a kind.

    Parameters
    ----------
    local_logits : [B, V_r] fp32, bf16 or fp16; or a list of these
        The logits of this rank's tokens. A list has all shards, in order; it is served in this process without a group,
        and each shard gets its output in a list. A parameter may be a list, too, with one tensor for each shard.
    topp_seed, position, temperature, top_k, top_p, min_p, filter_order, shared_noise : as for `detsample.sample`
    allowed : [B, ceil(V_r / 32)] int32 or uint32, [B, ceil(V_r / 8)] uint8, or None
        As for `detsample.sample`, of this rank's tokens; a rank without tokens does not look at it.
    vocab_start : int
        The id of the first token of this rank. None in a call with a list.
    vocab : int
        V, of all ranks together. None in a call with a list.
    group : process group, `Group` or None
        Who has the shards: a group of the logits' library, `torch.distributed` or `paddle.distributed`, whose default
        group is None, or an object with `rank`, `size` and `all_gather`.
    return_logprobs, return_log_z : bool
        As for `detsample.sample`.
    return_mask : None, "bool", "bits" or "csr"
        As for `detsample.sample`, of this rank's tokens: column 0, bit 0 and id 0 are the token `vocab_start`.
    check : bool
        Whether to wait and raise if a row is invalid, and to ask all ranks again whether they call alike.

    Returns
    -------
    SampleOutput, or a list of them

    Raises
    ------
    TypeError, ValueError
        If an argument is wrong; on all ranks, if they call for different things in the first call of a kind, or with
        `check`. Ranks that disagree later wait for each other until the group's time-out.

    Examples
    --------
    >>> import numpy as np
    >>> shards = [np.array([[0.0, 1.0]], np.float32), np.array([[2.0]], np.float32), np.array([[3.0]], np.float32)]
    >>> [out.token_ids.item() for out in sample(shards, 7, top_k=2)]
    [3, 3, 3]
    """
    wanted, wait = read_wanted(return_logprobs, return_log_z, return_mask), read_flag("check", check)
    parameters = [topp_seed, position, temperature, top_k, top_p, min_p]
    how = (parameters, filter_order, allowed, shared_noise, wanted, wait)
    return _checked(wait, raise_for_status, _serve(local_logits, (vocab_start, vocab, group), "sample", *how))


@unrecorded
def mask(
    local_logits: Any,
    *,
    vocab_start: Any = None,
    vocab: Any = None,
    group: Any = None,
    temperature: Any = 1.0,
    top_k: Any = 0,
    top_p: Any = 1.0,
    min_p: Any = 0.0,
    filter_order: FilterOrder = "top_k_first",
    allowed: Any = None,
    kind: MaskKind = "bool",
    return_log_z: bool = False,
    check: bool = False,
) -> Any:
    """This rank's part of the set of tokens that `sample` would draw from.

    Parameters
    ----------
    local_logits, vocab_start, vocab, group, temperature, top_k, top_p, min_p, filter_order, allowed
        As for `sample`.
    return_log_z, check : bool
        As for `sample`.
    kind : "bool", "bits" or "csr"
        The form of the mask, as for `detsample.mask`.

    Returns
    -------
    MaskOutput, or a list of them
        The mask is of the rank's tokens; the other results are of the whole rows.

    Raises
    ------
    TypeError, ValueError
        As `sample`.

    Examples
    --------
    >>> import numpy as np
    >>> shards = [np.array([[0.0, 3.0]], np.float32), np.array([[3.0, 3.0]], np.float32)]
    >>> [out.mask.tolist() for out in mask(shards, top_k=2)]
    [[[False, True]], [[True, False]]]
    """
    wanted, wait = read_wanted_of_mask(kind, return_log_z), read_flag("check", check)
    how = ([0, 0, temperature, top_k, top_p, min_p], filter_order, allowed, True, wanted, wait)
    found = _checked(wait, raise_for_status, _serve(local_logits, (vocab_start, vocab, group), "mask", *how))
    return [MaskOutput.of(out) for out in found] if isinstance(found, list) else MaskOutput.of(found)


@unrecorded
def verify(
    local_logits: Any,
    draft_tokens: Any,
    num_draft: Any,
    topp_seed: Any,
    *,
    position: Any,
    vocab_start: Any = None,
    vocab: Any = None,
    group: Any = None,
    row_offsets: Any = None,
    temperature: Any = 1.0,
    top_k: Any = 0,
    top_p: Any = 1.0,
    min_p: Any = 0.0,
    filter_order: FilterOrder = "top_k_first",
    allowed: Any = None,
    return_logprobs: bool = True,
    shared_noise: bool = False,
    check: bool = False,
) -> Any:
    """Accept drafted tokens as far as the target agrees: `detsample.speculative.verify` by matching, of shards.

    Parameters
    ----------
    local_logits : [B, K + 1, V_r], or [R, V_r] with `row_offsets`; or a list of these
        The target's logits of this rank's tokens.
    draft_tokens, num_draft, topp_seed, position, row_offsets, temperature, top_k, top_p, min_p, filter_order
        As for `detsample.speculative.verify`.
    vocab_start, vocab, group, check
        As for `sample`.
    allowed : [B, K + 1, ...], or [R, ...] with `row_offsets`; or None
        As for `detsample.speculative.verify`, of this rank's tokens.
    return_logprobs, shared_noise : bool
        As for `detsample.speculative.verify`.

    Returns
    -------
    VerifyOutput, or a list of them

    Raises
    ------
    TypeError, ValueError
        As `sample`.

    Examples
    --------
    >>> import numpy as np
    >>> shards = [np.array([[[0.0], [9.0]]], np.float32), np.array([[[9.0], [0.0]]], np.float32)]
    >>> verify(shards, np.array([[1]]), 1, 5, position=3, temperature=0)[0].token_ids
    array([[1, 0]])
    """
    logprobs, wait = read_flag("return_logprobs", return_logprobs), read_flag("check", check)

    def read(
        logits: Any, own: Callable[[Any], Any], columns: int
    ) -> tuple[Logits, Parameters, Callable[[Place], Steps[VerifyOutput]]]:
        sampling = (*map(own, (topp_seed, position, temperature, top_k, top_p, min_p)), filter_order)
        counts, offsets = own(num_draft), own(row_offsets)
        sets = own(allowed) if columns else None
        batch, drafts = read_chains(logits, own(draft_tokens), counts, offsets, sampling, shared_noise, sets)
        steps = serving("detsample.sharded", batch.logits.device).verify
        return batch.logits, batch.given, lambda place: steps(place, batch, drafts, logprobs)

    found = _take_rounds(local_logits, (vocab_start, vocab, group), "verify", int(logprobs), wait, read)
    return _checked(wait, request_status.raise_for_status, found)


@unrecorded
def plan(
    local_logits: Any,
    topp_seed: Any,
    *,
    vocab_start: Any,
    vocab: Any,
    group: Any = None,
    position: Any = 0,
    temperature: Any = 1.0,
    top_k: Any = 0,
    top_p: Any = 1.0,
    min_p: Any = 0.0,
    filter_order: FilterOrder = "top_k_first",
    allowed: Any = None,
    return_logprobs: bool = True,
    return_log_z: bool = False,
    return_mask: MaskKind | None = None,
    shared_noise: bool = False,
) -> Plan[Any]:
    """Check the arguments of `sample` now, with all ranks of the group, and draw later, as often as you like.

    Parameters
    ----------
    local_logits, vocab_start, vocab, group, topp_seed, position, temperature, top_k, top_p, min_p, filter_order
        As for `sample`, of one rank. Parameters that are tensors are read when the plan is called.
    allowed, return_logprobs, return_log_z, return_mask, shared_noise
        As for `sample`.

    Returns
    -------
    Plan
        ``plan(local_logits)`` gives what ``sample(local_logits, ...)`` would, and no rank waits for the device.

    Raises
    ------
    TypeError, ValueError
        As `sample`.

    Examples
    --------
    >>> import numpy as np
    >>> class Lone:
    ...     rank, size = 0, 1
    ...     def all_gather(self, message):
    ...         return message[None]
    >>> logits = np.array([[0.0, 1.0, 2.0, 3.0]], np.float32)
    >>> plan(logits, 7, top_k=2, vocab_start=0, vocab=4, group=Lone())(logits).token_ids
    array([3])
    """
    wanted = read_wanted(return_logprobs, return_log_z, return_mask)
    logits, columns = _with_columns(local_logits)
    parameters = (topp_seed, position, temperature, top_k, top_p, min_p)
    of, given = read_draw(logits, *parameters, filter_order, allowed if columns else None, shared_noise)
    ranks = group_of(group, of.framework.name)
    place = agreed_place(
        ranks, ranks if group is None else group, "sample", _bits(wanted), of, columns, given, vocab_start, vocab, True
    )
    steps = serving("detsample.sharded", of.device).draw

    def draw(tensor: Any, pointer: Any) -> SampleOutput[Any]:
        return alone(steps(place, of._replace(tensor=tensor, pointer=pointer), given, wanted), ranks)

    return Plan(of._replace(tensor=local_logits), draw)


def _serve(
    local_logits: Any, where: tuple[Any, Any, Any], operation: str, parameters: list[Any], filter_order: Any,
    allowed: Any, shared_noise: Any, wanted: Wanted, again: bool,
) -> Sequence[SampleOutput[Any]]:  # fmt: skip
    """What `sample` and `mask` have in common: the outputs of this rank, or of all shards."""

    def read(
        logits: Any, own: Callable[[Any], Any], columns: int
    ) -> tuple[Logits, Parameters, Callable[[Place], Steps[SampleOutput]]]:
        sets = own(allowed) if columns else None
        seed, position, temperature, top_k, top_p, min_p = map(own, parameters)
        of, given = read_draw(
            logits, seed, position, temperature, top_k, top_p, min_p, filter_order, sets, shared_noise
        )
        steps = serving("detsample.sharded", of.device).draw
        return of, given, lambda place: steps(place, of, given, wanted)

    return _take_rounds(local_logits, where, operation, _bits(wanted), again, read)


def _take_rounds(
    local_logits: Any, where: tuple[Any, Any, Any], operation: str, want: int, again: bool,
    read: Callable[[Any, Callable[[Any], Any], int], tuple[Logits, Parameters, Callable[[Place], Steps[R]]]],
) -> Sequence[R]:  # fmt: skip
    """The output of this rank in a tuple, or those of all shards in a list."""
    start, vocab, group = where
    if not isinstance(local_logits, (list, tuple)):
        logits, columns = _with_columns(local_logits)
        of, given, steps = read(logits, lambda value: value, columns)
        ranks = group_of(group, of.framework.name)
        owner = ranks if group is None else group
        place = agreed_place(ranks, owner, operation, want, of, columns, given, start, vocab, again)
        return (alone(steps(place), ranks),)
    if not (start is None and vocab is None and group is None):
        raise TypeError("vocab_start, vocab and group must be None where local_logits is a list of all shards")
    shards = [_with_columns(logits) for logits in local_logits]
    calls = [read(logits, partial(_of_shard, at), columns) for at, (logits, columns) in enumerate(shards)]
    if len({of.rows for of, *_ in calls}) != 1:
        raise ValueError(f"local_logits must have one number of rows, got {[of.rows for of, *_ in calls]}")
    if len({of.dtype for of, *_ in calls}) != 1:
        raise TypeError(f"local_logits must be of one type, got {[of.dtype for of, *_ in calls]}")
    widths = [columns for _, columns in shards]
    starts = starts_of([sum(widths[:at]) for at in range(len(widths))], widths, sum(widths))
    return together([steps(Place(rank, starts)) for rank, (_, _, steps) in enumerate(calls)])


def _of_shard(at: int, value: Any) -> Any:
    """An argument of one of several shards."""
    return value[at] if isinstance(value, (list, tuple)) else value


def _with_columns(logits: Any) -> tuple[Any, int]:
    """Logits with at least one column, and how many they had: a token at -inf changes nothing."""
    framework = frameworks.of(logits, "local_logits")
    *rows, columns = framework.shape(logits)
    if columns:
        return logits, columns
    return operations.of(framework.name).beside(np.full((*rows, 1), -np.inf, np.float32), logits), 0


def _bits(wanted: Wanted) -> int:
    return wanted.token + 2 * wanted.logprobs + 4 * wanted.log_z + 8 * (None, *MASK_KINDS).index(wanted.mask)


def _checked(wait: bool, raise_for: Callable[[Any], None], found: Sequence[Any]) -> Any:
    """The output of this rank, or the list of those of all shards."""
    if wait:
        raise_for(found[0].status)
    return found if isinstance(found, list) else found[0]
