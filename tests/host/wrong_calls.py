"""Calls that a type checker must refuse, marked as wrong, and some that it must take.

Never run: tests/host/test_types.py has mypy and pyright read it.
"""

import numpy as np
from typing_extensions import assert_type

import detsample

X = np.zeros((2, 9), np.float32)
SEEDS = np.arange(2)

assert_type(detsample.sample(X, SEEDS), detsample.SampleOutput[np.ndarray])
assert_type(detsample.sample([[0.0, 1.0]], 7), detsample.SampleOutput[np.ndarray])
assert_type(detsample.fold_in(7, 1), int)
assert_type(detsample.plan(X, SEEDS)(X), detsample.SampleOutput[np.ndarray])
assert_type(detsample.margin(X, SEEDS), detsample.MarginOutput[np.ndarray])
tokens: np.ndarray = detsample.sample(X, SEEDS, top_p=np.float32(0.9), temperature=np.ones(2)).token_ids
kept: np.ndarray = detsample.mask(X, top_k=2, kind="bits").mask
offsets: np.ndarray = detsample.mask(X, kind="csr").mask.row_offsets
noise: float = detsample.gumbel_noise(7, 0, 1)
more_noise: np.ndarray = detsample.gumbel_noise(7, 0, [1, 2])

detsample.sample("logits", 7)  # wrong
detsample.sample(X)  # wrong
detsample.sample(X, 0.5)  # wrong
detsample.sample(X, "7")  # wrong
detsample.sample(X, None)  # wrong
detsample.sample(X, 7, 5)  # wrong
detsample.sample(X, 7, topp=0.9)  # wrong
detsample.sample(X, 7, top_k=0.5)  # wrong
detsample.sample(X, 7, temperature="0.8")  # wrong
detsample.sample(X, 7, return_mask="dense")  # wrong
detsample.sample(X, 7, filter_order="top_p_first")  # wrong
detsample.sample(X, 7, check="yes")  # wrong
detsample.mask(X, kind=None)  # wrong
detsample.mask(X, 7)  # wrong
detsample.plan(X, SEEDS)([1.0])  # wrong
detsample.margin(X)  # wrong
detsample.fold_in(7)  # wrong
detsample.fold_in("7", 1)  # wrong
length: int = detsample.sample(X, SEEDS).token_ids  # wrong
