"""Random requests for `detsample.processing`, and the kernel behind its signature: arrays in, arrays out."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from kernel_path import on_device, prepare_interpreter, to_array

from detsample import frameworks
from detsample.processing import CONVENTIONS, Processing, arguments

F32 = np.float32


def ids(rng: np.random.Generator, requests: int, longest: int, vocab: int, kind: str) -> Any:
    """A list for each request: a table, or a triple of a buffer in which lists overlap and lie in any order. Some ids
    are none of the vocabulary's.
    """
    dtype = rng.choice([np.int32, np.int64])
    some = rng.integers(0, max(1, vocab // 2 if rng.random() < 0.5 else vocab), (requests, longest)).astype(dtype)
    some[rng.random(some.shape) < 0.05] = rng.choice([-1, vocab, vocab + 5])
    lengths = rng.integers(0, longest + 1, requests)
    if kind == "table":
        return np.where(np.arange(longest) < lengths[:, None], some, dtype(-1))
    flat = some.reshape(-1)
    starts = rng.integers(0, len(flat) - longest + 1, requests)
    return flat, starts, starts + lengths


def case(
    seed: int, vocab: int | None = None, longest: int = 12, requests: int | None = None
) -> tuple[np.ndarray, Processing, dict[str, Any]]:
    """(logits, what is asked for, the drafts' arguments)."""
    rng = np.random.default_rng(seed)
    vocab = int(rng.choice([1, 2, 5, 40, 300])) if vocab is None else vocab
    requests, width = int(rng.integers(1, 4)) if requests is None else requests, int(rng.integers(1, 5))
    shape = str(rng.choice(["plain", "chain", "tree", "ragged"]))
    x = (rng.standard_normal((requests, width, vocab)) * rng.choice([1e-38, 1, 4])).astype(F32)
    x[rng.random(x.shape) < 0.03] = rng.choice(F32([0.0, -0.0, -np.inf, 1e-45]))
    how: dict[str, Any] = {}
    if shape == "plain":
        x = x[:, 0]
    else:
        drafted = width if shape == "tree" else width - 1
        how["draft_tokens"] = rng.integers(-1, vocab, (requests, drafted))
        if shape == "tree":
            parents = rng.integers(-1, width, (requests, width))
            how["parents"] = np.minimum(parents, np.arange(width) - rng.integers(0, 2))
        if shape == "ragged":
            offsets = np.cumsum(rng.integers(0, width + 1, requests + 1)) - rng.integers(0, 2)
            x, how["row_offsets"] = x.reshape(-1, vocab), offsets.astype(rng.choice([np.int32, np.int64]))
    kind = str(rng.choice(["table", "triple"]))
    asked: dict[str, Any] = {
        name: ids(rng, requests, int(rng.integers(1, longest)), vocab, kind)
        for name in arguments.LISTS
        if rng.random() < (0.25 if name == "only" else 0.7)
    }
    if "bias" in asked:
        where = asked["bias"][0] if isinstance(asked["bias"], tuple) else asked["bias"]
        asked["bias_values"] = (rng.standard_normal(where.shape) * 3).astype(F32)
    if rng.random() < 0.7:
        words = rng.integers(0, max(1, vocab // 3), (requests, int(rng.integers(1, 5)), int(rng.integers(1, 4))))
        words[rng.random(words.shape) < 0.2] = -1
        asked["bad_words"] = words.astype(rng.choice([np.int32, np.int64]))
    convention = str(rng.choice(list(CONVENTIONS)))
    penalties = {"repetition": [1.0, 1.3, 0.7, 3], "frequency": [0.0, 0.1, -0.7], "presence": [0, 1.7, -0.3]}
    for name, choices in penalties.items():
        if name == "repetition" or convention != "transformers":
            value = rng.choice(F32(choices), requests)
            asked[f"{name}_penalty"] = float(value[0]) if rng.random() < 0.5 else value
    asked["min_length"] = rng.integers(0, longest, requests) if rng.random() < 0.5 else int(rng.integers(0, longest))
    return x, Processing(convention, **asked), how


def tensors(value: Any) -> Any:
    """What a case is made of, on the device of the kernels."""
    if isinstance(value, Processing):
        given = {field.name: tensors(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **given)
    if isinstance(value, tuple):
        return tuple(map(tensors, value))
    return {name: tensors(x) for name, x in value.items()} if isinstance(value, dict) else on_device(value)


def by_kernel(x: np.ndarray, asked: Processing, how: dict[str, Any]) -> np.ndarray:
    """The logits as the kernel changes them in place."""
    from detsample.processing import on_gpu

    prepare_interpreter()
    logits, given = on_device(x.copy()), tensors(how)
    on_gpu.process(
        arguments.read(
            logits, frameworks.of(logits), tensors(asked), given.get("draft_tokens"), given.get("parents"),
            given.get("row_offsets"),
        )
    )  # fmt: skip
    return np.asarray(to_array(logits))
