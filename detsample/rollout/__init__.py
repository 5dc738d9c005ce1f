"""Rollouts of reinforcement learning: what a trainer needs from a draw, records of it, and their replay.

`draw` samples and observes in one call. `Writer` keeps draws in a folder, `read` gives them back, `replay` and
`audit` say whether the tokens are those that seeds and logits give. `kept_logprobs` gives a trainer's log probabilities
over the actor's kept sets, and is differentiable. See docs/rollouts.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from detsample.lazy import attributes
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

# These need pyarrow.
__getattr__, __dir__ = attributes(
    __name__,
    {
        "Audit": "detsample.rollout.auditing", "FileAudit": "detsample.rollout.auditing",
        "audit": "detsample.rollout.auditing", "RecordError": "detsample.rollout.parquet",
        "Writer": "detsample.rollout.writer", "files": "detsample.rollout.folder", "load": "detsample.rollout.reader",
        "read": "detsample.rollout.reader",
    },
)  # fmt: skip

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
