"""`explain`: takes one draw apart for a reader. It shows what each filter cut, the noise, the scores, the winner and
the margin.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

import detsample.reference as reference
from detsample import frameworks
from detsample.frameworks.recording import unrecorded
from detsample.frameworks.types import FilterOrder
from detsample.processing import Processing, apply
from detsample.reference.allowed import forbid, read_allowed
from detsample.reference.filters import min_p_weight, top_k_length, top_p_mass
from detsample.reference.fixed_point import fixed_point
from detsample.reference.margin import Threat, motion
from detsample.reference.order import as_x, key_ids, order_keys
from detsample.reference.parameters import parameters
from detsample.reference.temperature import gaps
from detsample.reference.weight import weight


@dataclass(frozen=True)
class Cut:
    """What one filter by itself keeps.

    Attributes
    ----------
    name : str
        ``"top_k"``, ``"top_p"`` or ``"min_p"``.
    on : bool
        Whether its parameter lets it drop anything. In a greedy row no filter is on.
    kept : int
        How many tokens, of those that are finite, at least 1. `filter_order` says of which ones top-p takes its share.
    value : float
        The logit of the last one.
    tied_kept, tied_cut : int
        Tokens with that very logit that are kept, and that are not: a tie at the boundary goes to the lowest ids.
    """

    name: str
    on: bool
    kept: int
    value: float
    tied_kept: int
    tied_cut: int


@dataclass(frozen=True, eq=False)
class Explanation:
    """One row and its draw. Arrays have an entry for each finite token, in order: logit falling, then id rising.

    Attributes
    ----------
    request : dict
        The parameters of the row.
    token_ids : [N] int64
    logits, z : [N] float32
        As given, and over the temperature.
    probabilities : [N] float64
        Their probabilities in the full softmax at this temperature, from the integer weights.
    cuts : tuple of Cut
        Top-k, top-p, min-p.
    num_kept : int
        How many of the first tokens the draw is among.
    noise, score : [N] float64
        Gumbel noise, and z plus noise; exact multiples of 2^-32. Zeros, and z, in a greedy row.
    winner : int
        Index of the drawn token, among the N.
    logprob, log_z : float
        As of `detsample.SampleOutput`.
    margin : float
        As of `detsample.margin`.
    threat : Threat or None
        How a motion by the next larger fp32 number may change the token; None if no motion can.
    forbidden : [M] int64
        The tokens that `allowed` took away, which are in none of the arrays.
    moved : dict
        For each part of `processing` that alone changes logits, the tokens whose logits it changes, int64.
    """

    request: dict[str, Any]
    token_ids: np.ndarray
    logits: np.ndarray
    z: np.ndarray
    probabilities: np.ndarray
    cuts: tuple[Cut, ...]
    num_kept: int
    noise: np.ndarray
    score: np.ndarray
    winner: int
    logprob: float
    log_z: float
    margin: float
    threat: Threat | None
    forbidden: np.ndarray
    moved: dict[str, np.ndarray]

    @property
    def greedy(self) -> bool:
        """Whether the temperature is 0."""
        return bool(self.request["temperature"] == 0)

    def index_of(self, token_id: int) -> int:
        """Where a token is in the order."""
        return int(np.flatnonzero(self.token_ids == token_id)[0])

    def runner_up(self) -> int | None:
        """The index of the kept token with the second largest score; None if there is none."""
        kept = self.score[: self.num_kept].copy()
        kept[self.winner] = -np.inf
        return int(kept.argmax()) if self.num_kept > 1 else None

    def fate(self, index: int) -> str:
        """Whether a token is kept, or what cuts it."""
        if index < self.num_kept:
            return "kept"
        return ", ".join(cut.name for cut in self.cuts if cut.on and index >= cut.kept) or "not the first"

    def worth_showing(self, first: int) -> list[int]:
        """The first tokens, and wherever they are the winner, the runner-up and what threatens the winner."""
        more = [self.winner, self.runner_up(), None if self.threat is None else self.index_of(self.threat.rival)]
        some = range(min(max(first, 1), len(self.token_ids)))
        return sorted({*some, *(i for i in more if i is not None)})


@unrecorded
def explain(
    logits: Any,
    topp_seed: int,
    *,
    position: int = 0,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    filter_order: FilterOrder = "top_k_first",
    allowed: Any = None,
    processing: Processing | None = None,
) -> Explanation:
    """Take one draw apart.

    Parameters
    ----------
    logits : [V] or [1, V] fp32, bf16 or fp16
        One row, of any framework and on any device.
    topp_seed, position, temperature, top_k, top_p, min_p, filter_order
        Numbers and a name, as for `detsample.sample`.
    allowed : [W] or [1, W], optional
        As for `detsample.sample`.
    processing : Processing of one request, optional
        What `detsample.processing.apply` does to the row before the draw; in arrays on the host.

    Returns
    -------
    Explanation

    Raises
    ------
    TypeError, ValueError
        As `detsample.sample` with ``check=True``.

    Examples
    --------
    >>> found = explain(np.array([0.0, 3.0, 3.0, 1.0], np.float32), 7, top_k=1)
    >>> found.cuts[0].tied_kept, found.cuts[0].tied_cut, found.margin < 2e-7
    (1, 1, True)
    """
    framework = frameworks.of(logits, "logits")
    host = framework.fetch(logits)
    if host.ndim == 1:
        host = host[None]
    if len(host) != 1 or host.ndim != 2:
        raise ValueError(f"logits must be one row, [V] or [1, V], got {list(host.shape)}")
    host, moved = _processed(host, processing)
    sets = None if allowed is None else np.atleast_2d(frameworks.of(allowed, "allowed").fetch(allowed))
    octets = read_allowed(sets, *host.shape)
    forbidden = np.array([], np.int64)
    if octets is not None:
        free, host = host, forbid(host, octets)
        forbidden = np.flatnonzero((host[0] == -np.inf) & (free[0] != -np.inf))
    given: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    given["filter_order"] = filter_order
    drawn = reference.sample(host, topp_seed, position=position, **given, return_log_z=True, check=True)
    p = parameters(1, topp_seed=topp_seed, position=position, **given)
    x = as_x(host[0])
    ids = key_ids(np.sort(order_keys(x, np.arange(x.size))))[: int((x > -np.inf).sum())]
    logit, greedy = x[ids], bool(p.temperature[0] == 0)
    a = gaps(logit[None], logit[:1], None if greedy else p.temperature)[0]
    w = weight(a)
    noise = np.zeros(ids.size) if greedy else np.asarray(reference.gumbel_noise(topp_seed, position, ids))
    score = -a.astype(np.float64) if greedy else noise - fixed_point(a) * 2.0**-32
    token, kept = int(drawn.token_ids[0]), int(drawn.num_kept[0])
    motions = motion(x, token, p)
    margin = motions.margin()
    assert drawn.logprobs is not None
    assert drawn.log_z is not None
    return Explanation(
        request={"topp_seed": topp_seed, "position": position, **given},
        token_ids=ids,
        logits=logit,
        z=-a,
        probabilities=w / w.sum(),
        cuts=_cuts(logit, w, p, x.size),
        num_kept=kept,
        noise=noise,
        score=score,
        winner=int(np.flatnonzero(ids == token)[0]),
        logprob=float(drawn.logprobs[0]),
        log_z=float(drawn.log_z[0]),
        margin=float(margin),
        threat=None if math.isinf(margin) else motions.threat(np.nextafter(margin, np.float32(np.inf))),
        forbidden=forbidden,
        moved=moved,
    )


_PARTS = {
    "bias": ("bias", "bias_values"), "banned": ("banned",), "only": ("only",), "min_length": ("min_length", "stop"),
    "bad_words": ("bad_words",), "repetition_penalty": ("repetition_penalty",),
    "frequency_penalty": ("frequency_penalty",), "presence_penalty": ("presence_penalty",),
}  # fmt: skip


def _processed(host: np.ndarray, asked: Processing | None) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(the logits as processed, for each part of the processing that alone changes some, the tokens)."""
    if asked is None:
        return host, {}
    same: dict[str, Any] = {name: getattr(asked, name) for name in ("convention", "prompt", "output")}
    found = {}
    for part, names in _PARTS.items():
        alone = apply(host, Processing(**same, **{name: getattr(asked, name) for name in names}))
        changed = np.flatnonzero((alone != host) & ~np.isnan(alone))
        if changed.size:
            found[part] = changed
    return apply(host, asked), found


