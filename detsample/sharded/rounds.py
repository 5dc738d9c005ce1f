"""Which rounds a call takes. It follows from the arguments that are numbers, and so is the same on all ranks."""

from __future__ import annotations

from typing import NamedTuple

from detsample.kernels.sampling.candidates import MOST_K
from detsample.sampler.output import Wanted
from detsample.sampler.parameters import Parameter, Parameters, Scalar

TOLD_BY_TOP_P = 64
FEW_ROWS = 64
ROUND_BYTES = 4 << 20
"""What goes over NVLink in the time of a round that tells next to nothing."""


class Rounds(NamedTuple):
    """The rounds of a call."""

    told: int
    """How many first tokens a rank tells of, in the first round."""
    sums: bool
    """Whether there is a round for sums of weights."""
    draws: bool
    """Whether the sums come with the best score of what min-p keeps."""
    searches: tuple[bool, ...]
    """What is searched for: False stands for a number of tokens, True for a weight."""
    bits: tuple[int, ...]
    """How many bits of a key each round of a search decides."""

    @property
    def number(self) -> int:
        """How many rounds there are."""
        return 1 + self.sums + len(self.searches) * len(self.bits) + bool(self.searches)

    def cost_more_than(self, logits_bytes: int) -> bool:
        """Whether bringing together the logits, of so many bytes, takes less time."""
        return bool(self.searches) and logits_bytes <= self.number * ROUND_BYTES


def rounds_of(rows: int, vocab: int, given: Parameters, wanted: Wanted) -> Rounds:
    """Return the rounds of a call with so many rows and tokens."""
    bits = (11, 11, 10) if rows <= FEW_ROWS else (8, 8, 8, 8)
    if _is(given.temperature, 0.0):
        return Rounds(1, False, False, (), bits)
    top_k, any_p = given.top_k, not _is(given.top_p, 1.0)
    known_k = top_k.value if isinstance(top_k, Scalar) else None
    if known_k is not None and 1 <= known_k < vocab and known_k <= int(MOST_K.value):
        return Rounds(int(known_k), wanted.log_z or (any_p and given.filter_order == "joint"), False, (), bits)
    no_k = known_k is not None and not 1 <= known_k < vocab
    if no_k and not any_p:
        return Rounds(1, True, wanted.token, (), bits)
    told = TOLD_BY_TOP_P if no_k else int(MOST_K.value)
    return Rounds(told, True, False, (False,) * (not no_k) + (True,) * any_p, bits)


def _is(parameter: Parameter, value: float) -> bool:
    return isinstance(parameter, Scalar) and parameter.value == value
