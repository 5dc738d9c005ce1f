"""What differs between two records, and what is the cause."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from enum import Enum

import numpy as np

from detsample.golden.record import REQUEST, Golden, Row, request, shortest
from detsample.reference.float_mode import usual_mode
from detsample.sampler.parameters import as_integer
from detsample.sampler.status import describe


class Kind(Enum):
    """The verdict on a row.

    With ``M`` the recorded margin: logits that drift by at most M cannot change the token (docs/margin.md).
    """

    SAME = "same"
    """Nothing differs."""
    DRIFTED = "drifted"
    """The logits differ and the token does not."""
    REQUEST = "request changed"
    """A seed, a position or another parameter differs, or the row is missing. So another token is no surprise."""
    FOLLOWS = "follows"
    """A later step of a text that differs from an earlier step on. Its logits belong to another text."""
    SAMPLER = "sampler changed"
    """The same request and the same logits, bit for bit, and another result: a bug, or another contract version. Or the
    logits differ, and on today's logits the reference gives another token, count, status or log probability than the
    sampler.
    """
    TOO_SMALL = "drift too small"
    """The token differs, but the logits drifted by at most M, which cannot change the token. So the sampler is at
    fault.
    """
    UNDECIDED = "drift unknown"
    """The token and the logits differ. The record does not have how far the logits drifted, and it may be less than M.
    """
    EXPLAINED = "drift explains"
    """The token differs, and the logits drifted by more than M; or by an unknown amount, and the reference draws the
    new token from today's."""


STATUSES = {Kind.SAMPLER: 3, Kind.TOO_SMALL: 3, Kind.REQUEST: 4, Kind.EXPLAINED: 1, Kind.UNDECIDED: 1, Kind.FOLLOWS: 1}
"""The exit status of each kind. `Report.status` says which of several counts."""

GRAVEST_FIRST = (
    Kind.SAMPLER, Kind.TOO_SMALL, Kind.REQUEST, Kind.EXPLAINED, Kind.UNDECIDED, Kind.DRIFTED, Kind.FOLLOWS,
)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """The verdict on one row.

    Attributes
    ----------
    row : int
        Index in the record.
    kind : Kind
    recorded, today : Row or None
        None where a record has no such row.
    drift : float
        How far the logits differ, in the max norm and in their own unit; NaN if nothing is known of it.
    exact : bool
        Whether `drift` is of all logits; otherwise only of the recorded ones, and the whole may be more.
    details : tuple of str
        What differs, in words.
    """

    row: int
    kind: Kind
    recorded: Row | None
    today: Row | None
    drift: float
    exact: bool
    details: tuple[str, ...]

    def __str__(self) -> str:
        some = self.recorded or self.today
        at = f", position {some.position}" if some else ""
        return f"row {self.row}{at}: {self.kind.value}: {'; '.join(self.details)}"


