"""CPU tensors and arrays: brought to the NumPy reference and back."""

from __future__ import annotations

from typing import Any

import numpy as np

import detsample.reference as reference
from detsample.frameworks import Framework
from detsample.sampler.output import Csr, SampleOutput, Wanted
from detsample.sampler.parameters import Logits, Parameter, Parameters, Scalar


def run(logits: Logits, parameters: Parameters, wanted: Wanted) -> SampleOutput:
    """Serve a call with the reference; the results are tensors of the logits' framework."""
    framework = logits.framework
    values = framework.as_array(logits.tensor)
    given = as_arrays(framework, parameters)
    found: Any
    if wanted.token:
        found = reference.sample(
            values, **given, return_logprobs=wanted.logprobs, return_log_z=wanted.log_z, return_mask=wanted.mask
        )
    else:
        del given["topp_seed"], given["position"]
        found = reference.mask(values, **given, kind=wanted.mask or "bool", return_log_z=wanted.log_z)

    def tensor(result: np.ndarray | None) -> Any:
        return None if result is None else framework.from_array(result, logits.device)

    def mask(result: Any) -> Any:
        if isinstance(result, reference.Csr):
            return Csr(tensor(result.row_offsets), tensor(result.token_ids))
        return tensor(result)

    token_ids, logprobs = (tensor(found.token_ids), tensor(found.logprobs)) if wanted.token else (None, None)
    return SampleOutput(
        token_ids, tensor(found.num_kept), tensor(found.status), logprobs, tensor(found.log_z), mask(found.mask)
    )


def as_arrays(framework: Framework, parameters: Parameters) -> dict[str, Any]:
    """Parameters by name, as the reference takes them."""
    return {name: as_array(framework, parameter) for name, parameter in parameters._asdict().items()}


def as_array(framework: Framework, parameter: Parameter) -> Any:
    """A parameter as the reference takes it: a number or an array."""
    return parameter.value if isinstance(parameter, Scalar) else framework.as_array(parameter.tensor)
