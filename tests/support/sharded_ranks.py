"""One rank of a group of two processes on the CPU: `python sharded_ranks.py torch|paddle RANK SIZE PORT`.

It prints "equal" if every result has the bits of the unsharded rows, then the errors of ranks that disagree.
"""

from __future__ import annotations

import datetime
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import detsample
from detsample import sharded

Library = tuple[Any, Callable[[np.ndarray], Any], Callable[[Any], np.ndarray]]
VOCAB, CUT, ROWS = 1000, 389, 24


def torch_group(rank: int, size: int, port: int) -> Library:
    import torch
    import torch.distributed as distributed

    where, patience = f"tcp://127.0.0.1:{port}", datetime.timedelta(seconds=60)
    distributed.init_process_group("gloo", init_method=where, rank=rank, world_size=size, timeout=patience)
    return distributed.group.WORLD, torch.from_numpy, lambda tensor: tensor.numpy()


def paddle_group(rank: int, size: int, port: int) -> Library:
    import paddle
    import paddle.distributed as distributed

    ends = ",".join(f"127.0.0.1:{port + 1 + each}" for each in range(size))
    os.environ.update(
        PADDLE_TRAINER_ID=str(rank), PADDLE_TRAINERS_NUM=str(size), PADDLE_TRAINER_ENDPOINTS=ends,
        PADDLE_CURRENT_ENDPOINT=ends.split(",")[rank], PADDLE_MASTER=f"127.0.0.1:{port}",
        PADDLE_DISTRI_BACKEND="gloo",
    )  # fmt: skip
    paddle.set_device("cpu")
    distributed.init_parallel_env()
    return None, paddle.to_tensor, lambda tensor: tensor.numpy()


def same(found: Any, expected: Any, to_array: Callable[[Any], np.ndarray]) -> bool:
    """Whether all results that are there have the expected bits."""
    names = [name for name in vars(expected) if not name.startswith("_") and name != "mask"]
    pairs = [(getattr(found, name), getattr(expected, name)) for name in names]
    return all(y is None or to_array(x).tobytes() == y.tobytes() for x, y in pairs)


def error_of(call: Callable[[], object]) -> str:
    try:
        call()
    except ValueError as error:
        return str(error)
    return "none"


def main() -> None:
    library, rank, size, port = sys.argv[1], *map(int, sys.argv[2:])
    group, to_tensor, to_array = {"torch": torch_group, "paddle": paddle_group}[library](rank, size, port)
    rng = np.random.default_rng(1)
    logits = (rng.standard_normal((ROWS, VOCAB)) * 3).astype(np.float32)
    logits[3, 5], logits[4, 700], logits[5, :CUT], logits[6] = np.nan, np.inf, -np.inf, 0
    bounds = [0, CUT, *[VOCAB] * (size - 1)]
    mine = slice(bounds[rank], bounds[rank + 1])
    where = {"vocab_start": mine.start, "vocab": VOCAB, "group": group}
    seeds = rng.integers(-(2**62), 2**62, ROWS)
    own = to_tensor(np.ascontiguousarray(logits[:, mine]))
    for how in (
        {}, {"top_k": 40, "top_p": 0.9}, {"top_p": 0.95}, {"min_p": 0.05}, {"temperature": 0.0},
        {"top_k": 300, "top_p": 0.8},
        {"top_k": 40, "top_p": 0.5, "filter_order": "joint", "return_log_z": True}, {"return_log_z": True, "top_k": 3},
    ):  # fmt: skip
        expected = detsample.sample(logits, seeds, **how)
        assert same(sharded.sample(own, to_tensor(seeds), **how, **where), expected, to_array), how
    found = sharded.mask(own, top_p=0.7, check=False, **where)
    assert (to_array(found.mask) == detsample.mask(logits, top_p=0.7).mask[:, mine]).all()
    draft = np.tile(detsample.sample(logits, seeds).token_ids[:, None], (1, 2))[: ROWS // 3]
    how = {"position": 0, "top_p": 0.9}
    target = logits.reshape(ROWS // 3, 3, VOCAB)
    expected = detsample.speculative.verify(target, draft, 2, seeds[: ROWS // 3], **how)
    local = to_tensor(np.ascontiguousarray(target[:, :, mine]))
    drafts, own_seeds = to_tensor(draft), to_tensor(seeds[: ROWS // 3])
    assert same(sharded.verify(local, drafts, 2, own_seeds, **how, **where), expected, to_array)
    draws = sharded.plan(own, to_tensor(seeds), top_p=0.9, **where)
    assert same(draws(own), detsample.sample(logits, seeds, top_p=0.9), to_array)
    print("equal")
    print(error_of(lambda: sharded.sample(own[: 4 + rank], 1, shared_noise=True, **where)))
    print(error_of(lambda: sharded.sample(own, 1, shared_noise=True, **{**where, "vocab": VOCAB + rank})))
    print(error_of(lambda: sharded.sample(own, to_tensor(seeds), top_k=[5, to_tensor(seeds)][rank], **where)))
    print(error_of(lambda: sharded.sample(own, to_tensor(seeds), **{**where, "vocab_start": 7})))
    if library == "torch" and size > 1 and rank:  # this rank dies; the others wait no longer than the group allows
        sys.exit(0)
    if library == "torch" and size > 1:
        time.sleep(1)
        try:
            sharded.sample(own, to_tensor(seeds), **where)
        except RuntimeError:
            print("the group says that a rank is gone")


if __name__ == "__main__":
    main()
