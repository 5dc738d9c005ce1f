"""`sample` and `mask`: the two calls that this package is for."""

from __future__ import annotations

from typing import Any, Literal, overload

import numpy as np

from detsample.frameworks.recording import recording, untranslated
from detsample.frameworks.types import FilterOrder, Integer, MaskKind, Real, Rows, T
from detsample.sampler.now import mask_now, sample_now
from detsample.sampler.output import Csr, MaskOutput, SampleOutput


@overload
def sample(
    logits: np.ndarray | Rows, topp_seed: Integer | np.ndarray, *, position: Integer | np.ndarray = 0,
    temperature: Real | np.ndarray = 1.0, top_k: Integer | np.ndarray = 0, top_p: Real | np.ndarray = 1.0,
    min_p: Real | np.ndarray = 0.0, filter_order: FilterOrder = "top_k_first", allowed: np.ndarray | None = None,
    return_logprobs: bool = True, return_log_z: bool = False, return_mask: MaskKind | None = None,
    return_num_kept: bool = True, shared_noise: bool = False, check: bool = False,
) -> SampleOutput[np.ndarray]: ...  # fmt: skip


@overload
def sample(
    logits: T, topp_seed: Integer | T, *, position: Integer | T = 0, temperature: Real | T = 1.0,
    top_k: Integer | T = 0, top_p: Real | T = 1.0, min_p: Real | T = 0.0, filter_order: FilterOrder = "top_k_first",
    allowed: T | None = None, return_logprobs: bool = True, return_log_z: bool = False,
    return_mask: MaskKind | None = None, return_num_kept: bool = True, shared_noise: bool = False, check: bool = False,
) -> SampleOutput[T]: ...  # fmt: skip


@untranslated
def sample(
    logits: Any,
    topp_seed: Any,
    *,
    position: Any = 0,
    temperature: Any = 1.0,
    top_k: Any = 0,
    top_p: Any = 1.0,
    min_p: Any = 0.0,
    filter_order: FilterOrder = "top_k_first",
    allowed: Any = None,
    return_logprobs: bool = True,
    return_log_z: bool = False,
    return_mask: MaskKind | None = None,
    return_num_kept: bool = True,
    shared_noise: bool = False,
    check: bool = False,
) -> SampleOutput[Any]:
    """Draw one token for each row. The same inputs give the same bits, wherever it runs.

    A row's results depend on its own logits and parameters only (docs/contract/). Tensors on a GPU are sampled by
    Triton kernels, on their own device and on their framework's current stream, and the call does not wait for them.
    CPU tensors and arrays are sampled by the NumPy reference.

    Parameters
    ----------
    logits : [B, V] fp32, bf16 or fp16
        A Paddle tensor, a torch tensor or a NumPy array, ``1 <= V <= 2**21``, any row stride. Never written to.
        ``-inf`` excludes a token. A single row [V] counts as [1, V]. Lists of numbers are taken as well, and on the
        host fp64 that holds fp32 numbers.
    topp_seed : int, or [B] or [B, 1] int64, int32, uint64 or uint32
        Which noise the row draws with: any 64 bits. A request has a seed of its own, and keeps it.
    position : int, or [B] or [B, 1] int64 or int32
        The index, from 0, of the token being drawn in its sequence. The noise depends on seed, position and token id
        only.
    temperature : float, or [B] or [B, 1] floating
        ``0`` is greedy. Rounded to fp32, as `top_p` and `min_p` are.
    top_k : int, or [B] or [B, 1] int64 or int32
        Keep exactly the k largest logits, and of equal ones the lowest ids; off if ``<= 0`` or ``>= V``.
    top_p : float, or [B] or [B, 1] floating
        Keep the fewest tokens, in falling order of their logits, that have at least this share of the weight.
        `filter_order` says of which tokens' weight. Off at 1; only the first token is kept if ``<= 0``. A number above
        1 is refused; in a vector it means off.
    min_p : float, or [B] or [B, 1] floating
        Keep the tokens whose probability is at least this fraction of the largest one; off if ``<= 0``. A number above
        1 is refused; in a vector it counts as 1.
    filter_order : "top_k_first", "min_p_first" or "joint"
        Which tokens' weight top-p takes its share of: of those that top-k keeps, of those that top-k and min-p keep, or
        of all tokens.
    allowed : None, or [B, ceil(V / 32)] int32 or uint32, or [B, ceil(V / 8)] uint8
        For each row the tokens that may be drawn: one bit for each token, the lowest first, as in a mask of the form
        ``"bits"``. A token whose bit is 0 counts as if its logit were ``-inf``.
    return_logprobs : bool
        Whether to return the token's log probability in the kept set.
    return_log_z : bool
        Whether to return the log of the share of the full softmax that the kept set has.
    return_mask : None, "bool", "bits" or "csr"
        The form in which to return the kept set. On a GPU, ``"csr"`` waits for the device once, to learn the size,
        unless `top_k` is one number for all rows. Nothing else waits, except `check`.
    return_num_kept : bool
        Whether to return how many tokens are kept. If neither this nor log probabilities nor a mask are asked for, the
        kernels may know the token of a row with top-p alone before its kept set, and are quicker then.
    shared_noise : bool
        Whether several rows may draw with the same noise. By default a single `topp_seed` together with a single
        `position` is refused for several rows; `fold_in` makes a seed for each.
    check : bool
        Whether to wait for the device and raise if a row is invalid. Otherwise such a row has token -1 and a status,
        and does not affect other rows.

    Returns
    -------
    SampleOutput
        Tensors of the logits' framework on the logits' device.

    Raises
    ------
    TypeError, ValueError
        If an argument is wrong, as far as the host can see; the message names the argument, what was expected and what
        came. With `check`, also if a row is invalid.

    Examples
    --------
    >>> import numpy as np
    >>> logits = np.array([[0.0, 1.0, 2.0, 3.0]], np.float32)
    >>> out = sample(logits, 7, top_k=2)
    >>> out.token_ids, out.num_kept
    (array([3]), array([2], dtype=int32))
    """
    given = (
        logits, topp_seed, position, temperature, top_k, top_p, min_p, filter_order, allowed, return_logprobs,
        return_log_z, return_mask, return_num_kept, shared_noise, check,
    )  # fmt: skip
    if recording():
        from detsample.sampler import recorded

        return recorded.sample(*given)
    return sample_now(*given)


