"""CPU tensors and arrays: brought to the NumPy reference and back."""

from __future__ import annotations

from typing import Any

import numpy as np

import detsample.reference as reference
from detsample.output import Csr, SampleOutput
from detsample.parameters import Logits, Parameter, Parameters, Scalar


def run(
    logits: Logits, parameters: Parameters, token: bool, logprobs: bool, log_z: bool, mask_kind: str | None
) -> SampleOutput:
    """Serve a call with the reference; the results are tensors of the logits' framework."""
    framework = logits.framework

    def array(parameter: Parameter) -> Any:
        return parameter.value if isinstance(parameter, Scalar) else framework.as_array(parameter.tensor)

    def tensor(result: np.ndarray | None) -> Any:
        return None if result is None else framework.from_array(result, logits.device)

    values = framework.as_array(logits.tensor)
    filters = {
        "temperature": array(parameters.temperature),
        "top_k": array(parameters.top_k),
        "top_p": array(parameters.top_p),
        "min_p": array(parameters.min_p),
    }
    if not token:
        found = reference.mask(values, **filters, kind=mask_kind or "bool", return_log_z=log_z)
        return SampleOutput(
            None, tensor(found.num_kept), tensor(found.status), None, tensor(found.log_z), _mask(found.mask, tensor)
        )
    out = reference.sample(
        values,
        array(parameters.topp_seed),
        position=array(parameters.position),
        **filters,
        return_logprobs=logprobs,
        return_log_z=log_z,
        return_mask=mask_kind,
    )
    return SampleOutput(
        tensor(out.token_ids),
        tensor(out.num_kept),
        tensor(out.status),
        tensor(out.logprobs),
        tensor(out.log_z),
        _mask(out.mask, tensor),
    )


def _mask(mask: Any, tensor: Any) -> Any:
    if mask is None or isinstance(mask, np.ndarray):
        return tensor(mask)
    return Csr(tensor(mask.row_offsets), tensor(mask.token_ids))