@dataclass(frozen=True)
class Report:
    """The verdict on all rows.

    Attributes
    ----------
    findings : tuple of Finding
        One a row, in order.
    notes : tuple of str
        What differs between the records as a whole: the contract version, the logits' type.
    """

    findings: tuple[Finding, ...]
    notes: tuple[str, ...]

    def of(self, *kinds: Kind) -> list[Finding]:
        """The findings of these kinds."""
        return [finding for finding in self.findings if finding.kind in kinds]

    def status(self, strict: bool = False) -> int:
        """The exit status for this report.

        0: every token is as recorded. 3: the sampler is at fault, in some row. 4: the requests differ. 1: tokens
        differ because the logits do, or, with `strict`, logits differ and no token does.
        """
        kinds = {finding.kind for finding in self.findings}
        found = {STATUSES.get(kind, 0) for kind in kinds}
        if strict and Kind.DRIFTED in kinds:
            found.add(1)
        return next((status for status in (3, 4, 1) if status in found), 0)

    @property
    def exit_status(self) -> int:
        """`status()`."""
        return self.status()

    def text(self, shown: int = 8) -> str:
        """The report as text: a summary, then the rows that differ, and of each kind at least the first.

        Parameters
        ----------
        shown : int
            How many rows of each kind to show at most, from 0.

        Raises
        ------
        TypeError, ValueError
            If it is no such integer.
        """
        shown = as_integer("shown", shown, 0, (1 << 63) - 1)
        counts = Counter(finding.kind for finding in self.findings)
        summary = ", ".join(f"{counts[kind]} {kind.value}" for kind in Kind if counts[kind])
        lines = [f"{len(self.findings)} rows: {summary or 'none'}"]
        lines += self.notes
        changed = [f for f in self.findings if f.recorded and f.today and f.recorded.token_id != f.today.token_id]
        if changed:
            first = changed[0]
            assert first.recorded
            lines.append(
                f"{len(changed)} tokens differ, the first in row {first.row} (position {first.recorded.position}): "
                f"{first.kind.value}"
            )
        # Only rows with the same request are looked at, since others may belong to another text.
        drifts = [f.drift for f in self.findings if f.drift > 0 and f.kind not in (Kind.REQUEST, Kind.FOLLOWS)]
        if drifts:
            lines.append(f"largest drift of the logits: {_short(max(drifts))}")
        for kind in GRAVEST_FIRST:
            found = self.of(kind)
            lines += [str(finding) for finding in found[:shown]]
            if len(found) > shown:
                lines.append(f"... and {len(found) - shown} more: {kind.value}")
        return "\n".join(lines)


@usual_mode
def diff(
    recorded: Golden,
    today: Golden,
    recorded_logits: np.ndarray | None = None,
    today_logits: np.ndarray | None = None,
) -> Report:
    """Compare two records, row by row.

    Parameters
    ----------
    recorded, today : Golden
    recorded_logits, today_logits : [B, V] float32, optional
        All logits of each. With both a drift is known exactly; with those of today, at the recorded tokens.

    Returns
    -------
    Report

    Examples
    --------
    >>> from detsample.golden import record
    >>> x = np.random.default_rng(0).standard_normal((2, 50), dtype=np.float32)
    >>> print(diff(record(x, np.array([7, 8])), record(x, np.array([7, 9]))).text())
    2 rows: 1 same, 1 request changed
    1 tokens differ, the first in row 1 (position 0): request changed
    row 1, position 0: request changed: topp_seed was 8, is 9
    """
    findings: list[Finding] = []
    texts_part = False
    for index in range(max(len(recorded.rows), len(today.rows))):
        old = recorded.rows[index] if index < len(recorded.rows) else None
        new = today.rows[index] if index < len(today.rows) else None
        finding = _missing(index, old, new, texts_part and recorded.sequence)
        if old is not None and new is not None:
            before = None if recorded_logits is None or recorded.vocab != today.vocab else recorded_logits[index]
            drift, exact = _drift(old, new, before, None if today_logits is None else today_logits[index])
            orders = recorded.filter_order, today.filter_order
            finding = _judge(index, old, new, orders, drift, exact, texts_part and recorded.sequence)
            texts_part = texts_part or old.token_id != new.token_id
        findings.append(finding)
    return Report(tuple(findings), tuple(_notes(recorded, today)))


def _notes(recorded: Golden, today: Golden) -> list[str]:
    """What differs between the records as a whole."""
    pairs = (
        ("contract", recorded.contract_version, today.contract_version),
        ("vocabulary", recorded.vocab, today.vocab),
        ("type of the logits", recorded.dtype, today.dtype),
    )
    return [f"{name} was {old}, is {new}" for name, old, new in pairs if old != new]


def _missing(index: int, old: Row | None, new: Row | None, follows: bool) -> Finding:
    what = "not recorded" if old is None else "missing today"
    return Finding(index, Kind.FOLLOWS if follows else Kind.REQUEST, old, new, math.nan, False, (what,))


