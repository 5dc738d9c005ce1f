"""`draft`: drafted tokens drawn with the noise that the target will draw with."""

from __future__ import annotations

from typing import Any

from detsample import frameworks
from detsample.frameworks.recording import unrecorded
from detsample.sampler.output import Wanted
from detsample.sampler.parameters import read_draw, read_flag, read_logits, read_parameters, refuse_shared_noise
from detsample.sampler.run import run, serving
from detsample.speculative.arguments import Sampling, read_batch
from detsample.speculative.output import DraftOutput


@unrecorded
def draft(
    logits: Any,
    topp_seed: Any,
    *,
    position: Any,
    temperature: Any = 1.0,
    top_k: Any = 0,
    top_p: Any = 1.0,
    min_p: Any = 0.0,
    filter_order: str = "top_k_first",
    return_logprobs: bool = False,
    shared_noise: bool = False,
) -> DraftOutput:
    """Draw tokens from a drafter's logits with the noise of the request's own seed and positions.

    The target will draw with the same noise. The larger it is for a token, the more the two are drawn to the same one:
    drafter and target, of distributions q and p, agree with probability ``sum_i 1 / sum_j max(p_j / p_i, q_j / q_i)``,
    which is at least ``(1 - TV) / (1 + TV)`` with their total variation distance TV (Daliri, Musco and Suresh,
    "Coupling without communication and drafter-invariant speculative decoding", arXiv:2408.07978). With other noise
    it would be ``sum_i p_i q_i``. Give the drafter the target's temperature and filters: what makes q like p helps.

    For ``verify(method="match")`` and `verify_tree` only. A p/q rule assumes that its coins and its residual noise know
    nothing of the draft; see docs/speculative.md.

    Parameters
    ----------
    logits : [B, V] or [B, K, V] fp32, bf16 or fp16
        The drafter's: of one position, or of K positions at once as parallel heads make them. K may be 0, as it may
        for `verify`: nothing is drawn.
    topp_seed, temperature, top_k, top_p, min_p : numbers, or [B] or [B, 1]
        As for `detsample.sample`, one for each request.
    filter_order : "top_k_first", "min_p_first" or "joint"
        As for `detsample.sample`.
    position : int, or [B] or [B, 1] int64 or int32
        Absolute index of the first token to draw; K positions follow one another.
    return_logprobs : bool
        Whether to return log probabilities.
    shared_noise : bool
        As for `verify`.

    Returns
    -------
    DraftOutput
        [B] or [B, K], tensors of the logits' framework on the logits' device.

    Raises
    ------
    TypeError, ValueError
        As `detsample.sample`.

    Examples
    --------
    >>> import numpy as np
    >>> logits = np.zeros((2, 3, 100), np.float32)
    >>> tokens = draft(logits, np.array([7, 8]), position=20).token_ids
    >>> int(tokens[1, 2]) == int(draft(logits[1:, 2], 8, position=22).token_ids[0])
    True
    """
    framework = frameworks.of(logits, "logits")
    shape, logprobs = framework.shape(logits), read_flag("return_logprobs", return_logprobs)
    sampling = (topp_seed, position, temperature, top_k, top_p, min_p, filter_order)
    if len(shape) != 3:
        of, given = read_draw(logits, *sampling, None, shared_noise)
        out = run(of, given, Wanted(True, logprobs, False, None, num_kept=False))
        return DraftOutput(out.token_ids, out.status, out.logprobs, out)
    if shape[1] == 0:
        return _nothing(logits, sampling, shared_noise, logprobs)
    batch = read_batch("logits", logits, shape[:2], ("K", shape[1], 0), None, sampling, shared_noise)
    out = serving("detsample.speculative", batch.logits.device).draw(batch, logprobs)
    shaped = [None if t is None else t.reshape(shape[:2]) for t in (out.token_ids, out.status, out.logprobs)]
    return DraftOutput(shaped[0], shaped[1], shaped[2], out)


def _nothing(logits: Any, sampling: Sampling, shared_noise: bool, return_logprobs: bool) -> DraftOutput:
    """The result without tokens for B requests, after the arguments have been checked."""
    framework = frameworks.of(logits, "logits")
    requests, _, vocab = framework.shape(logits)
    device = framework.device(logits)
    none = read_logits(framework.empty((0, vocab), framework.dtype_name(logits), device), framework)
    refuse_shared_noise(read_parameters(none._replace(rows=requests), *sampling), requests, "request", shared_noise)
    shape = (requests, 0)
    logprobs = framework.empty(shape, "float32", device) if return_logprobs else None
    return DraftOutput(framework.empty(shape, "int64", device), framework.empty(shape, "int32", device), logprobs)
