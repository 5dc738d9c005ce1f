"""Calls at random for the GPUs of fake_framework.py, and what they launch: for programs of test_launch.py."""

# ruff: noqa: F401

import itertools
import random
import threading

import fake_framework as fake
import triton
from fake_framework import COMPILED, FRAMEWORK, HERE, Driver, Tensor
from triton.runtime import driver

import detsample
from detsample.kernels.sampling import summarize as summarize_module
from detsample.launching import launch

VECTORS = {
    "topp_seed": ("int64", "int32"), "position": ("int64", "int32"), "top_k": ("int64", "int32"),
    "temperature": ("float32", "float64", "bfloat16"), "top_p": ("float32", "float16"), "min_p": ("float32", "float64"),
}
SCALARS = {"topp_seed": -5, "position": 2**40, "top_k": 2**40, "temperature": 0.5, "top_p": 0.25, "min_p": 0.125}


def case(number):
    """Keyword arguments of `sample` on GPU 0 or 1: types, strides, alignments, shapes and results at random."""
    rng = random.Random(number)
    rows, vocab, index = rng.choice([1, 2, 7]), rng.choice([1, 17, 160, 151936]), rng.randrange(2)
    row_stride = rng.choice([vocab, -(-vocab // 16) * 16, 2**31 - 1, 2**31, 2**33])
    dtype, offset = rng.choice([("float32", 4), ("bfloat16", 2), ("float16", 2)])
    address = 2**45 + rng.choice([0, 0, offset])
    given = {"logits": Tensor(address, (rows, vocab), (row_stride, 1), dtype, index)}
    for place, (name, types) in enumerate(VECTORS.items()):
        if rng.random() < 0.5:
            given[name] = SCALARS[name]
        else:
            at = 2**44 + 4096 * place + rng.choice([0, 0, 8])
            given[name] = Tensor(at, (rows,), (rng.choice([1, 3, 2**32]),), rng.choice(types), index)
    given["return_logprobs"], given["return_log_z"] = rng.random() < 0.5, rng.random() < 0.5
    given["return_mask"] = rng.choice([None, "bool", "bits", "csr"])
    given["shared_noise"] = True  # where seed and position are numbers, or may be
    return given


def launches(given):
    """What a call launches, its memory at the same addresses each time."""
    HERE.address = 1 << 40
    HERE.launched = []
    detsample.sample(**given)
    return HERE.launched


def ordinarily(given):
    alone, launch._launches_alone = launch._launches_alone, lambda: False
    try:
        return launches(given)
    finally:
        launch._launches_alone = alone


class Counting:
    """Counts the launches that Triton prepares."""

    def __init__(self):
        self.count, self.before = 0, launch.ordinary

    def __enter__(self):
        def counted(*arguments, **options):
            self.count += 1
            return self.before(*arguments, **options)

        launch.ordinary = counted
        return self

    def __exit__(self, *_):
        launch.ordinary = self.before
