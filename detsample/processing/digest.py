"""A number for what was done to each row before its draw, so that a record can tell whether a replay does the same."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from hashlib import sha256
from typing import Any

import numpy as np

from detsample import frameworks
from detsample.frameworks import operations
from detsample.processing.arguments import Processing, read
from detsample.processing.on_cpu import requests_of
from detsample.reference.allowed import read_allowed
from detsample.reference.mask import set_of_octets
from detsample.reference.processing import Request

_TOKENS = ("prompt", "output")


def digests(rows: int, vocab: int, processing: Processing | None = None, allowed: Any = None) -> np.ndarray:
    """Return a number for each row: 0 if its request asks for nothing and allows all tokens.

    Parameters
    ----------
    rows, vocab : int
        The shape of the logits.
    processing : Processing of as many requests, or None
        What `apply` did. This waits for the device.
    allowed : tensor, or None
        The sets of allowed tokens, as for `detsample.sample`.

    Returns
    -------
    [rows] int64
        The first 8 bytes of a SHA-256 of all that was asked for: the convention, lists and numbers, the tokens so far,
        and the set. The same for the same lists in whatever layout and type they come.

    Raises
    ------
    TypeError, ValueError
        As `apply` and `detsample.sample`.

    Examples
    --------
    >>> one = digests(2, 4, Processing(banned=np.array([[3], [-1]])))
    >>> other = digests(2, 4, Processing(banned=np.array([[3, -1], [-1, -1]], np.int32)))
    >>> bool(one[0] == other[0]), int(one[1])
    (True, 0)
    """
    asked: list[list[Any]] = [[] for _ in range(rows)]
    if processing is not None:
        logits = np.broadcast_to(np.float32(0), (rows, vocab))
        _, requests = requests_of(read(logits, frameworks.of(logits), _each(processing, _fetched), None, None, None))
        asked = [_said(request, processing.convention) for request in requests]
    octets = None if allowed is None else read_allowed(_fetched(allowed), rows, vocab)
    if octets is not None:
        free = set_of_octets(octets, vocab)
        for row in np.flatnonzero(~free.all(axis=1)):
            asked[row].append(np.packbits(free[row], bitorder="little").tobytes().hex())
    whole = [sha256(json.dumps(what, default=float).encode()).digest() if what else b"" for what in asked]
    return np.array([int.from_bytes(digest[:8], "little", signed=True) for digest in whole], np.int64)


def copied(processing: Processing) -> Processing:
    """The same with tensors of its own, so that the caller may change those that were given for the next token."""
    return _each(processing, lambda tensor: operations.of(frameworks.of(tensor).name).copied(tensor))


def _said(request: Request, convention: str) -> list[Any]:
    """What a request asks for, without what is as by default; nothing if that is all."""
    usual = {field.name: getattr(Request(), field.name) for field in fields(Request)}
    given = {name: getattr(request, name) for name in usual}
    said = {name: float(x) if isinstance(x, np.float32) else x for name, x in given.items()}
    said = {name: x for name, x in said.items() if x not in ([], usual[name])}
    return [convention, said] if said.keys() - set(_TOKENS) else []


def _fetched(tensor: Any) -> np.ndarray:
    return frameworks.of(tensor).fetch(tensor)


def _each(processing: Processing, change: Any) -> Processing:
    """With its tensors changed, alone and in triples."""
    found: dict[str, Any] = {}
    for field in fields(processing):
        value = getattr(processing, field.name)
        if isinstance(value, tuple):
            found[field.name] = tuple(map(change, value))
        elif not (value is None or isinstance(value, (str, int, float))):
            found[field.name] = change(value)
    return replace(processing, **found)
