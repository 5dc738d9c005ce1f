"""A million rows of all kinds, cut into 1 to 16 shards, beside whole rows: `python sharded_million.py [ROWS]`."""

from __future__ import annotations

import sys
import time

import cases
import numpy as np
import sharded_cases

import reference

BATCH = 4096


def main(rows: int) -> None:
    start, done, wrong, number = time.time(), 0, 0, 0
    kinds = sorted(cases.CASES)
    while done < rows:
        rng = np.random.default_rng(number)
        long = number % 16 == 0  # rows with more tokens than shards tell of at first are searched, which takes longer
        batch, vocab = (256, int(rng.integers(150, 400))) if long else (BATCH, int(rng.integers(1, 64)))
        logits = cases.CASES[kinds[number % len(kinds)]](rng, batch, vocab)
        how = {**cases.parameters(rng, batch, vocab), "return_log_z": bool(rng.integers(2))}
        how["filter_order"] = ("top_k_first", "min_p_first", "joint")[rng.integers(3)]
        expected = reference.sample(logits, **how)
        for found in reference.sharded.sample(sharded_cases.cut(rng, logits), **how):
            names = [name for name in sharded_cases.FIELDS if getattr(expected, name, None) is not None]
            pairs = [(getattr(found, name), getattr(expected, name)) for name in names]
            wrong += sum(int((x.view(f"i{x.itemsize}") != y.view(f"i{y.itemsize}")).sum()) for x, y in pairs)
        done, number = done + batch, number + 1
        if number % 40 == 0:
            print(f"{done} rows, {wrong} mismatches, {time.time() - start:.0f} s", flush=True)
    print(f"{done} rows, {wrong} mismatches, {time.time() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
