"""A record of drawn tokens on the host: one row for each token, one array for each column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np

import detsample
from detsample import frameworks
from detsample.processing.digest import digests
from detsample.reference.float_mode import usual_mode
from detsample.rollout.kept_sets import KeptSets
from detsample.rollout.output import Draw
from detsample.sampler.parameters import as_integer, is_scalar, to_fp32

COLUMNS: dict[str, type] = {
    "sequence": np.int64,
    "position": np.int64,
    "topp_seed": np.int64,
    "temperature": np.float32,
    "top_k": np.int64,
    "top_p": np.float32,
    "min_p": np.float32,
    "token_ids": np.int32,
    "num_kept": np.int32,
    "status": np.int32,
    "logprobs": np.float32,
    "log_z": np.float32,
    "raw_logprobs": np.float32,
    "rank": np.int32,
    "entropy": np.float32,
    "applied": np.int64,
}
"""The columns with one number a token, and their types."""

PARAMETERS = ("topp_seed", "position", "temperature", "top_k", "top_p", "min_p")
RESULTS = ("token_ids", "num_kept", "status", "logprobs", "log_z", "raw_logprobs", "rank", "entropy")


class Kind(NamedTuple):
    """What records must have in common so that they can be joined, and files so that they can be in one folder."""

    contract_version: int
    vocab: int
    top_n: int
    keep_sets: bool
    filter_order: str

    def __str__(self) -> str:
        sets = "with" if self.keep_sets else "without"
        return (
            f"contract version {self.contract_version}, vocabulary {self.vocab}, {self.top_n} first tokens, "
            f"filter order {self.filter_order}, {sets} kept sets"
        )


@dataclass(frozen=True, eq=False)
class Record:
    """N drawn tokens: for each, the parameters of the draw and its results.

    Attributes
    ----------
    contract_version : int
        The `detsample.CONTRACT_VERSION` with which the tokens were drawn.
    vocab : int
        V.
    filter_order : str
        The `filter_order` of the draw, as for `detsample.sample`.
    sequence : [N] int64
        Which sequence the token belongs to. The caller chooses these numbers.
    position, topp_seed, temperature, top_k, top_p, min_p : [N]
        The parameters of the draw, as the contract rounds them.
    token_ids, num_kept, status, logprobs, log_z, raw_logprobs, rank, entropy : [N]
        The results, as in `Draw`.
    top_token_ids : [N, n] int32
    top_logprobs : [N, n] float32
        The first tokens, as in `Draw`.
    applied : [N] int64
        For each row, a digest of the draw's `allowed` and `processing`: 0 where neither had to say anything, and in
        records of before there was this column.
    kept : KeptSets or None
        The kept sets, if they are recorded.
    """

    contract_version: int
    vocab: int
    filter_order: str
    sequence: np.ndarray
    position: np.ndarray
    topp_seed: np.ndarray
    temperature: np.ndarray
    top_k: np.ndarray
    top_p: np.ndarray
    min_p: np.ndarray
    token_ids: np.ndarray
    num_kept: np.ndarray
    status: np.ndarray
    logprobs: np.ndarray
    log_z: np.ndarray
    raw_logprobs: np.ndarray
    rank: np.ndarray
    entropy: np.ndarray
    applied: np.ndarray
    top_token_ids: np.ndarray
    top_logprobs: np.ndarray
    kept: KeptSets | None

    @staticmethod
    @usual_mode
    def of(draw: Draw, sequence: Any, *, keep_sets: bool = True) -> Record:
        """Make a record of a draw. This waits for the device.

        Parameters
        ----------
        draw : Draw
            Of B rows.
        sequence : int or integer array [B]
            Which sequence each row is of.
        keep_sets : bool
            Whether to record the kept sets.

        Returns
        -------
        Record
            Of B tokens.

        Raises
        ------
        TypeError, ValueError
            Naming the argument, what was expected and what came.
        """
        if not isinstance(draw, Draw):
            raise TypeError(f"draw must be a Draw, got {type(draw).__name__}")
        rows = frameworks.of(draw.token_ids).shape(draw.token_ids)[0]
        given = {"sequence": sequence, **{name: draw.parameters[name] for name in PARAMETERS}}
        columns = {name: column(name, value, rows) for name, value in given.items()}
        for name in RESULTS:
            columns[name] = _fetch(name, getattr(draw, name)).astype(COLUMNS[name], copy=False)
        before = {name: draw.parameters.get(name) for name in ("processing", "allowed")}
        return Record(
            contract_version=detsample.CONTRACT_VERSION,
            vocab=draw.vocab,
            filter_order=draw.parameters["filter_order"],
            **columns,
            applied=digests(rows, draw.vocab, **before),
            top_token_ids=_fetch("top_token_ids", draw.top_token_ids),
            top_logprobs=_fetch("top_logprobs", draw.top_logprobs),
            kept=KeptSets.of_bits(_fetch("kept", draw.kept), draw.vocab) if keep_sets else None,
        )

    @staticmethod
    def concatenate(parts: Sequence[Record]) -> Record:
        """One record of several; at least one.

        Raises
        ------
        ValueError
            If they differ in contract version, vocabulary, number of first tokens, filter order or in having kept sets.
        """
        kinds = sorted({part.kind for part in parts})
        if len(kinds) != 1:
            raise ValueError(f"parts must be of one kind, got {'; and '.join(map(str, kinds))}")
        joined: dict[str, Any] = {}
        for name in (*COLUMNS, "top_token_ids", "top_logprobs"):
            joined[name] = np.concatenate([getattr(part, name) for part in parts])
        sets = [part.kept for part in parts if part.kept is not None]
        kept = KeptSets.concatenate(sets) if sets else None
        return replace(parts[0], **joined, kept=kept)

    @property
    def kind(self) -> Kind:
        """What records must have in common so that they can be joined."""
        first = self.top_token_ids.shape[1]
        return Kind(self.contract_version, self.vocab, first, self.kept is not None, self.filter_order)

    def __len__(self) -> int:
        return len(self.token_ids)

    def rows(self, index: Any) -> Record:
        """Some of the tokens: a slice, or an array of row numbers in any order."""
        chosen: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        for name in (*COLUMNS, "top_token_ids", "top_logprobs"):
            chosen[name] = chosen[name][index]
        chosen["kept"] = None if self.kept is None else self.kept.rows(index)
        return Record(**chosen)

    def in_order(self) -> Record:
        """The same tokens by sequence, and in each by position."""
        return self.rows(np.lexsort((self.position, self.sequence)))

    def parameters(self) -> dict[str, Any]:
        """The keyword arguments of `detsample.sample` that drew these tokens: vectors, and the filter order."""
        return {**{name: getattr(self, name) for name in PARAMETERS}, "filter_order": self.filter_order}


def _fetch(name: str, tensor: Any) -> np.ndarray:
    return frameworks.of(tensor, name).fetch(tensor)


def column(name: str, value: Any, rows: int) -> np.ndarray:
    """A parameter as a column, as the contract reads it: seeds modulo 2^64, real numbers rounded once to fp32."""
    if is_scalar(value):
        whole, most = COLUMNS[name] is np.int64, _BITS if name == "topp_seed" else _BITS >> 1
        value = as_integer(name, value, -(1 << 63), most) if whole else to_fp32(value)
    # An int beyond int64 would be a float, or an object, to NumPy.
    array = np.array(value & _BITS, np.uint64) if isinstance(value, int) else _array(name, value)
    if COLUMNS[name] is np.int64 and array.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers, got {array.dtype}")
    if array.dtype == np.uint64 and name != "topp_seed" and (array > _BITS >> 1).any():
        raise ValueError(f"{name} must be below 2^63, got {array.max()}")
    if array.shape not in ((), (rows,), (rows, 1)):
        raise ValueError(f"{name} must be a number or have shape [{rows}], got {list(array.shape)}")
    with np.errstate(over="ignore", under="ignore"):
        typed: np.ndarray = array.reshape(-1).astype(COLUMNS[name])
    return np.ascontiguousarray(np.broadcast_to(typed, (rows,)))


def _array(name: str, value: Any) -> np.ndarray:
    return np.asarray(value) if isinstance(value, (float, list, tuple)) else _fetch(name, value)


_BITS = (1 << 64) - 1
