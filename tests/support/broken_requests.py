"""Random requests of verification that are broken in several ways at once: what sections 14 to 17 refuse or end.

`broken_call(seed)` gives the name of a reference function and the arguments of one call. Offsets overlap, run out, go
backwards and wrap; counts, tokens, parents and parameters are out of range; rows of the draft are missing; logits and
drafts hold NaN and infinities; -1 stands among drafted tokens. Some requests of most calls stay in order, so that it
shows whether the others harm them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

LIMITS = np.iinfo(np.int64)
F32 = np.float32


def broken_call(seed: int, most: int = 5) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
    """(``"verify"`` or ``"verify_tree"``, arguments, keywords) of one call of up to `most` requests."""
    rng = np.random.default_rng([seed, 17])
    kind = ("match", "rejection", "tree")[seed % 3]
    requests = int(rng.integers(1, most + 1))
    vocab = int(rng.choice([1, 2, 3, 33], p=[0.1, 0.3, 0.4, 0.2]))
    width = int(rng.integers(1, 5))
    counts = rng.integers(1, width + 1, requests)
    offsets, rows = _offsets(rng, counts)
    flat = rng.random() < 0.75
    logits = _logits(rng, (rows, vocab) if flat else (requests, width, vocab))
    how = _parameters(rng, requests, vocab) | {"row_offsets": offsets if flat else None}
    given = _some(rng, counts, [0, -1, width + 1, width + 2, LIMITS.max, LIMITS.min], 0.1)
    seeds = rng.integers(LIMITS.min, LIMITS.max, requests)
    tokens = [-1, -1, -1, -2, vocab, 2**31, LIMITS.min]
    if kind == "tree":
        drafts = _some(rng, rng.integers(0, vocab, (requests, width)), tokens, 0.08)
        parents = np.array([[-1, *(rng.integers(0, i) for i in range(1, width))] for _ in range(requests)])
        parents = _some(rng, parents, [-1, -2, 0, width - 1, width, LIMITS.max], 0.05)
        return "verify_tree", (logits, drafts, parents, seeds), how | {"num_nodes": given}
    drafts = _some(rng, rng.integers(0, vocab, (requests, width - 1)), tokens, 0.12)
    if kind == "rejection":
        missing = max(rows - requests + int(rng.integers(-2, 2)), 0)
        shape = (missing, vocab) if flat else (requests, width - 1, vocab)
        how |= {"method": "rejection", **_draft(rng, shape)}
    with np.errstate(over="ignore"):
        return "verify", (logits, drafts, given - 1, seeds), how


def _some(rng: np.random.Generator, values: np.ndarray, odd: list[int], share: float) -> np.ndarray:
    """Int64 values of which a share is odd."""
    values = np.asarray(values, np.int64)
    return np.where(rng.random(values.shape) < share, rng.choice(np.array(odd, np.int64), values.shape), values)


def _offsets(rng: np.random.Generator, counts: np.ndarray) -> tuple[np.ndarray, int]:
    """(row_offsets, how many rows there are): in order, or pushed about in several ways, at one place of eight."""
    offsets = np.append(0, np.cumsum(counts))
    rows = int(offsets[-1]) + int(rng.integers(0, 2))
    for _ in range(1 + len(counts) // 8):
        way, at = rng.integers(0, 5), int(rng.integers(0, len(offsets)))
        near = slice(at, at + 8)
        if way == 1:
            offsets[at : at + 1] += rng.integers(-2, 3)
        elif way == 2:
            offsets[near] -= rng.integers(0, 3)
        elif way == 3:
            here = offsets[near]
            offsets[near] = np.where(rng.random(len(here)) < 0.3, rng.integers(-1, rows + 2, len(here)), here)
        elif way == 4:
            offsets[at] = rng.choice(np.array([LIMITS.min, LIMITS.max, -1, 2**32]))
    if rng.random() < 0.1:
        offsets = offsets[::-1].copy()
    if rng.random() < 0.2:
        rows = max(1, rows - int(rng.integers(0, 4)))
    return offsets, rows


def _logits(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    x = rng.standard_normal(shape, dtype=F32) * rng.choice(F32([1, 8]))
    return np.where(rng.random(shape) < 0.04, rng.choice(F32([np.nan, np.inf, -np.inf, -np.inf]), shape), x)


def _draft(rng: np.random.Generator, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    if rng.random() < 0.5:
        return {"draft_logits": _logits(rng, shape)}
    q = rng.random(shape, dtype=F32)
    q = np.where(rng.random((*shape[:-1], 1)) < 0.1, F32(0), q)
    odd = rng.choice(F32([0, 0, np.nan, np.inf, -0.0, -1, 2, 1e-45]), shape)
    return {"draft_probs": np.where(rng.random(shape) < 0.1, odd, q)}


def _parameters(rng: np.random.Generator, requests: int, vocab: int) -> dict[str, Any]:
    """Vectors, a few entries of which are not valid."""
    odd = rng.random((4, requests)) < 0.06
    far = rng.choice(np.array([-1, LIMITS.max, LIMITS.max - 1]), requests)
    return {
        "position": np.where(odd[0], far, rng.integers(0, 2**40, requests)),
        "temperature": np.where(odd[1], rng.choice(F32([-1, np.nan, np.inf, 1e-45]), requests), F32(0.8)),
        "top_k": rng.integers(0, vocab + 2, requests),
        "top_p": np.where(odd[2], F32(np.nan), rng.choice(F32([0, 0.5, 0.9, 1]), requests)),
        "min_p": np.where(odd[3], F32(np.nan), rng.choice(F32([0, 0.2, 2]), requests)),
        "filter_order": str(rng.choice(["top_k_first", "min_p_first", "joint"])),
    }
