"""Other samplers on the same inputs, if they can be imported."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from detsample.bench.cases import TOKEN_ONLY


def torch_sort(setting: dict[str, Any]) -> Callable[[Any], Any] | None:
    """The usual reference in torch: sort, cumulative sum, multinomial."""
    if setting.get("top_p") is None or setting.get("top_k") or setting.get("min_p"):
        return None

    def call(x: Any) -> Any:
        import torch

        values, order = torch.sort(x, dim=-1, descending=True)
        p = torch.softmax(values, dim=-1)
        p = torch.where(torch.cumsum(p, dim=-1) - p < setting["top_p"], p, 0.0)
        noise = torch.empty_like(p).exponential_()
        return order.gather(-1, (p / noise).argmax(-1, keepdim=True))

    return call


def _sampling() -> Any:
    """FlashInfer's samplers; None where it is not installed."""
    try:
        import flashinfer.sampling as sampling  # type: ignore[import-not-found]
    except ImportError:
        return None
    return sampling


def flashinfer(setting: dict[str, Any]) -> Callable[[Any], Any] | None:
    """FlashInfer's samplers, from logits."""
    sampling = _sampling()
    if sampling is None:
        return None
    if setting.get("top_k"):
        import torch

        # Made and kept here, so that the graph that is timed does not make them.
        per_row = cache(lambda rows: torch.full((rows,), setting["top_k"], dtype=torch.int32, device="cuda"))
        return lambda x: sampling.top_k_top_p_sampling_from_logits(x, per_row(x.shape[0]), setting["top_p"])
    if setting.get("top_p"):
        return lambda x: sampling.top_p_sampling_from_probs(sampling.softmax(x), setting["top_p"])
    if setting.get("min_p"):
        return lambda x: sampling.min_p_sampling_from_probs(sampling.softmax(x), setting["min_p"])
    return sampling.sampling_from_logits if setting == TOKEN_ONLY else None


def flashinfer_one_k(setting: dict[str, Any]) -> Callable[[Any], Any] | None:
    """FlashInfer's faster function, for a top-k that is one number for all rows."""
    sampling = _sampling()
    if sampling is None or not setting.get("top_k"):
        return None
    return lambda x: sampling.top_k_top_p_sampling_from_logits(x, setting["top_k"], setting["top_p"])


PEERS: dict[str, Callable[[dict[str, Any]], Callable[[Any], Any] | None]] = {
    "torch sort": torch_sort,
    "flashinfer": flashinfer,
    "flashinfer, one k": flashinfer_one_k,
}
