"""Random calls of `verify` and `verify_tree`: every layout and type, values of every kind, and bad input among them."""

from __future__ import annotations

from typing import Any

import numpy as np

from detsample import reference


def agreeing_drafts(rng: np.random.Generator, call: Any, drafts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Drafts of which a good part is what the target draws."""
    drafts = drafts.copy()
    for _ in range(drafts.shape[1]):
        out = call(drafts)
        for b, accepted in enumerate(out.num_accepted):
            if accepted < lengths[b] and out.token_ids[b, accepted] >= 0 and rng.random() < 0.75:
                drafts[b, accepted] = out.token_ids[b, accepted]
    return drafts


def parameters(rng: np.random.Generator, count: int) -> dict[str, Any]:
    """Each a number or an array, of any type that is allowed."""
    choices = {
        "topp_seed": [int(rng.integers(-(2**63), 2**63)), rng.integers(-(2**63), 2**63, count)],
        "position": [int(rng.integers(0, 2**40)), rng.integers(0, 2**40, count), rng.integers(0, 99, count, np.int32)],
        "temperature": [1.0, 0.0, rng.choice([0, 0.7, 1.3], count), rng.choice(np.float16([0.5, 1]), (count, 1))],
        "top_k": [0, 5, rng.integers(-1, 9, count), rng.integers(0, 9, count).astype(np.int32)],
        "top_p": [1.0, rng.choice(np.float32([0.3, 0.9, 1]), count)],
        "min_p": [0.0, rng.choice(np.float32([0, 0.1]), count)],
    }
    return {name: values[rng.integers(0, len(values))] for name, values in choices.items()}


def values(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Logits with ties, infinities, zeros of both signs and subnormals, of one of the three types."""
    import ml_dtypes

    x = rng.standard_normal(shape).astype(np.float32) * rng.choice([1e-39, 1, 30])
    odd = rng.choice(np.float32([-np.inf, 0.0, -0.0, 1e-40, 2, 2]), shape)
    x = np.where(rng.random(shape) < 0.2, odd, x)
    return x.astype([np.float32, np.float16, ml_dtypes.bfloat16][rng.integers(0, 3)])


def laid_out(rng: np.random.Generator, counts: np.ndarray, width: int, vocab: int) -> tuple[Any, Any]:
    """(logits, row_offsets): padded or ragged; a few rows are bad."""
    if rng.random() < 0.5:
        offsets, logits = None, values(rng, (len(counts), width, vocab))
    else:
        offsets = np.append(0, np.cumsum(counts)).astype(rng.choice([np.int64, np.int32]))
        logits = values(rng, (int(offsets[-1]) + int(rng.integers(0, 4)), vocab))
    flat = logits.reshape(-1, vocab)
    for _ in range(int(rng.integers(0, 3))):
        flat[rng.integers(0, len(flat)), rng.integers(0, vocab)] = rng.choice(np.float32([np.nan, np.inf]))
    return logits, offsets


def chain_case(seed: int, method: str, large: bool = False) -> tuple[Any, ...]:
    """(arguments, keywords) of `verify`, some of them bad."""
    rng = np.random.default_rng(seed)
    count, most = int(rng.integers(1, 7)), int(rng.integers(0, 6))
    vocab = int(rng.choice([1, 2, 3, 31, 33, 1000, 1025] if large else [1, 2, 3, 31, 33]))
    lengths = rng.integers(0, most + 1, count)
    logits, offsets = laid_out(rng, lengths + 1, most + 1, vocab)
    how = parameters(rng, count) | {"row_offsets": offsets, "method": method}
    if method == "rejection":
        rows = (count, most) if offsets is None else (len(logits) - count + int(rng.integers(0, 2)),)
        if rng.random() < 0.5:
            how["draft_logits"] = values(rng, (*rows, vocab))
        else:
            how["draft_probs"] = np.abs(values(rng, (*rows, vocab)).astype(np.float32)).clip(0, 1.5)
    drafts = rng.integers(0, vocab, (count, most)).astype(rng.choice([np.int64, np.int32]))
    seeds = how.pop("topp_seed")
    drafts = agreeing_drafts(rng, lambda d: reference.verify(logits, d, lengths, seeds, **how), drafts, lengths)
    bad = rng.random() < 0.3
    if bad and most:
        drafts[rng.integers(0, count), rng.integers(0, most)] = rng.choice([-1, vocab, 2**31 - 1])
    if bad:
        lengths[rng.integers(0, count)] = rng.choice([-1, most + 1, 2**62])
    return (logits, drafts, lengths, seeds), how


def tree_case(seed: int) -> tuple[Any, ...]:
    """(arguments, keywords) of `verify_tree`, some of them bad."""
    rng = np.random.default_rng(seed)
    count, most, vocab = int(rng.integers(1, 6)), int(rng.integers(1, 9)), int(rng.choice([1, 2, 3, 31]))
    sizes = rng.integers(1, most + 1, count)
    logits, offsets = laid_out(rng, sizes, most, vocab)
    parents = np.array([[-1, *(rng.integers(0, i) for i in range(1, most))] for _ in range(count)])
    if rng.random() < 0.4:
        parents[rng.integers(0, count), rng.integers(0, most)] = rng.choice([-1, -2, 0, most - 1, most, 2**40])
    how = parameters(rng, count) | {"row_offsets": offsets, "num_nodes": sizes}
    return (logits, rng.integers(0, vocab, (count, most)), parents, how.pop("topp_seed")), how
