"""transformers: `generate` draws with detsample, by way of a logits processor.

`sampling` makes the arguments that `generate` needs, `DetsampleLogitsProcessor` is the processor in them. See
docs/transformers.md.
"""

from detsample.integrations.missing import missing

try:  # transformers can be imported without torch, and then has no processors
    import torch  # noqa: F401
except ImportError as error:
    raise missing("detsample.integrations.transformers", "torch", "transformers") from error
try:
    import transformers  # noqa: F401
except ImportError as error:
    raise missing("detsample.integrations.transformers", "transformers", "transformers") from error

from detsample.integrations.transformers.processor import DetsampleLogitsProcessor, sampling

__all__ = ["DetsampleLogitsProcessor", "sampling"]