def _judge(
    index: int, old: Row, new: Row, orders: tuple[str, str], drift: float, exact: bool, follows: bool
) -> Finding:
    same_logits = old.fingerprint == new.fingerprint
    results = _differences(old, new)
    changed = [f"{name} was {_shown(a)}, is {_shown(b)}" for name, a, b in _requests(old, new)]
    changed += [f"filter_order was {orders[0]}, is {orders[1]}"] * (orders[0] != orders[1])
    changed += ["allowed or processing is not that of the record"] * (old.applied not in (0, new.applied))
    token = f"token was {old.token_id}, is {new.token_id}" if old.token_id != new.token_id else ""
    moved = _drift_text(drift, exact, old.margin)
    if changed:
        kind, details = Kind.REQUEST, changed
    elif same_logits:
        kind = Kind.SAMPLER if results else Kind.SAME
        details = [*results, f"the same logits ({old.fingerprint[:8]}) and the same request"]
    elif follows:
        kind, details = Kind.FOLLOWS, [token or "the same token", "an earlier token of this text differs"]
    elif not token:
        kind, details = Kind.DRIFTED, ["the same token", moved]
    elif exact and drift <= old.margin:
        kind, details = Kind.TOO_SMALL, [token, moved, "that cannot change the token"]
    elif drift > old.margin:
        kind, details = Kind.EXPLAINED, [token, moved]
    else:
        kind, details = Kind.UNDECIDED, [token, moved]
    return Finding(index, kind, old, new, drift, exact, tuple(details))


def _requests(old: Row, new: Row) -> list[tuple[str, float, float]]:
    """Which parameters differ, in their bits."""
    one, other = request([old]), request([new])
    return [
        (name, getattr(old, name), getattr(new, name))
        for name in REQUEST
        if one[name].tobytes() != other[name].tobytes()
    ]


def _differences(old: Row, new: Row) -> list[str]:
    """Which results differ, in words."""
    return [f"{name} was {a}, is {b}" for name, a, b in unequal_results(old, new)]


def unequal_results(one: Row, other: Row) -> list[tuple[str, str, str]]:
    """Which results of two rows differ, in their bits: the name, and what each says."""
    found = []
    for name, title in (("token_id", "token"), ("num_kept", "num_kept"), ("status", "status")):
        a, b = getattr(one, name), getattr(other, name)
        if a != b:
            words = f" ({describe(a) or 'valid'} / {describe(b) or 'valid'})" if name == "status" else ""
            found.append((title, str(a), f"{b}{words}"))
    for name in ("logprob", "margin"):
        a, b = np.float32(getattr(one, name)), np.float32(getattr(other, name))
        if a.tobytes() != b.tobytes() and not (np.isnan(a) and np.isnan(b)):
            found.append((name, _shown(a), _shown(b)))
    return found


def _drift(old: Row, new: Row, old_x: np.ndarray | None, new_x: np.ndarray | None) -> tuple[float, bool]:
    """The drift in the max norm, and whether it is of all logits."""
    if old.fingerprint == new.fingerprint:
        return 0.0, True
    if old_x is not None and new_x is not None:
        return _distance(old_x, new_x), True
    known = dict(new.largest) if new_x is None else dict(enumerate(new_x.tolist()))
    pairs = [(logit, known[token]) for token, logit in old.largest if token in known]
    if not pairs:
        return math.nan, False
    one, other = np.array(pairs, np.float32).T
    return _distance(one, other), False


def _distance(one: np.ndarray, other: np.ndarray) -> float:
    """The largest difference; infinite where one is -inf or NaN and the other is not."""
    differ = one.view(np.uint32) != other.view(np.uint32)
    if not differ.any():
        return 0.0
    with np.errstate(invalid="ignore"):
        gap = np.abs(one[differ].astype(np.float64) - other[differ].astype(np.float64)).max()
    return math.inf if math.isnan(gap) else float(gap)


def _drift_text(drift: float, exact: bool, margin: float) -> str:
    if math.isnan(drift):
        return f"the logits differ, by how much is not known; the margin is {_short(margin)}"
    least = "" if exact else "at least "
    word = "not less than" if drift == margin else "less than" if drift < margin else "more than"
    if not exact and drift <= margin:
        return f"the logits moved by {least}{_short(drift)}; the margin is {_short(margin)}"
    return f"the logits moved by {least}{_short(drift)}, {word} the margin {_short(margin)}"


def _short(value: float) -> str:
    return f"{value:.4g}"


def _shown(value: float) -> str:
    return str(value) if isinstance(value, int) else str(shortest(value))
