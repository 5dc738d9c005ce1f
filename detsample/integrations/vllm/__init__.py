"""vLLM: a request's ``seed`` gives detsample's token, whatever else is in the batch.

vLLM finds two entry points of this package: `Processor`, a logits processor for both of its model runners, and
`register`, a general plug-in that has the processor draw before the temperature is applied. See docs/vllm.md.
"""

from detsample.integrations.missing import missing

try:
    import vllm  # noqa: F401
except ImportError as error:
    raise missing("detsample.integrations.vllm", "vllm", "vllm") from error

from detsample.integrations.vllm.processor import Processor
from detsample.integrations.vllm.routing import register, unregister

__all__ = ["Processor", "register", "unregister"]
