"""Makes the test vectors of a contract from the reference: ``python make_vectors.py > contract-1.json``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import cases

from detsample import reference

SIZES = (1, 2, 3, 7, 31, 32, 33, 64, 100, 257)
ROWS = 8


def words(array: np.ndarray) -> list[str]:
    """fp32 numbers or 32-bit words as eight hex digits each."""
    return [f"{word:08x}" for word in np.ascontiguousarray(array).view(np.uint32).tolist()]


def batch(V: int) -> list[dict[str, object]]:
    """Rows of as many kinds, with the reference's results."""
    rng = np.random.default_rng(1_000_000 + V)
    kinds = rng.choice(sorted(cases.CASES), ROWS)
    logits = np.concatenate([np.asarray(cases.CASES[kind](rng, 1, V), np.float32) for kind in kinds])
    given = cases.parameters(rng, ROWS, V)
    out = reference.sample(logits, **given, return_log_z=True, return_mask="bits")
    return [
        {
            "logits": words(logits[row]),
            "temperature": words(given["temperature"][row : row + 1])[0],
            "top_k": int(given["top_k"][row]),
            "top_p": words(given["top_p"][row : row + 1])[0],
            "min_p": words(given["min_p"][row : row + 1])[0],
            "topp_seed": int(given["topp_seed"][row]),
            "position": int(given["position"][row]),
            "token_id": int(out.token_ids[row]),
            "num_kept": int(out.num_kept[row]),
            "status": int(out.status[row]),
            "logprob": words(out.logprobs[row : row + 1])[0],
            "log_z": words(out.log_z[row : row + 1])[0],
            "mask": words(out.mask[row]),
        }
        for row in range(ROWS)
    ]


if __name__ == "__main__":
    rows = [row for V in SIZES for row in batch(V)]
    print(f'{{"contract": {reference.CONTRACT_VERSION}, "rows": [')
    print(",\n".join(json.dumps(row) for row in rows))  # one row a line
    print("]}")
