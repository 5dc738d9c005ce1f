"""`sample` and `mask`: the two calls that this package is for."""

from __future__ import annotations

from typing import Any

from detsample.frameworks.recording import recording
from detsample.reference.float_mode import usual_mode
from detsample.sampler.output import MaskOutput, SampleOutput, Wanted
from detsample.sampler.parameters import read_draw, read_flag, read_mask_kind, read_wanted
from detsample.sampler.run import run
from detsample.sampler.status import raise_for_status


@usual_mode
def sample(
    logits: Any,
    topp_seed: Any,
    *,
    position: Any = 0,
    temperature: Any = 1.0,
    top_k: Any = 0,
    top_p: Any = 1.0,
    min_p: Any = 0.0,
    filter_order: str = "top_k_first",
    return_logprobs: bool = True,
    return_log_z: bool = False,
    return_mask: str | None = None,
    shared_noise: bool = False,
    check: bool = False,
) -> SampleOutput:
    """Draw one token a row; the same bits in give the same bits out, wherever it runs.

    A row's results depend on its logits and its own parameters alone (docs/spec.md). GPU tensors are sampled by
    Triton kernels on the tensor's own device and on its framework's current stream, without waiting for the
    device; CPU tensors and arrays by the NumPy reference.

    Parameters
    ----------
    logits : [B, V] fp32, bf16 or fp16
        A Paddle tensor, a torch tensor or a NumPy array, ``1 <= V <= 2**21``, any row stride. Never written to.
        ``-inf`` excludes a token.
    topp_seed : int, or [B] or [B, 1] int64, int32, uint64 or uint32
        Which stream of noise the row draws from: any 64 bits.
    position : int, or [B] or [B, 1] int64 or int32
        Absolute index, from 0, of the token being drawn in its sequence. The noise is a function of seed,
        position and token id.
    temperature : float, or [B] or [B, 1] floating
        ``0`` is greedy. Rounded to fp32, as `top_p` and `min_p` are.
    top_k : int, or [B] or [B, 1] int64 or int32
        Keep exactly the first k tokens; off if ``<= 0`` or ``>= V``.
    top_p : float, or [B] or [B, 1] floating
        Keep the shortest prefix that has at least this share of the weight, of which tokens `filter_order` says; off
        at 1, the first token alone if ``<= 0``. A number above 1 is refused; in a vector it is off, too.
    min_p : float, or [B] or [B, 1] floating
        Keep tokens at least this probable relative to the most probable one; off if ``<= 0``. A number above 1 is
        refused; in a vector it is 1.
    filter_order : "top_k_first", "min_p_first" or "joint"
        Of whose weight top-p takes its share: of the survivors of top-k, of those of top-k and min-p, or of all tokens.
    return_logprobs : bool
        Whether to return the token's log probability in the kept set.
    return_log_z : bool
        Whether to return the log of the kept mass of the full softmax.
    return_mask : None, "bool", "bits" or "csr"
        The form in which to return the kept set. ``"csr"`` on a GPU with a `top_k` that is not one number for
        all rows waits for the device once, to learn the size; nothing else does, but for `check`.
    shared_noise : bool
        Whether rows are meant to draw with the same noise. Otherwise a single `topp_seed` together with a single
        `position` is refused for several rows: `fold_in` makes a seed for each.
    check : bool
        Wait for the device and raise if a row is invalid. Otherwise such a row has token -1 and a status, and
        harms no other.

    Returns
    -------
    SampleOutput
        Tensors of the logits' framework on the logits' device.

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what was expected and what came, for all that the host can see; with `check`, for
        invalid rows.

    Examples
    --------
    >>> import numpy as np
    >>> logits = np.array([[0.0, 1.0, 2.0, 3.0]], np.float32)
    >>> out = sample(logits, 7, top_k=2)
    >>> out.token_ids, out.num_kept
    (array([3]), array([2], dtype=int32))
    """
    given = (
        logits, topp_seed, position, temperature, top_k, top_p, min_p, filter_order, return_logprobs, return_log_z,
        return_mask, shared_noise, check,
    )  # fmt: skip
    if recording():
        from detsample.integrations import torch_ops

        return torch_ops.sample(*given)
    return sample_now(*given)


def sample_now(
    logits: Any, topp_seed: Any, position: Any, temperature: Any, top_k: Any, top_p: Any, min_p: Any, filter_order: str,
    return_logprobs: bool, return_log_z: bool, return_mask: str | None, shared_noise: bool, check: bool,
) -> SampleOutput:  # fmt: skip
    """`sample`, where nobody is recording it."""
    wanted, wait = read_wanted(return_logprobs, return_log_z, return_mask), read_flag("check", check)
    of, given = read_draw(logits, topp_seed, position, temperature, top_k, top_p, min_p, filter_order, shared_noise)
    out = run(of, given, wanted)
    if wait:
        raise_for_status(out.status)
    return out


@usual_mode
def mask(
    logits: Any,
    *,
    temperature: Any = 1.0,
    top_k: Any = 0,
    top_p: Any = 1.0,
    min_p: Any = 0.0,
    filter_order: str = "top_k_first",
    kind: str = "bool",
    return_log_z: bool = False,
    check: bool = False,
) -> MaskOutput:
    """The set of tokens that `sample` would draw from, without a draw.

    Parameters
    ----------
    logits, temperature, top_k, top_p, min_p, filter_order, return_log_z, check
        As for `sample`.
    kind : "bool", "bits" or "csr"
        The form of the mask: [B, V] bool, [B, ceil(V / 32)] int32 with the lowest bit first, or `Csr`.

    Returns
    -------
    MaskOutput
        Tensors of the logits' framework on the logits' device.

    Raises
    ------
    TypeError, ValueError
        As `sample`.

    Examples
    --------
    >>> import numpy as np
    >>> mask(np.array([[0.0, 3.0, 3.0, 3.0]], np.float32), top_k=2).mask
    array([[False,  True,  True, False]])
    """
    if recording():
        from detsample.integrations import torch_ops

        return torch_ops.mask(logits, temperature, top_k, top_p, min_p, filter_order, kind, return_log_z, check)
    return mask_now(logits, temperature, top_k, top_p, min_p, filter_order, kind, return_log_z, check)


def mask_now(
    logits: Any, temperature: Any, top_k: Any, top_p: Any, min_p: Any, filter_order: str, kind: str, return_log_z: bool,
    check: bool,
) -> MaskOutput:  # fmt: skip
    """`mask`, where nobody is recording it."""
    if read_mask_kind("kind", kind) is None:
        raise ValueError("kind must be 'bool', 'bits' or 'csr', got None")
    wanted, wait = Wanted(False, False, read_flag("return_log_z", return_log_z), kind), read_flag("check", check)
    of, given = read_draw(logits, 0, 0, temperature, top_k, top_p, min_p, filter_order, shared_noise=True)
    out = run(of, given, wanted)
    if wait:
        raise_for_status(out.status)
    return MaskOutput(out.mask, out.num_kept, out.status, out.log_z, out._kept_alive)
