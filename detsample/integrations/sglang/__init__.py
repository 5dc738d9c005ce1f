"""SGLang: a sampling backend by the name of ``detsample``, with a seed for each request and with every filter.

SGLang 0.5.23 finds the entry point `register` in the group ``sglang.srt.plugins``. See docs/sglang.md.
"""

from detsample.integrations.missing import missing

try:
    import sglang  # noqa: F401
except ImportError as error:
    raise missing("detsample.integrations.sglang", "sglang", "sglang") from error

from detsample.integrations.sglang.routing import register, unregister
from detsample.integrations.sglang.sampler import BACKEND, DetsampleSampler

__all__ = ["BACKEND", "DetsampleSampler", "register", "unregister"]
