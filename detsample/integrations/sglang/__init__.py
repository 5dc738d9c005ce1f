"""SGLang: a sampling backend by the name of ``detsample``, with a seed for each request and with every filter.

SGLang 0.5.23 finds the entry point `register` in the group ``sglang.srt.plugins``. See docs/sglang.md.
"""

try:
    import sglang  # noqa: F401
except ImportError as error:  # no extra brings it: it pins its own torch
    raise ImportError(
        "detsample.integrations.sglang needs sglang, which is not installed: pip install sglang"
    ) from error

from detsample.integrations.sglang.routing import register, unregister
from detsample.integrations.sglang.sampler import BACKEND, DetsampleSampler

__all__ = ["BACKEND", "DetsampleSampler", "register", "unregister"]
