"""SGLang's own sampler and batch, imported where most of SGLang is not: what needs a GPU or a server is stood in for.

Real are the modules of `REAL` and what lies below them; anything else of SGLang's is a mock.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any
from unittest.mock import MagicMock

REAL = (
    "sglang.srt.layers.sampler", "sglang.srt.layers.logprob_processor", "sglang.srt.sampling", "sglang.srt.environ",
    "sglang.srt.arg_groups.choices", "sglang.utils",
)  # fmt: skip
PACKAGES = ("sglang", "sglang.srt", "sglang.srt.layers", "sglang.srt.arg_groups")


class Mock(types.ModuleType):
    """A module that has whatever it is asked for."""

    __path__ = ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value = MagicMock(name=f"{self.__name__}.{name}")
        setattr(self, name, value)
        return value


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds mocks of the modules that it is told."""

    def __init__(self, mocked: Callable[[str], bool]) -> None:
        self.mocked = mocked

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> Any:
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if self.mocked(name) else None

    def create_module(self, spec: Any) -> Mock:
        return Mock(spec.name)

    def exec_module(self, module: Any) -> None:
        """Nothing to run."""


def load() -> Any:
    """Import SGLang's sampler as far as it computes; returns the module."""
    sys.meta_path.insert(
        0, Finder(lambda n: n.split(".")[0] == "sglang" and n not in PACKAGES and not n.startswith(REAL))
    )
    import sglang.srt.utils.common as common

    for name in ("is_cuda", "is_hip", "is_npu", "is_xpu", "is_musa", "is_gfx1250_supported", "get_bool_env_var"):
        setattr(common, name, lambda *_: False)
    common.is_pin_memory_available = lambda *_: False
    import sglang.srt.utils.async_probe as probe

    probe.maybe_detect_nan = probe.sanitize_nan_logits = lambda *_: None
    import sglang.srt.layers.dp_attention as attention

    attention.is_dp_attention_enabled = lambda: False
    import sglang.srt.runtime_context as context

    execution = MagicMock()
    execution.kernel.sampling_backend = "detsample"
    execution.deterministic.rl_on_policy_target = None
    execution.deterministic.enable_deterministic_inference = False
    execution.features.sampling_mask_max_tokens = 64
    execution.features.enable_custom_logit_processor = execution.features.enable_watermark = False
    context.get_exec = lambda: execution
    import sglang.srt.layers.logits_processor as outputs

    outputs.SamplingMaskOutput = types.SimpleNamespace
    outputs.SamplingMaskStatus = types.SimpleNamespace(OK=0, INVALID=1, OVERFLOW=2)
    import sglang.srt.managers.schedule_batch as scheduling

    scheduling.ScheduleBatch = type("ScheduleBatch", (), {})
    import sglang.srt.layers.sampler as sampler

    return sampler
