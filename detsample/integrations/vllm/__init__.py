"""vLLM: detsample is the sampler of requests with a ``seed``, whatever else is in the batch.

vLLM finds one entry point of this package, the general plug-in `register`. See docs/vllm.md.
"""

from detsample.integrations.missing import missing

try:
    import vllm  # noqa: F401
except ImportError as error:
    raise missing("detsample.integrations.vllm", "vllm", "vllm") from error

from detsample.integrations.vllm.routing import register, unregister

__all__ = ["register", "unregister"]
