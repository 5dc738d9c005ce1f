"""The reference and its parts by name, and rows for them: what the tests/contract/test_reference_*.py files share."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

try:
    from detsample import reference
except ImportError:  # the specification runs without the package
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    import reference

FLT_MAX = np.finfo(np.float32).max
SMALLEST = np.float32(1e-45)


def part(name: str) -> ModuleType:
    """A module of the reference by name (the package's attribute ``mask`` is a function)."""
    return importlib.import_module(f"{reference.__name__}.{name}")


def as_bits(values: Any) -> list[int]:
    """float32 values as the integers of their bits."""
    return np.asarray(values, np.float32).view(np.uint32).tolist()


def same(one: Any, other: Any) -> bool:
    """Whether two outputs agree to the bit in every field."""
    pairs = [(getattr(one, name), getattr(other, name)) for name in vars(one)]
    for a, b in pairs:
        if isinstance(a, reference.Csr):
            a, b = np.append(a.row_offsets, a.token_ids), np.append(b.row_offsets, b.token_ids)
        if (a is None) != (b is None) or (a is not None and (a.dtype, a.tobytes()) != (b.dtype, b.tobytes())):
            return False
    return True


def rows_of_all_sorts(rows: int, vocab: int, seed: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Logits with ties, -0 and -inf, and parameters that differ from row to row, some not valid."""
    rng = np.random.default_rng(seed)
    logits = (rng.standard_normal((rows, vocab)) * rng.choice([0.01, 1, 8], (rows, 1))).astype(np.float32)
    logits[::3] = np.round(logits[::3])
    logits[::5] = np.where(rng.random(logits[::5].shape) < 0.3, -np.inf, logits[::5])
    logits[rng.random(logits.shape) < 0.01] = -0.0
    logits[rng.random(rows) < 0.05, 0] = np.nan
    return logits, {
        "topp_seed": rng.integers(-(2**63), 2**63 - 1, rows),
        "position": rng.integers(0, 2**40, rows),
        "temperature": rng.choice(np.float32([0, 0.3, 1, 1.7, SMALLEST]), rows),
        "top_k": rng.choice([-1, 0, 1, 3, vocab // 16, vocab // 2, vocab - 1, vocab, 2**40], rows),
        "top_p": rng.choice(np.float32([-1, 0, 0.1, 0.9, 0.999, 1, 2, SMALLEST, np.nan]), rows),
        "min_p": rng.choice(np.float32([-1, 0, 0, 0, 0.01, 0.3, 1, 2, SMALLEST]), rows),
    }
