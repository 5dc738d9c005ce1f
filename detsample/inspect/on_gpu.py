"""`margin` on a GPU: one launch, one program a row."""

from __future__ import annotations

from typing import Any

from detsample.kernels.margin import margin as kernel
from detsample.launching.launch import launcher
from detsample.sampler.kernel_arguments import parameter_arguments
from detsample.sampler.parameters import FILTER_ORDERS, Logits, Parameters

SPAN, BITS = 128, 4


def margin(logits: Logits, parameters: Parameters, token_ids: Any, status: Any) -> Any:
    """Launch the kernel.

    Parameters
    ----------
    logits, parameters
        Checked by `detsample.sampler.parameters`.
    token_ids, status
        From `detsample.sample` with the same arguments: int64 and int32 [B].

    Returns
    -------
    [B] float32
        A tensor of the logits' framework on the logits' device, not yet computed.
    """
    return launch(logits, parameters, token_ids, status, SPAN, BITS)


def launch(logits: Logits, parameters: Parameters, token_ids: Any, status: Any, span: int, bits: int) -> Any:
    """See `margin`; no result depends on the last two.

    Parameters
    ----------
    span
        How many tokens a program looks at together: a power of two.
    bits
        How many bits of the margin a look at a row decides: 1, 2, 4 or 8.
    """
    framework = logits.framework
    result = framework.empty((logits.rows,), "float32", logits.device)
    if logits.rows:
        with framework.launching(logits.device):
            launcher(logits.device)(kernel, (logits.rows,),
                framework.argument(logits.tensor), logits.row_stride, logits.vocab,
                FILTER_ORDERS.index(parameters.filter_order),
                *parameter_arguments(parameters, framework, logits.device),
                framework.argument(token_ids), framework.argument(status), framework.argument(result),
                SPAN=span, BITS=bits, num_warps=8, enable_fp_fusion=False,
            )  # fmt: skip
    return result
