"""Which rounds a call takes. It follows from the arguments that are numbers, and so is the same on all ranks."""

from __future__ import annotations

from typing import NamedTuple

from detsample.kernels.sampling.candidates import MOST_K
from detsample.sampler.output import Wanted
from detsample.sampler.parameters import Parameters, Scalar, is_number

TOLD_BY_TOP_P = 64
SEARCH_ROUNDS = 4  # of 8 bits each: places of the order have 32
ROUND_BYTES = 64 << 20
"""What is gathered over NVLink in the time of a round of a search, measured with two H100 (docs/sharded.md)."""


class Rounds(NamedTuple):
    """The rounds of a call."""

    told: int
    """How many first tokens a rank tells of, in the first round."""
    sums: bool
    """Whether there is a round for sums of weights."""
    draws: bool
    """Whether the sums come with the best score of what min-p keeps."""
    searches: int
    """How many searches there are: for what top-k keeps, and then for what top-p keeps."""

    @property
    def number(self) -> int:
        """How many rounds there are."""
        return 1 + self.sums + self.searches * SEARCH_ROUNDS + (self.searches > 0)

    def cost_more_than(self, logits_bytes: int) -> bool:
        """Whether bringing together the logits, of so many bytes, takes less time."""
        return self.searches > 0 and logits_bytes <= self.number * ROUND_BYTES


def rounds_of(vocab: int, given: Parameters, wanted: Wanted) -> Rounds:
    """Return the rounds of a call."""
    if is_number(given.temperature, 0.0):
        return Rounds(1, False, False, 0)
    top_k, any_p = given.top_k, not is_number(given.top_p, 1.0)
    known_k = top_k.value if isinstance(top_k, Scalar) else None
    if known_k is not None and 1 <= known_k < vocab and known_k <= int(MOST_K.value):
        return Rounds(int(known_k), wanted.log_z or (any_p and given.filter_order == "joint"), False, 0)
    no_k = known_k is not None and not 1 <= known_k < vocab
    if no_k and not any_p:
        return Rounds(1, True, wanted.token, 0)
    told = TOLD_BY_TOP_P if no_k else int(MOST_K.value)
    return Rounds(told, True, False, (not no_k) + any_p)
