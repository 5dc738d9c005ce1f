"""transformers: `generate` draws with detsample.

`custom_generate` is what `generate` and pipelines take under that name, and reads everything but the seeds from them.
`sampling` makes arguments for `generate` with parameters for each row, and where drafts are verified;
`DetsampleLogitsProcessor` is the processor in them. See docs/transformers.md.
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

from detsample.integrations.transformers.loop import custom_generate
from detsample.integrations.transformers.processor import DetsampleLogitsProcessor, sampling

__all__ = ["DetsampleLogitsProcessor", "custom_generate", "sampling"]
