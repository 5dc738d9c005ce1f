"""Other samplers on the same inputs, if they can be imported."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch

from detsample.bench.cases import OFF, TOKEN_ONLY, arguments


def torch_sort(setting: dict[str, Any]) -> Callable[[Any], Any] | None:
    """The usual reference in torch: sort, cumulative sum, multinomial."""
    if setting.get("top_p") is None or setting.get("top_k") or setting.get("min_p"):
        return None

    def call(x: Any) -> Any:
        values, order = torch.sort(x, dim=-1, descending=True)
        p = torch.softmax(values, dim=-1)
        p = torch.where(torch.cumsum(p, dim=-1) - p < setting["top_p"], p, 0.0)
        noise = torch.empty_like(p).exponential_()
        return order.gather(-1, (p / noise).argmax(-1, keepdim=True))

    return call


def flashinfer(setting: dict[str, Any], one_k: bool = False) -> Callable[[Any], Any] | None:
    """FlashInfer's samplers, from logits; with `one_k` only its faster function for one top-k for all rows."""
    try:
        import flashinfer.sampling as sampling  # type: ignore[import-not-found]
    except ImportError:
        return None
    k, p, min_p = (setting.get(name) for name in ("top_k", "top_p", "min_p"))
    if (k and min_p) or (one_k and not k):
        return None
    if k:
        # Made and kept here, so that the graph that is timed does not make them.
        per_row = cache(lambda rows: k if one_k else torch.full((rows,), k, dtype=torch.int32, device="cuda"))
        return lambda x: sampling.top_k_top_p_sampling_from_logits(x.float(), per_row(len(x)), p or 1.0)
    if p:
        return lambda x: sampling.top_p_sampling_from_probs(sampling.softmax(x.float()), p)
    if min_p:
        return lambda x: sampling.min_p_sampling_from_probs(sampling.softmax(x.float()), min_p)
    return (lambda x: sampling.sampling_from_logits(x.float())) if setting == TOKEN_ONLY else None


def vllm(setting: dict[str, Any]) -> Callable[[Any], Any] | None:
    """vLLM's own kernels as its second runner calls them: filters that a row uses mask a copy of the logits, and making
    the copy is part of the time; then Gumbel noise draws.
    """
    try:
        from vllm.v1.sample.ops.topk_topp_triton import apply_top_k_top_p_triton
        from vllm.v1.worker.gpu.sample.gumbel import gumbel_sample
        from vllm.v1.worker.gpu.sample.min_p import apply_min_p
    except ImportError:
        return None

    @cache
    def given(rows: int, vocab: int) -> tuple[dict[str, Any], dict[str, Any]]:
        every = arguments(setting, rows)
        used = {name: every[name] if (every[name] != OFF[name]).any() else None for name in ("top_k", "top_p", "min_p")}
        if used["top_k"] is not None:
            used["top_k"] = used["top_k"].where(used["top_k"] > 0, vocab).int()
        return every, used

    def call(x: Any) -> Any:
        every, used = given(*x.shape)
        row = every["position"]
        if any(value is not None for value in used.values()):
            x = x.to(every["temperature"].dtype, copy=True)
        if used["min_p"] is not None:
            apply_min_p(x, row, used["min_p"])
        if used["top_k"] is not None or used["top_p"] is not None:
            x = apply_top_k_top_p_triton(x, used["top_k"], used["top_p"])
        return gumbel_sample(x, row, every["temperature"], row, row, False, False)

    return call


PEERS: dict[str, Callable[[dict[str, Any]], Callable[[Any], Any] | None]] = {
    "torch sort": torch_sort,
    "flashinfer": flashinfer,
    "flashinfer, one k": partial(flashinfer, one_k=True),
    "vllm, copy included": vllm,
}
