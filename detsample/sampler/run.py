"""Serves one checked call on the device of its logits. `sample`, `mask`, `margin` and everything else that draws goes
through here.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from types import ModuleType

from detsample.frameworks import Device
from detsample.sampler.output import SampleOutput, Wanted
from detsample.sampler.parameters import Logits, Parameters


def run(logits: Logits, parameters: Parameters, wanted: Wanted) -> SampleOutput:
    """Draw a token for each row, or find the set that it would be drawn from.

    Parameters
    ----------
    logits, parameters
        Checked by `detsample.sampler.parameters`.
    wanted
        Which results to make. The others are None, or their values mean nothing.
    """
    return serving("detsample.sampler", logits.device).run(logits, parameters, wanted)


def serving(package: str, device: Device) -> ModuleType:
    """Return the module of a package that serves its calls on a device: `on_gpu`, which launches kernels, or `on_cpu`,
    which calls the reference.

    The two modules have the same functions, and this is the only place that chooses between them. Without a GPU no
    kernel is imported.
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
            "tensors on a GPU need Triton, which is not installed: pip install 'detsample[gpu]'; torch's builds for "
            "GPUs bring it, Paddle's do not"
        ) from error
