"""One call, checked and served where its logits are: what `sample`, `mask`, `margin` and all that draws go through."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from types import ModuleType

from detsample.frameworks import Device
from detsample.sampler.output import SampleOutput, Wanted
from detsample.sampler.parameters import Logits, Parameters


def run(logits: Logits, parameters: Parameters, wanted: Wanted) -> SampleOutput:
    """Draw a token a row, or find what it would be drawn from.

    Parameters
    ----------
    logits, parameters
        Checked by `detsample.sampler.parameters`.
    wanted
        Results to make; the others are None, or hold nothing of use.
    """
    return serving("detsample.sampler", logits.device).run(logits, parameters, wanted)


def serving(package: str, device: Device) -> ModuleType:
    """Return what serves a package's calls on a device: its `on_gpu`, by kernels, or its `on_cpu`, by the reference.

    The two have the same functions. Nobody else chooses between them, and who has no GPU imports no kernel.
    """
    return _module(package, device[0])


@cache
def _module(package: str, kind: str) -> ModuleType:
    try:
        return import_module(f"{package}.on_{kind}")
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] != "triton":
            raise
        raise ImportError(
            "tensors on a GPU need Triton, which is not installed: pip install 'detsample[gpu]'; torch's builds for GPUs "
            "bring it, Paddle's do not"
        ) from error
