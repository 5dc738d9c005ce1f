"""Golden-output tests: a record of what a sampler drew, and later a verdict on what has changed.

`record` writes down tokens and what they were drawn from, `check` draws again and compares, `diff` compares two
records. A token that differs is put down to the request, the sampler or the logits: docs/golden.md.
"""

from detsample.golden.comparison import Finding, Kind, Report, diff
from detsample.golden.fingerprint import fingerprints
from detsample.golden.record import Golden, GoldenError, RequestChangedError, Row, load, load_logits, save
from detsample.golden.recording import check, record

__all__ = [
    "Finding",
    "Golden",
    "GoldenError",
    "Kind",
    "Report",
    "RequestChangedError",
    "Row",
    "check",
    "diff",
    "fingerprints",
    "load",
    "load_logits",
    "record",
    "save",
]
