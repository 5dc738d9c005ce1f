"""Makes a record, and checks one: draws again, and compares with what was drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

import detsample
import detsample.reference as reference
from detsample import frameworks
from detsample.frameworks import operations
from detsample.frameworks.recording import unrecorded
from detsample.golden.comparison import Finding, Kind, Report, diff, unequal_results
from detsample.golden.fingerprint import canonical, fingerprints
from detsample.golden.record import REQUEST, Golden, GoldenError, Row, request
from detsample.processing import Processing, apply
from detsample.processing.digest import digests
from detsample.reference.allowed import forbid, read_allowed
from detsample.rollout.record import column

LARGEST = 16
"""How many of the first tokens a row of a record shows."""

Sampler = Callable[..., Any]
"""A function with the signature of `detsample.sample`."""


@unrecorded
def record(
    logits: Any,
    topp_seed: Any,
    *,
    position: Any = 0,
    temperature: Any = 1.0,
    top_k: Any = 0,
    top_p: Any = 1.0,
    min_p: Any = 0.0,
    filter_order: str = "top_k_first",
    allowed: Any = None,
    processing: Processing | None = None,
    shared_noise: bool = False,
    sequence: bool = False,
    sampler: Sampler | None = None,
) -> Golden:
    """Draw, and record what was drawn and from which logits and parameters.

    Parameters
    ----------
    logits : [B, V] fp32, bf16 or fp16
        A Paddle tensor, a torch tensor or a NumPy array; on a GPU the kernels draw.
    topp_seed, position, temperature, top_k, top_p, min_p, filter_order, shared_noise
        As for `detsample.sample`.
    allowed : tensor like the logits, optional
        As for `detsample.sample`. The record is of the logits with -inf for what is forbidden.
    processing : Processing, optional
        What `detsample.processing.apply` is to do to the logits before the draw. The record is of the logits behind it,
        and has a digest of it and of `allowed`, so that other ones are another request to it.
    sequence : bool
        Whether the rows are the steps of one text.
    sampler : callable, optional
        What draws, in place of `detsample.sample`, whose signature it has: the sampler under test. It is given the
        logits and the parameters as they are given here; `shared_noise` only where it is true.

    Returns
    -------
    Golden
        Not written yet: `save` does that.

    Raises
    ------
    TypeError, ValueError
        As `detsample.sample`.

    Examples
    --------
    >>> rows = np.random.default_rng(0).standard_normal((2, 50), dtype=np.float32)
    >>> [row.token_id for row in record(rows, np.array([7, 8]), top_k=5).rows]
    [38, 47]
    """
    framework = frameworks.of(logits, "logits")
    dtype = framework.dtype_name(logits)
    logits = _processed(logits, processing)
    host = _free(framework.fetch(logits), allowed)
    # Where tokens are forbidden, the margin is that of the logits as they are to the draw.
    seen = logits if allowed is None else operations.of(framework.name).placed(host, logits)
    given = (topp_seed, position, temperature, top_k, top_p, min_p)
    # The arguments as they were given: `margin` refuses what `sample` refuses, whatever another sampler does with it.
    filters = {**dict(zip(REQUEST[1:], given[1:], strict=True)), "filter_order": filter_order}
    margins = detsample.margin(seen, topp_seed, **filters, shared_noise=shared_noise)
    # Passed only where it is said, so that a sampler under test need not know it.
    said: dict[str, Any] = {"shared_noise": True} if shared_noise else {}
    if allowed is not None:
        said["allowed"] = allowed
    drawn = (sampler or detsample.sample)(logits, topp_seed, **filters, **said)
    parameters = {name: column(name, x, len(host)) for name, x in zip(REQUEST, given, strict=True)}
    found = {
        "token_id": _host(drawn.token_ids),
        "num_kept": _host(drawn.num_kept),
        "status": _host(drawn.status),
        "logprob": _host(drawn.logprobs),
        "margin": _host(margins.margin),
    }
    found["applied"] = digests(len(host), host.shape[1], processing, allowed)
    table = {name: column.tolist() for name, column in (parameters | found).items()}
    prints, x = fingerprints(host), canonical(host)
    rows = tuple(
        Row(
            **{name: column[b] for name, column in table.items()},
            fingerprint=prints[b],
            largest=_largest(x[b], table["token_id"][b]),
        )
        for b in range(len(host))
    )
    where = "GPU" if framework.on_gpu(logits) else "CPU"
    made_with = {"detsample": detsample.__version__, "tensors": f"{framework.name}, {where}"}
    return Golden(detsample.CONTRACT_VERSION, host.shape[1], dtype, filter_order, sequence, rows, made_with)


@unrecorded
def check(
    golden: Golden,
    logits: Any,
    *,
    allowed: Any = None,
    processing: Processing | None = None,
    kept_logits: np.ndarray | None = None,
    sampler: Sampler | None = None,
    **changed: Any,
) -> Report:
    """Draw again from logits and compare with a record.

    Parameters
    ----------
    golden : Golden
    logits : [B, V] fp32, bf16 or fp16
        Today's logits for the rows of the record, of any framework and on any device.
    allowed, processing : optional
        Today's, where there were some.
    kept_logits : [B, V] float32, optional
        The logits of the record, from `load_logits`. With them a drift is known exactly.
    sampler : callable, optional
        See `record`.
    **changed
        Parameters of `detsample.sample` that differ from the recorded ones today: the report names them.

    Returns
    -------
    Report

    Raises
    ------
    GoldenError
        The logits have another shape than those of the record.

    Examples
    --------
    >>> rows = np.random.default_rng(0).standard_normal((2, 50), dtype=np.float32)
    >>> golden = record(rows, np.array([7, 8]), top_k=5)
    >>> check(golden, rows).exit_status, check(golden, rows, topp_seed=9).exit_status
    (0, 4)
    """
    framework = frameworks.of(logits, "logits")
    expected, got = (len(golden.rows), golden.vocab), framework.shape(logits)
    if got != expected:
        raise GoldenError(f"logits must have shape {list(expected)}, as recorded, got {list(got)}")
    known = (*REQUEST, "filter_order")
    unknown = set(changed) - set(known)
    if unknown:
        raise TypeError(f"{min(unknown)} is no parameter of a request, which has {', '.join(known)}")
    ops = operations.of(framework.name)
    recorded: dict[str, Any] = {name: ops.placed(x, logits) for name, x in request(golden.rows).items()}
    asked = {**recorded, "filter_order": golden.filter_order, **changed}
    before: dict[str, Any] = {"allowed": allowed, "processing": processing}
    today = record(logits, **asked, **before, sequence=golden.sequence, sampler=sampler)
    x = canonical(_free(framework.fetch(_processed(logits, processing)), allowed))
    return against_reference(diff(golden, today, kept_logits, x), today, x)


def against_reference(report: Report, today: Golden, x: np.ndarray) -> Report:
    """For the rows whose logits differ, check that the reference gives the sampler's results on today's logits. If it
    does not, the sampler is at fault, however far the logits drifted. If it does, the drift changed the token. The
    margin does not come from the sampler and is not computed again.
    """
    kinds = (Kind.DRIFTED, Kind.EXPLAINED, Kind.UNDECIDED, Kind.FOLLOWS)
    doubtful = [finding for finding in report.of(*kinds) if finding.today is not None]
    if not doubtful:
        return report
    chosen = [finding.row for finding in doubtful]
    right = _of_reference([today.rows[row] for row in chosen], x[chosen], today.filter_order)
    judged = {finding.row: _judged(finding, row) for finding, row in zip(doubtful, right, strict=True)}
    return replace(report, findings=tuple(judged.get(finding.row, finding) for finding in report.findings))


def _of_reference(rows: list[Row], x: np.ndarray, filter_order: str) -> list[Row]:
    """The same rows with what the reference makes of their logits."""
    drawn = reference.sample(x, **request(rows), filter_order=filter_order)
    assert drawn.logprobs is not None
    columns = (drawn.token_ids, drawn.num_kept, drawn.status, drawn.logprobs)
    found = zip(*(column.tolist() for column in columns), strict=True)
    return [
        replace(row, token_id=token, num_kept=kept, status=status, logprob=logprob)
        for row, (token, kept, status, logprob) in zip(rows, found, strict=True)
    ]


def _judged(finding: Finding, right: Row) -> Finding:
    assert finding.today is not None
    wrong = unequal_results(right, finding.today)
    if wrong:
        said = [
            f"the reference draws {theirs} from today's logits"
            if name == "token"
            else f"the reference has {name} {theirs} for today's logits, not {ours}"
            for name, theirs, ours in wrong
        ]
        return replace(finding, kind=Kind.SAMPLER, details=(*finding.details, *said))
    if finding.kind is Kind.UNDECIDED:
        details = (*finding.details, "the reference draws the same from today's logits")
        return replace(finding, kind=Kind.EXPLAINED, details=details)
    return finding


def _processed(logits: Any, processing: Processing | None) -> Any:
    return logits if processing is None else apply(logits, processing)


def _free(host: np.ndarray, allowed: Any) -> np.ndarray:
    """Logits with -inf for what is forbidden."""
    return host if allowed is None else forbid(host, read_allowed(_host(allowed), *host.shape))


def _host(tensor: Any) -> np.ndarray:
    return frameworks.of(tensor).fetch(tensor)


def _largest(x: np.ndarray, token: int) -> tuple[tuple[int, float], ...]:
    """The first tokens in order and the drawn one, with their logits."""
    most = min(LARGEST, x.size)
    near = np.flatnonzero(x >= np.partition(x, x.size - most)[x.size - most])
    first = near[np.argsort(-x[near], kind="stable")][:most].tolist()
    # A sampler under test may draw a number that is no token.
    ids = first + [token] * (0 <= token < x.size and token not in first)
    return tuple((i, float(x[i])) for i in ids if np.isfinite(x[i]))
