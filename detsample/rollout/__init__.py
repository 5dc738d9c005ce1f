"""Rollouts of reinforcement learning: what a trainer needs from a draw, records of it, and their replay.

`draw` samples and observes in one call. `Writer` keeps draws in a folder, `read` gives them back, `replay` and
`audit` say whether the tokens are those that seeds and logits give. `kept_logprobs` gives a trainer's log probabilities
over the actor's kept sets, and is differentiable. See docs/rollouts.md.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from detsample.rollout.kept_sets import KeptSets
from detsample.rollout.learning import KeptLogprobs, kept_logprobs
from detsample.rollout.observation import draw, observe
from detsample.rollout.output import Draw, Observation
from detsample.rollout.record import Record
from detsample.rollout.replaying import Difference, Replay, replay

if TYPE_CHECKING:
    from detsample.rollout.auditing import Audit, FileAudit, audit
    from detsample.rollout.folder import files
    from detsample.rollout.parquet import RecordError
    from detsample.rollout.reader import load, read
    from detsample.rollout.writer import Writer

_NEED_PYARROW = {
    "Audit": "auditing", "FileAudit": "auditing", "audit": "auditing", "RecordError": "parquet", "Writer": "writer",
    "files": "folder", "load": "reader", "read": "reader",
}  # fmt: skip

__all__ = [
    "Audit",
    "Difference",
    "Draw",
    "FileAudit",
    "KeptLogprobs",
    "KeptSets",
    "Observation",
    "Record",
    "RecordError",
    "Replay",
    "Writer",
    "audit",
    "draw",
    "files",
    "kept_logprobs",
    "load",
    "observe",
    "read",
    "replay",
]


def __getattr__(name: str) -> Any:
    """Import the names that need pyarrow when they are asked for."""
    if name not in _NEED_PYARROW:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = import_module(f"{__name__}.{_NEED_PYARROW[name]}")
    except ModuleNotFoundError as error:
        if error.name != "pyarrow":
            raise
        raise ImportError(f"{name} needs pyarrow: pip install 'detsample[rollout]'") from error
    return getattr(module, name)
