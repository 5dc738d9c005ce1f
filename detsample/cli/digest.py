"""One digest for all bits of a result. It is the same however the rows were split into batches."""

from __future__ import annotations

import hashlib

import numpy as np

from detsample import frameworks
from detsample.sampler.output import RESULTS, SampleOutput


def host_fields(out: SampleOutput) -> dict[str, np.ndarray]:
    """The results that a call made, on the host; masks as "bool" or "bits" only."""
    tensors = {name: getattr(out, name) for name in RESULTS}
    return {name: frameworks.of(t, name).fetch(t) for name, t in tensors.items() if t is not None}


def row_bytes(fields: dict[str, np.ndarray]) -> np.ndarray:
    """uint8 [B, N]: for each row the little-endian bytes of its results, in the order of `RESULTS`."""
    columns = []
    for name in RESULTS:
        if name in fields:
            array = fields[name]
            array = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
            columns.append(array.view(np.uint8).reshape(len(array), -1))
    return np.concatenate(columns, axis=1)


class Digest:
    """SHA-256 over rows in their order: blocks of rows may be added in pieces of any size."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, fields: dict[str, np.ndarray]) -> None:
        """Add the results of the next rows."""
        self._hash.update(row_bytes(fields).tobytes())

    def hex(self) -> str:
        """The digest so far."""
        return self._hash.hexdigest()