def _cuts(logit: np.ndarray, w: np.ndarray, p: Any, vocab: int) -> tuple[Cut, ...]:
    """What each filter keeps: section 6 of docs/contract/spec.md."""
    n = len(logit)
    survivors = int(top_k_length(p.top_k, vocab, np.array([n]))[0])
    by_weight = int((w >= min_p_weight(p.min_p)[0]).sum())
    shared = {"top_k_first": survivors, "min_p_first": min(survivors, by_weight), "joint": n}[p.filter_order]
    sums = np.cumsum(w)
    top_p = float(p.top_p[0])
    by_mass = n
    if top_p <= 0:
        by_mass = 1
    elif top_p < 1:
        by_mass = int((sums < top_p_mass(p.top_p, sums[shared - 1 : shared])[0]).sum()) + 1
    k = int(p.top_k[0])
    on = {"top_k": 1 <= k < vocab, "top_p": top_p < 1, "min_p": float(p.min_p[0]) > 0}
    counts = {"top_k": survivors, "top_p": by_mass, "min_p": by_weight}
    if p.temperature[0] == 0:
        on, counts = dict.fromkeys(on, False), dict.fromkeys(counts, n)
    return tuple(_cut(name, on[name], counts[name], logit) for name in on)


def _cut(name: str, on: bool, kept: int, logit: np.ndarray) -> Cut:
    value = logit[kept - 1]
    tied = logit == value
    return Cut(name, on, kept, float(value), int(tied[:kept].sum()), int(tied[kept:].sum()))


__all__ = ["Cut", "Explanation", "explain"]
