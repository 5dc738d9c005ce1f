"""`margin`: how far the logits may move before a row's token could change (docs/margin.md)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import detsample.reference as reference
from detsample import frameworks
from detsample.sampler.on_cpu import as_arrays
from detsample.sampler.parameters import FILTER_ORDERS, Logits, Parameters, read_logits, read_parameters
from detsample.sampler.sample import sample
from detsample.sampler.status import raise_for_status


@dataclass(frozen=True)
class MarginOutput:
    """What `detsample.margin` returns.

    Attributes
    ----------
    token_ids : [B] int64
        The tokens that `detsample.sample` draws; ``-1`` in invalid rows.
    margin : [B] float32
        In the unit of the logits: at least 0; ``+inf`` where no motion changes the token; NaN in invalid rows.
    status : [B] int32
        0, or the sum of the `detsample.Status` bits that say why a row is invalid.
    """

    token_ids: Any
    margin: Any
    status: Any
    # See `SampleOutput`.
    _kept_alive: Any = field(default=None, repr=False, compare=False)


def margin(
    logits: Any,
    topp_seed: Any,
    *,
    position: Any = 0,
    temperature: Any = 1.0,
    top_k: Any = 0,
    top_p: Any = 1.0,
    min_p: Any = 0.0,
    check: bool = False,
) -> MarginOutput:
    """How far a row's logits may move before its token could change.

    Logits that are finite where the given ones are, ``-inf`` where those are, and nowhere further from them than
    ``margin``, give the same token. The margin is a sound bound, and the largest one up to rounding where top-p
    does not decide; docs/margin.md says what it is exactly. Its bits are the same on every device and in every
    framework.

    It costs some dozens of looks at each row and is meant for tests and inquiries, not for serving.

    Parameters
    ----------
    logits, topp_seed, position, temperature, top_k, top_p, min_p, check
        As for `detsample.sample`.

    Returns
    -------
    MarginOutput
        Tensors of the logits' framework on the logits' device. Nothing waits for the device, unless `check` does.

    Raises
    ------
    TypeError, ValueError
        As `detsample.sample`.

    Examples
    --------
    >>> import numpy as np
    >>> out = margin(np.array([[0.0, 1.0, 4.0, 3.0]], np.float32), 7, temperature=0)
    >>> out.token_ids, out.margin.round(6)
    (array([2]), array([0.5], dtype=float32))
    """
    framework = frameworks.of(logits, "logits")
    of = read_logits(logits, framework)
    given = read_parameters(of, topp_seed, position, temperature, top_k, top_p, min_p)
    filters = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    drawn = sample(logits, topp_seed, position=position, **filters, return_logprobs=False)
    on_gpu = framework.on_gpu(logits)
    found = on_device(of, given, drawn.token_ids, drawn.status) if on_gpu else _on_host(of, given)
    if check:
        raise_for_status(framework, drawn.status)
    return MarginOutput(drawn.token_ids, found, drawn.status, drawn._kept_alive)


def _on_host(logits: Logits, parameters: Parameters) -> Any:
    framework = logits.framework
    found = reference.margin(framework.as_array(logits.tensor), **as_arrays(framework, parameters))
    return framework.from_array(found.margin, logits.device)


SPAN, BITS = 128, 4
"""Tokens that a program looks at together, and bits of the margin that a look decides; no result depends on them."""


def on_device(
    logits: Logits, parameters: Parameters, token_ids: Any, status: Any, span: int = SPAN, bits: int = BITS
) -> Any:
    """Launch the kernel: one program a row.

    Parameters
    ----------
    logits, parameters
        Checked by `detsample.sampler.parameters`.
    token_ids, status
        Of the same call, from `detsample.sample`: int64 and int32 [B].
    span, bits
        See `SPAN`: a power of two, and 1, 2, 4 or 8.

    Returns
    -------
    [B] float32
        A tensor of the logits' framework on the logits' device, not yet computed.
    """
    from detsample.kernels.margin import margin as kernel
    from detsample.launching.launch import launcher
    from detsample.sampler.kernel_arguments import parameter_arguments

    framework = logits.framework
    result = framework.empty((logits.rows,), "float32", logits.device)
    if logits.rows:
        tokens, found = framework.argument(token_ids), framework.argument(result)
        arguments = parameter_arguments(parameters, framework, logits.device)
        with framework.launching(logits.device):
            launch = launcher(logits.device)
            launch(kernel, (logits.rows,),
                framework.argument(logits.tensor), logits.row_stride, logits.vocab,
                FILTER_ORDERS.index(parameters.filter_order), *arguments,
                tokens, framework.argument(status), found,
                SPAN=span, BITS=bits, num_warps=8, enable_fp_fusion=False,
            )  # fmt: skip
    return result
