"""Serves CPU tensors and arrays by the NumPy reference."""

from __future__ import annotations

from typing import Any

import numpy as np

from detsample.processing.arguments import Asked, Ids
from detsample.reference import processing as reference
from detsample.reference.processing import Request, path_to
from detsample.sampler.on_cpu import as_array


def process(asked: Asked) -> None:
    """Change the logits of a call."""
    of = asked.logits
    x = of.framework.as_array(of.tensor).reshape(of.rows, of.vocab)
    rows, requests = requests_of(asked)
    changed = x.astype(np.float32)
    changed[rows] = reference.process(x[rows], requests, asked.convention)
    shape = of.framework.shape(of.tensor)
    of.tensor[:] = of.framework.from_array(changed.reshape(shape), of.device)


def requests_of(asked: Asked) -> tuple[list[int], list[Request]]:
    """The rows of a call that have a request, and what each asks for, drafted tokens among its output."""
    of, array = asked.logits, asked.logits.framework.as_array
    lists = {name: _lists(asked, ids) for name, ids in asked.lists.items()}
    flat = {name: np.ravel(as_array(of.framework, x)) for name, x in asked.numbers.items()}
    numbers = {name: np.broadcast_to(x, (asked.requests,)) for name, x in flat.items()}
    values = None if asked.values is None else array(asked.values)
    words = None if asked.bad_words is None else array(asked.bad_words)
    drafts, parents = (None if x is None else array(x) for x in (asked.drafts, asked.parents))
    offsets = np.arange(asked.requests + 1) * asked.width
    if asked.row_offsets is not None:
        offsets = array(asked.row_offsets).astype(np.int64)
    rows, requests = [], []
    for q in range(asked.requests):
        given: dict[str, Any] = {name: found[q] for name, found in lists.items()}
        if values is not None:
            row = values[_bounds(asked, asked.lists["bias"], q)] if values.ndim == 1 else values[q]
            given["bias"] = list(zip(given["bias"], row.tolist(), strict=False))
        if words is not None:
            given["bad_words"] = [word for word in map(_trimmed, words[q]) if word]
        given["only"] = given.get("only") or None
        given["min_length"] = int(numbers["length"][q])
        for name in ("repetition", "frequency", "presence"):
            given[f"{name}_penalty"] = np.float32(numbers[name][q])
        for slot in range(asked.width):
            row = int(offsets[q]) + slot
            if not 0 <= row < min(int(offsets[q + 1]), of.rows):
                continue
            of_request = None if parents is None else parents[q].tolist()
            path = [] if drafts is None else path_to(slot, drafts[q].tolist(), of_request)
            rows.append(row)
            requests.append(Request(**given | {"output": [*given.get("output", ()), *path]}))
    return rows, requests


def _lists(asked: Asked, given: Ids) -> list[list[int]]:
    ids = asked.logits.framework.as_array(given.ids)
    if given.width >= 0:
        return [_trimmed(row) for row in ids]
    return [ids[_bounds(asked, given, q)].tolist() for q in range(asked.requests)]


def _bounds(asked: Asked, given: Ids, q: int) -> slice:
    start, end = (int(asked.logits.framework.as_array(x)[q]) for x in (given.starts, given.ends))
    start = min(max(start, 0), given.size)
    return slice(start, min(max(end, start), given.size))


def _trimmed(row: np.ndarray) -> list[int]:
    """A row without the negative numbers at its end."""
    there = np.flatnonzero(row >= 0)
    return row[: there[-1] + 1].tolist() if there.size else []
