"""Which rounds a call takes. It follows from the arguments that are numbers, and so is the same on all ranks."""

from __future__ import annotations

from typing import NamedTuple

from detsample.kernels.sampling.candidates import MOST_K
from detsample.sampler.output import Wanted
from detsample.sampler.parameters import Parameters, Scalar, is_number


class Rounds(NamedTuple):
    """The rounds of a call whose rows stay where they are."""

    told: int
    """How many first tokens a rank tells of, in the first round."""
    sums: bool
    """Whether there is a second round, for sums of weights."""
    draws: bool
    """Whether the sums come with the best score of what min-p keeps."""


def rounds_of(vocab: int, given: Parameters, wanted: Wanted) -> Rounds | None:
    """Return the rounds of a call, or None if its rows are to be exchanged."""
    if is_number(given.temperature, 0.0):
        return Rounds(1, False, False)
    top_k, any_p = given.top_k, not is_number(given.top_p, 1.0)
    if not isinstance(top_k, Scalar):
        return None
    if not 1 <= top_k.value < vocab:
        return None if any_p else Rounds(1, True, wanted.token)
    if top_k.value > int(MOST_K.value):
        return None
    return Rounds(int(top_k.value), wanted.log_z or (any_p and given.filter_order == "joint"), False)
