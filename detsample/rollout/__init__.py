"""Rollouts of reinforcement learning: what a trainer needs from a draw, records of it, and their replay.

`draw` samples and observes in one call. `Writer` keeps draws in a folder, `read` gives them back, `replay` and
`audit` say whether the tokens are those that seeds and logits give. `kept_logprobs` weighs a trainer's logits
over the actor's kept sets, differentiably. See docs/rollouts.md.
"""

from detsample.rollout.observation import draw, observe
from detsample.rollout.output import Draw, Observation

__all__ = [
    "Draw",
    "Observation",
    "draw",
    "observe",
]
