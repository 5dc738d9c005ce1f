"""Serves CPU tensors and arrays: turns them into arrays for the NumPy reference, and its results back into tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

import detsample.reference as reference
from detsample.frameworks import Device, Framework
from detsample.sampler.output import Csr, SampleOutput, Wanted
from detsample.sampler.parameters import Logits, Parameter, Parameters, Scalar


def run(logits: Logits, parameters: Parameters, wanted: Wanted) -> SampleOutput:
    """Serve a call with the reference; the results are tensors of the logits' framework."""
    return draw(logits, as_arrays(logits.framework, parameters), wanted)


def planned(logits: Logits, parameters: Parameters, wanted: Wanted) -> Callable[[Any, Any], SampleOutput]:
    """Return the function that serves calls which differ in their logits only. It takes the logits and, for kernels,
    their address.
    """
    return lambda tensor, _pointer: run(logits._replace(tensor=tensor), parameters, wanted)


def draw(logits: Logits, given: dict[str, Any], wanted: Wanted) -> SampleOutput:
    """Serve a call whose parameters are numbers and arrays."""
    framework = logits.framework
    values = framework.as_array(logits.tensor)
    given = {**given, "allowed": None if logits.allowed is None else framework.as_array(logits.allowed.tensor)}
    found: Any
    if wanted.token:
        found = reference.sample(
            values, **given, return_logprobs=wanted.logprobs, return_log_z=wanted.log_z, return_mask=wanted.mask
        )
    else:
        given = {name: value for name, value in given.items() if name not in ("topp_seed", "position")}
        found = reference.mask(values, **given, kind=wanted.mask or "bool", return_log_z=wanted.log_z)

    out = as_output(framework, logits.device, found)
    return out if wanted.num_kept else replace(out, num_kept=None)


def as_output(framework: Framework, device: Device, found: Any) -> SampleOutput:
    """The reference's output of `sample` or `mask`, with tensors."""

    def tensor(result: np.ndarray | None) -> Any:
        return None if result is None else framework.from_array(result, device)

    def mask(result: Any) -> Any:
        if isinstance(result, reference.Csr):
            return Csr(tensor(result.row_offsets), tensor(result.token_ids))
        return tensor(result)

    token_ids, logprobs = (tensor(getattr(found, name, None)) for name in ("token_ids", "logprobs"))
    return SampleOutput(
        token_ids, tensor(found.num_kept), tensor(found.status), logprobs, tensor(found.log_z), mask(found.mask)
    )


def as_arrays(framework: Framework, parameters: Parameters) -> dict[str, Any]:
    """Parameters by name, as the reference takes them."""
    *vectors, _ = parameters._asdict().items()
    return {**{name: as_array(framework, x) for name, x in vectors}, "filter_order": parameters.filter_order}


def as_array(framework: Framework, parameter: Parameter) -> Any:
    """A parameter as the reference takes it: a number or an array."""
    if isinstance(parameter, str):
        return parameter
    return parameter.value if isinstance(parameter, Scalar) else framework.as_array(parameter.tensor)
