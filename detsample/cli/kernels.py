"""The Triton kernels, run on arrays: on a GPU, or in Triton's interpreter where there is none."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np

import detsample
from detsample import frameworks
from detsample.cli.cases import Case
from detsample.cli.digest import host_fields
from detsample.cli.gpu import Gpu
from detsample.sampler.output import Wanted

Fields = dict[str, np.ndarray]


@dataclass(frozen=True)
class OnGpu:
    """The kernels on a GPU, through the calls that users make."""

    gpu: Gpu

    rows = 4000
    vocabularies = (5, 64, 1000, 5000, 32000, 50257, 129280, 151936)
    dtypes = ("float32", "bfloat16", "float16")
    most = 1 << 21

    def __str__(self) -> str:
        return f"on the GPU with tensors of {self.gpu.name}"

    def sample(self, case: Case) -> Fields:
        """All results for a batch."""
        logits = self.gpu.tensor(case.logits, None if case.dtype == "float32" else case.dtype)
        parameters = {name: self.gpu.tensor(value) for name, value in case.parameters.items()}
        return host_fields(detsample.sample(logits, **parameters, return_log_z=True, return_mask="bits"))

    def gumbel_noise(self, seeds: np.ndarray, positions: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """The noise on its own."""
        return _fetched(detsample.gumbel_noise(*(self.gpu.tensor(x) for x in (seeds, positions, tokens))))

    def fold_in(self, seeds: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """Derived seeds."""
        return _fetched(detsample.fold_in(self.gpu.tensor(seeds), self.gpu.tensor(indices)))


@dataclass(frozen=True)
class InInterpreter:
    """The kernels' own source, statement by statement on the CPU: slow, so rows are few and short.

    Requires ``TRITON_INTERPRET=1`` before Triton is imported; see `interpreting`.
    """

    rows = 20
    vocabularies = (5, 37, 300, 1100)
    dtypes = ("float32", "float16")
    most = 1 << 12

    def __str__(self) -> str:
        return "in Triton's interpreter"

    def sample(self, case: Case) -> Fields:
        """All results for a batch."""
        from detsample.sampler import on_gpu
        from detsample.sampler.parameters import read_logits, read_parameters

        _mend_interpreter()
        array = case.logits.astype(case.dtype)
        logits = read_logits(array, frameworks.of(array, "logits"))
        parameters = read_parameters(logits, **case.parameters)
        with np.errstate(all="ignore"):  # The kernels also compute numbers that are not used.
            return host_fields(on_gpu.run(logits, parameters, Wanted(True, True, True, "bits")))

    def gumbel_noise(self, seeds: np.ndarray, positions: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """The noise on its own."""
        from detsample.noise import arguments, on_gpu

        _mend_interpreter()
        with np.errstate(all="ignore"):
            asked = arguments.read_noise(frameworks.of(tokens), seeds, positions, tokens)
            return _fetched(on_gpu.gumbel_noise(asked))

    def fold_in(self, seeds: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """Derived seeds."""
        from detsample.noise import arguments, on_gpu

        _mend_interpreter()
        with np.errstate(all="ignore"):
            asked = arguments.read_seeds(frameworks.of(seeds), ("cpu", 0), seeds, indices)
            return _fetched(on_gpu.fold_in(asked))


Kernels = OnGpu | InInterpreter


def triton_is_installed() -> bool:
    """Whether there is a Triton to run kernels with."""
    return find_spec("triton") is not None


def interpreting() -> bool:
    """Have Triton interpret kernels in this process. Return False if it is too late, because Triton is imported
    already.
    """
    if os.environ.get("TRITON_INTERPRET") != "1":
        if "triton" in sys.modules:
            return False
        os.environ["TRITON_INTERPRET"] = "1"
    return True


@cache
def _mend_interpreter() -> None:
    """Let Triton's interpreter work with NumPy 2.4. Up to Triton 3.6 it calls ``int()`` on arrays with one number,
    which NumPy 2.4 refuses. The interpreter patches Triton's language for every call of a kernel; this patches it once
    more afterwards.
    """
    from triton.runtime import interpreter

    patch: Any = getattr(interpreter, "_patch_lang_tensor", None)

    def patch_and_mend(tensor: Any, *scope: Any) -> None:
        patch(tensor, *scope)
        tensor.__index__ = lambda number: int(number.handle.data.item())

    if patch is not None:
        interpreter._patch_lang_tensor = patch_and_mend


def _fetched(tensor: Any) -> np.ndarray:
    return frameworks.of(tensor).fetch(tensor)
