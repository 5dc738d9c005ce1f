"""Digests of what the kernels make of some dozens of mixed rows, on a GPU or in Triton's interpreter:

    TRITON_INTERPRET=1 python tests/support/mixed_digest.py
"""

from __future__ import annotations

import hashlib
import json

import cases
import kernel_path
import numpy as np

SIZES = ((12, 5), (12, 33), (12, 700), (4, 2500))
SEED = 5  # has no row whose draw is not settled by bounds: the interpreter takes ten seconds for such


def digests() -> dict[str, str]:
    """By the size of the batch and the output, the digest of all its bits."""
    found = {}
    rng = np.random.default_rng(SEED)
    for rows, vocab in SIZES:
        logits, parameters = cases.mixed(rng, rows, vocab), cases.parameters(rng, rows, vocab)
        with np.errstate(all="ignore"):  # the kernels compute more than they use
            out = kernel_path.sample(logits, **parameters, return_log_z=True, return_mask="bits")
        for name in kernel_path.OUTPUTS:
            found[f"{name} of {rows} x {vocab}"] = hashlib.sha256(getattr(out, name).tobytes()).hexdigest()
    return found


if __name__ == "__main__":
    print(json.dumps(digests()))
