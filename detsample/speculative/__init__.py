"""Speculative decoding: drafted tokens verified so that the output is what plain decoding gives, token for token.

`verify` serves chains, `verify_tree` trees, `draft` draws drafts with the noise that verification will use.
docs/speculative.md says what is accepted and why; `detsample.reference.verify` says it in NumPy.
"""

from detsample.speculative.drafting import draft
from detsample.speculative.output import DraftOutput, TreeOutput, VerifyOutput
from detsample.speculative.status import RequestStatus
from detsample.speculative.verification import verify, verify_tree

__all__ = [
    "DraftOutput",
    "RequestStatus",
    "TreeOutput",
    "VerifyOutput",
    "draft",
    "verify",
    "verify_tree",
]
