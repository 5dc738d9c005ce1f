"""The general plug-in: the first runner's sampler asks the processor before it applies the temperature.

vLLM calls custom logits processors either before the penalties or behind the temperature. A draw belongs between the
two, where the logits are final and not yet scaled, so `Sampler.sample` is entered by way of the processor. Nothing
else of vLLM is touched, and without this plug-in (``VLLM_PLUGINS`` can exclude it) the processor does nothing.
"""

from __future__ import annotations

from functools import wraps
from typing import Any

from vllm.logger import init_logger
from vllm.v1.sample.sampler import Sampler

from detsample.integrations.vllm.processor import Processor

logger = init_logger("vllm.detsample")

UNSERVED = (
    "detsample draws no token here: vLLM loads no logits processors with speculative decoding on this model runner. "
    "Requests with a seed get vLLM's own tokens."
)


def register() -> None:
    """Route `Sampler.sample` by way of `Processor`; vLLM calls this in each of its processes.

    Calling it again changes nothing.

    Examples
    --------
    >>> before = Sampler.sample
    >>> register()
    >>> Sampler.sample is before
    False
    >>> unregister()
    >>> Sampler.sample is before
    True
    """
    original = Sampler.sample
    if hasattr(original, "_detsample_original"):
        return

    @wraps(original)
    def sample(self: Any, logits: Any, sampling_metadata: Any, *arguments: Any, **keywords: Any) -> Any:
        ours = [p for p in sampling_metadata.logitsprocs.all if isinstance(p, Processor)]
        for processor in ours:
            logits = processor.draw(logits)
        if not ours and sampling_metadata.generators:
            logger.warning_once(UNSERVED)
        return original(self, logits, sampling_metadata, *arguments, **keywords)

    sample._detsample_original = original  # type: ignore[attr-defined]
    Sampler.sample = sample


def unregister() -> None:
    """Undo `register` in this process; without a `register` before, nothing changes.

    Examples
    --------
    >>> register()
    >>> unregister()
    >>> hasattr(Sampler.sample, "_detsample_original")
    False
    """
    Sampler.sample = getattr(Sampler.sample, "_detsample_original", Sampler.sample)
