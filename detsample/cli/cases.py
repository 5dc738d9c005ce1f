"""Rows for the self-test: one kind for every way that a row can take through the kernels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Rows = np.ndarray
Kind = Callable[[np.random.Generator, int, int], Rows]
BASES = np.array([0, -3.25, 1e30, 1e-40], np.float32)
SPOILERS = np.array([np.nan, np.inf, -np.inf], np.float32)


@dataclass(frozen=True)
class Case:
    """A batch and its parameters, one of each for every row."""

    kind: str
    dtype: str
    logits: Rows
    parameters: dict[str, np.ndarray]

    def __str__(self) -> str:
        return f"{self.kind:<11} {self.dtype:<9} [{len(self.logits)}, {self.logits.shape[1]}]"


def _normal(rng: np.random.Generator, rows: int, vocab: int) -> Rows:
    return rng.standard_normal((rows, vocab), dtype=np.float32)


def _sharp(rng: np.random.Generator, rows: int, vocab: int) -> Rows:
    """Rows in which a few tokens have nearly all the weight, as from a trained model."""
    return _normal(rng, rows, vocab) * np.float32(5)


def _level(rng: np.random.Generator, rows: int, vocab: int) -> Rows:
    """Nearly flat: kept sets are large."""
    return _normal(rng, rows, vocab) * np.float32(0.1)


def _ties(rng: np.random.Generator, rows: int, vocab: int) -> Rows:
    """Rows with only four different logits, so that every filter has to cut between equal ones."""
    return rng.integers(0, 4, (rows, vocab)).astype(np.float32)


def _equal(rng: np.random.Generator, rows: int, vocab: int) -> Rows:
    """All logits of a row are one number."""
    return np.broadcast_to(rng.choice(BASES, (rows, 1)), (rows, vocab)).copy()


def _fill(rng: np.random.Generator, rows: int, vocab: int) -> Rows:
    """Rows with half of the logits at -1e9, which some frameworks write as a mask."""
    logits = _normal(rng, rows, vocab)
    logits[rng.random((rows, vocab)) < 0.5] = -1e9
    return logits


def _few(rng: np.random.Generator, rows: int, vocab: int) -> Rows:
    """Rows with all but a few logits at -inf."""
    logits = _normal(rng, rows, vocab)
    logits[rng.random((rows, vocab)) < 0.9] = -np.inf
    logits[:, -1] = 0
    return logits


def _huge(rng: np.random.Generator, rows: int, vocab: int) -> Rows:
    """Magnitudes from one end of fp32 to the other."""
    exponents = rng.integers(0, 0x7F800000, (rows, vocab), dtype=np.uint32)
    return (exponents | rng.integers(0, 2, (rows, vocab), dtype=np.uint32) << 31).view(np.float32)


def _invalid(rng: np.random.Generator, rows: int, vocab: int) -> Rows:
    """A NaN, a +inf or nothing but -inf, in two rows of three."""
    logits = _normal(rng, rows, vocab)
    spoiler = SPOILERS[np.arange(rows) % 3]
    logits[np.arange(rows), rng.integers(0, vocab, rows)] = spoiler
    logits[(np.arange(rows) % 6) == 2] = -np.inf
    return logits


KINDS: dict[str, Kind] = {
    "sharp": _sharp, "level": _level, "ties": _ties, "equal": _equal, "fill": _fill,
    "few": _few, "huge": _huge, "invalid": _invalid, "normal": _normal,
}  # fmt: skip


def parameters(rng: np.random.Generator, rows: int, vocab: int) -> dict[str, np.ndarray]:
    """A value of each parameter for every row: mostly usual values, sometimes extreme ones, rarely invalid ones."""
    real, integer = np.float32, np.int64
    temperatures = np.array([1, 1, 0.7, 0.3, 1.5, 0, 1e-30, 3e38, -1], real)
    temperature = rng.choice(temperatures, rows, p=[0.2, 0.2, 0.2, 0.1, 0.1, 0.1, 0.04, 0.04, 0.02])
    top_k = rng.choice(np.array([0, 0, 1, 2, 5, 50, vocab // 2, vocab - 1, vocab, -1], integer), rows)
    top_p = rng.choice(np.array([1, 1, 0.95, 0.9, 0.5, 0, 1e-6, 0.9999999, 2], real), rows)
    min_p = rng.choice(np.array([0, 0, 0, 0.05, 0.1, 1e-10, 1, 2], real), rows)
    return {
        "topp_seed": rng.integers(-(1 << 63), (1 << 63) - 1, rows, integer, endpoint=True),
        "position": rng.choice(np.array([0, 1, 17, 4095, 1 << 32, (1 << 63) - 1], integer), rows),
        "temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p,
    }  # fmt: skip


def rounded(logits: Rows, dtype: str) -> Rows:
    """The nearest-to-zero numbers that the type holds, in fp32; infinities and NaN stay."""
    if dtype == "bfloat16":
        held = (logits.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
        return np.where(np.isfinite(logits), held, logits)
    if dtype == "float16":
        held = np.clip(logits, -65504, 65504).astype(np.float16).astype(np.float32)
        return np.where(np.isfinite(logits), held, logits)
    return logits


def cases(seed: int, rows: int, vocabularies: tuple[int, ...], dtypes: tuple[str, ...], most: int) -> list[Case]:
    """Batches with `rows` rows in all, and at most `most` logits in each batch.

    Parameters
    ----------
    seed : int
        The same seed, the same cases.
    rows : int
        How many rows; at least one for each batch.
    vocabularies, dtypes
        What to go through, in turn.
    most : int
        Bounds the memory and the time of a batch.
    """
    rng = np.random.default_rng(seed)
    passes = len(vocabularies) if rows >= 20 * len(KINDS) else 2
    share = -(-rows // (passes * len(KINDS)))
    found: list[Case] = []
    while rows > 0:
        turn, which = divmod(len(found), len(KINDS))
        kind = list(KINDS)[which]
        # Each turn through the kinds starts one kind later, so that in time every kind meets every size and type.
        vocab = vocabularies[(which + turn) % len(vocabularies)]
        dtype = dtypes[(which + turn) % len(dtypes)]
        count = max(1, min(share, most // vocab, rows))
        logits = rounded(KINDS[kind](rng, count, vocab), dtype)
        found.append(Case(kind, dtype, logits, parameters(rng, count, vocab)))
        rows -= count
    return found