@overload
def mask(
    logits: np.ndarray | Rows, *, temperature: Real | np.ndarray = 1.0, top_k: Integer | np.ndarray = 0,
    top_p: Real | np.ndarray = 1.0, min_p: Real | np.ndarray = 0.0, filter_order: FilterOrder = "top_k_first",
    allowed: np.ndarray | None = None, kind: Literal["bool", "bits"] = "bool", return_log_z: bool = False,
    check: bool = False,
) -> MaskOutput[np.ndarray, np.ndarray]: ...  # fmt: skip


@overload
def mask(
    logits: np.ndarray | Rows, *, temperature: Real | np.ndarray = 1.0, top_k: Integer | np.ndarray = 0,
    top_p: Real | np.ndarray = 1.0, min_p: Real | np.ndarray = 0.0, filter_order: FilterOrder = "top_k_first",
    allowed: np.ndarray | None = None, kind: Literal["csr"], return_log_z: bool = False, check: bool = False,
) -> MaskOutput[np.ndarray, Csr[np.ndarray]]: ...  # fmt: skip


@overload
def mask(
    logits: T, *, temperature: Real | T = 1.0, top_k: Integer | T = 0, top_p: Real | T = 1.0, min_p: Real | T = 0.0,
    filter_order: FilterOrder = "top_k_first", allowed: T | None = None, kind: Literal["bool", "bits"] = "bool",
    return_log_z: bool = False, check: bool = False,
) -> MaskOutput[T, T]: ...  # fmt: skip


@overload
def mask(
    logits: T, *, temperature: Real | T = 1.0, top_k: Integer | T = 0, top_p: Real | T = 1.0, min_p: Real | T = 0.0,
    filter_order: FilterOrder = "top_k_first", allowed: T | None = None, kind: Literal["csr"],
    return_log_z: bool = False, check: bool = False,
) -> MaskOutput[T, Csr[T]]: ...  # fmt: skip


@untranslated
def mask(
    logits: Any,
    *,
    temperature: Any = 1.0,
    top_k: Any = 0,
    top_p: Any = 1.0,
    min_p: Any = 0.0,
    filter_order: FilterOrder = "top_k_first",
    allowed: Any = None,
    kind: MaskKind = "bool",
    return_log_z: bool = False,
    check: bool = False,
) -> MaskOutput[Any, Any]:
    """The set of tokens that `sample` would draw from, without a draw.

    Parameters
    ----------
    logits, temperature, top_k, top_p, min_p, filter_order, allowed, return_log_z, check
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
    given = (logits, temperature, top_k, top_p, min_p, filter_order, allowed, kind, return_log_z, check)
    if recording():
        from detsample.sampler import recorded

        return recorded.mask(*given)
    return mask_now(*given)
