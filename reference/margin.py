"""How far the logits may move before the token of a row could change: ``docs/contract/margin.md``.

A motion ``t`` takes every finite logit to any fp32 value from ``low = fp32(x - t)`` to ``high = fp32(x + t)``. Both
round to nearest, which is monotone, so no fp32 value within ``t`` of ``x`` lies outside. The worst that such a motion
can do, it does at a corner of these intervals. So the contract's own arithmetic is run at such corners.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .filters import min_p_weight, top_p_mass
from .fixed_point import fixed_point
from .float_mode import unaffected
from .gumbel import gumbel, uniform_rows
from .order import as_x, order_keys
from .parameters import Parameters, check_logits, parameters
from .sampling import sample
from .status import QUIET_NAN, bad_rows_message
from .temperature import FLT_MAX, gaps
from .weight import weight

__all__ = ["MarginOutput", "Motion", "Threat", "margin", "motion"]

_INFINITE = 0x7F800000
_DOUBT = 17
"""Weights of a row that are measured from two different maxima differ by at most 2^-17 of each, plus one unit a token
(docs/contract/notes.md, C).
"""
_ROUNDING = 21
"""Gaps that are measured from two different maxima differ by a constant, up to 2^-21 of each (contract, notes, C)."""


@dataclass(frozen=True)
class MarginOutput:
    """What ``margin`` returns, of B rows."""

    token_ids: np.ndarray
    """int64 [B]: the drawn tokens; -1 where ``status`` is not 0."""
    margin: np.ndarray
    """float32 [B], in units of the logits: at least 0, ``+inf`` where no motion changes the token; NaN where
    ``status`` is not 0."""
    status: np.ndarray
    """int32 [B]: bits of ``Status``, 0 for a valid row."""


@dataclass(frozen=True)
class Threat:
    """How a motion may change the token."""

    by: str
    """``"top_k"``, ``"top_p"`` or ``"min_p"``: that filter may drop the token. ``"score"``: another may win."""
    rival: int
    """The token that moves past the drawn one: the one that may win, or the first that may come before it in the order.
    """


class Motion:
    """One valid row and its token, under motions of its logits.

    Parameters
    ----------
    x : float32 array [V]
        Logits, with +0 for -0.
    p : Parameters of one row
    token : int
        What is drawn from them.
    """

    def __init__(self, x: np.ndarray, p: Parameters, token: int) -> None:
        keys = np.sort(order_keys(x, np.arange(x.size)))[: int((x > -np.inf).sum())]
        self.ids = keys & 0xFFFFFFFF
        self.x = x[self.ids]
        self.winner = int(np.flatnonzero(self.ids == token)[0])
        self.temperature = p.temperature
        first_only = p.temperature[0] == 0 or p.top_p[0] <= 0
        n, k = len(self.ids), int(p.top_k[0])
        self.k = 1 if first_only else min(k, n) if 1 <= k < x.size else n
        self.share_of = n if p.filter_order == "joint" else self.k
        self.top_p = None if first_only or p.top_p[0] >= 1 else p.top_p
        self.min_weight = 0 if first_only else int(min_p_weight(p.min_p)[0])
        self.least_counted = self.min_weight if p.filter_order == "min_p_first" else 0
        self.noise = np.zeros(0, np.int64)
        if self.k > 1:
            self.noise = gumbel(uniform_rows(p.topp_seed, p.position, x.size)[0, self.ids])

    @unaffected
    def margin(self) -> np.float32:
        """The largest motion known to be harmless: its bits are tried from the highest to the lowest."""
        bits = 0
        for bit in range(30, -1, -1):
            trial = bits | 1 << bit
            if trial <= _INFINITE and self.threat(np.uint32(trial).view(np.float32)) is None:
                bits = trial
        return np.uint32(bits).view(np.float32)

    def threat(self, t: np.float32) -> Threat | None:
        """How a motion by at most ``t`` may change the token; None if it cannot."""
        with np.errstate(over="ignore", under="ignore"):
            low = np.maximum(self.x - t, -FLT_MAX)
            high = np.minimum(self.x + t, FLT_MAX)
            spread = high[0] - low[-1]
        before = self._precedes(high, low[self.winner], self.winner)
        if before.sum() >= self.k:
            return Threat("top_k", int(self.ids[before][0]))
        if self.k == 1:
            return None
        if spread == np.inf:  # gaps that overflow say nothing about smaller ones
            return Threat("score", int(self.ids[int(self.winner == 0)]))
        return self._dropped(low, high) or self._beaten(low, high)

    def _dropped(self, low: np.ndarray, high: np.ndarray) -> Threat | None:
        """Whether min-p or top-p may drop the winner when it is at its lowest and all others are at their highest."""
        if self.min_weight == 0 and self.top_p is None:
            return None
        w = self.winner
        other = int(w == 0)  # the first of the others
        largest = np.maximum(low[w], high[other])
        if weight(self._gaps(largest, low[w : w + 1]))[0] < self.min_weight:
            return Threat("min_p", int(self.ids[other]))
        above = high[: self.share_of] >= low[w]
        above[w : w + 1] = False
        if self.top_p is None or not above.any():
            return None
        heads = self._mass(largest, high[: self.share_of][above])
        rest = self._mass(largest, low[: self.share_of][~above])
        return None if self._surely_kept(heads, rest) else Threat("top_p", int(self.ids[: self.share_of][above][0]))

    def _beaten(self, low: np.ndarray, high: np.ndarray) -> Threat | None:
        """Find the rivals when each is at its highest and the winner at its lowest, and whether the first of them may
        be kept.
        """
        w = self.winner
        largest = np.maximum(low[w], high[int(w == 0)])
        moved = high.copy()
        moved[w] = low[w]
        below = fixed_point(self._gaps(largest, moved))
        lead = self.noise - below - (self.noise[w] - below[w])
        beats = lead + (below >> _ROUNDING) + (below[w] >> _ROUNDING) + 4 >= 0
        beats[w] = False
        if not beats.any():
            return None
        # Each filter keeps a prefix of the order, so if the first of them cannot be kept, none can.
        best = beats & (high == high[beats].max())
        j = int(np.flatnonzero(best)[self.ids[best].argmin()])
        return Threat("score", int(self.ids[j])) if self._may_be_kept(j, low, high) else None

    def _may_be_kept(self, j: int, low: np.ndarray, high: np.ndarray) -> bool:
        """Whether token ``j`` may be kept when it is at its highest and the others are where they help it most."""
        if self._precedes(low, high[j], j).sum() >= self.k:
            return False
        largest = np.maximum(low[0], high[j])
        if weight(self._gaps(largest, high[j : j + 1]))[0] < self.min_weight:
            return False
        above = low > high[j]
        above[j] = False
        if self.top_p is None or not above.any():
            return True
        survives = np.arange(len(self.ids)) < (self.share_of if j < self.share_of else self.share_of - 1)
        survives[j] = True
        heads = self._mass(largest, low[above & survives])
        rest = self._mass(largest, np.minimum(high, high[j])[~above & survives])
        return not self._surely_cut(heads, rest)

    def _precedes(self, values: np.ndarray, value: np.float32, at: int) -> np.ndarray:
        """Which others, with these values, come before token ``at`` with its value."""
        before = (values > value) | ((values == value) & (self.ids < self.ids[at]))
        before[at] = False
        return before

    def _gaps(self, largest: np.float32, x: np.ndarray) -> np.ndarray:
        return gaps(x[None], np.atleast_1d(largest), self.temperature)[0]

    def _mass(self, largest: np.float32, x: np.ndarray) -> int:
        """The weights that top-p counts, in all."""
        w = weight(self._gaps(largest, x))
        return int(w[w >= self.least_counted].sum())

    def _surely_kept(self, heads: int, rest: int) -> bool:
        """Whether top-p keeps the token after ``heads`` whatever the rounding of weights."""
        heads, rest = heads + self._doubt(heads, heads + rest), rest - self._doubt(rest, heads + rest)
        return rest >= 0 and heads < self._target(heads + rest)

    def _surely_cut(self, heads: int, rest: int) -> bool:
        """Whether top-p drops the token after ``heads`` whatever the rounding of weights."""
        heads, rest = heads - self._doubt(heads, heads + rest), rest + self._doubt(rest, heads + rest)
        return heads >= self._target(heads + rest)

    def _doubt(self, part: int, whole: int) -> int:
        return (part >> _DOUBT) + 1 + len(self.ids) * ((whole >> 40) + 1)

    def _target(self, mass: int) -> int:
        assert self.top_p is not None
        return int(top_p_mass(self.top_p, np.array([mass]))[0])


def motion(x: np.ndarray, token: int, p: Parameters) -> Motion:
    """A row of logits [V] of any type and its token; see ``Motion``."""
    return Motion(as_x(x), p, token)


@unaffected
def margin(
    logits: np.ndarray,
    topp_seed: Any,
    *,
    position: Any = 0,
    temperature: Any = 1.0,
    top_k: Any = 0,
    top_p: Any = 1.0,
    min_p: Any = 0.0,
    filter_order: str = "top_k_first",
    check: bool = False,
) -> MarginOutput:
    """How far the logits may move, in the max norm, without changing the token.

    Moved logits are fp32 values within ``margin`` of the given ones, finite where those are finite and -inf
    where they are -inf. From all of them ``sample`` draws the same token. The margin is the largest such number
    up to the rounding of ``x - t`` and ``x + t`` to fp32, and where top-p decides, up to what the rounding of
    weights leaves in doubt (``docs/contract/notes.md``).

    Parameters
    ----------
    logits : array [B, V] of float32, float16 or bfloat16
        Any strides; never written to. ``1 <= V <= 2^21``.
    topp_seed : integer, or integer array [B] or [B, 1]
        As for ``sample``, as are the following.
    position : integer, or integer array [B] or [B, 1], default 0
    temperature : float, or float array [B] or [B, 1], default 1.0
    top_k : integer, or integer array [B] or [B, 1], default 0
    top_p : float, or float array [B] or [B, 1], default 1.0
    min_p : float, or float array [B] or [B, 1], default 0.0
    filter_order : "top_k_first", "min_p_first" or "joint"
    check : bool, default False
        Raise if any row is not valid.

    Returns
    -------
    MarginOutput

    Raises
    ------
    TypeError
        An argument of the wrong type or dtype.
    ValueError
        A wrong shape, a scalar out of range, or, with ``check``, a row that is not valid.

    Examples
    --------
    >>> margin(np.float32([[0, 2, 1]]), 7, temperature=0).margin.round(6).tolist()
    [0.5]
    >>> margin(np.float32([[0, -np.inf]]), 7).margin.tolist()
    [inf]
    """
    rows, _ = check_logits(logits)
    given = {
        "temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p, "filter_order": filter_order
    }  # fmt: skip
    p = parameters(rows, topp_seed=topp_seed, position=position, **given)
    drawn = sample(logits, topp_seed, position=position, **given, return_logprobs=False)
    found = np.full(rows, QUIET_NAN)
    for row in np.flatnonzero(drawn.status == 0):
        found[row] = motion(logits[row], int(drawn.token_ids[row]), p.rows(slice(row, row + 1))).margin()
    message = bad_rows_message(drawn.status) if check else None
    if message:
        raise ValueError(message)
    return MarginOutput(drawn.token_ids, found, drawn.status)
