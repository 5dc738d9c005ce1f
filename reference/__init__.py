"""The executable specification of detsample: ``docs/contract/spec.md`` in NumPy, one idea a file.

It shares no code with the kernels, which are tested against it bit by bit, and imports nothing but NumPy and
the standard library. ``sample`` and ``mask`` are the operations; the other modules are their parts.

Examples
--------
>>> sample(np.zeros((2, 5), np.float32), topp_seed=1, position=3).token_ids.shape
(2,)
"""

import numpy as np  # noqa: F401  (for the examples)

from . import sharded
from .gumbel import gumbel_noise
from .margin import MarginOutput, margin
from .mask import Csr
from .observation import Observation, observe
from .sampling import MaskOutput, SampleOutput, mask, sample
from .seeds import fold_in
from .speculative import TreeOutput, VerifyOutput, verify, verify_tree
from .speculative_rows import RequestStatus
from .status import Status

CONTRACT_VERSION = 2
"""Which version of the sampling contract this is."""

__all__ = [
    "CONTRACT_VERSION",
    "Csr",
    "MarginOutput",
    "MaskOutput",
    "Observation",
    "RequestStatus",
    "SampleOutput",
    "Status",
    "TreeOutput",
    "VerifyOutput",
    "fold_in",
    "gumbel_noise",
    "margin",
    "mask",
    "observe",
    "sample",
    "sharded",
    "verify",
    "verify_tree",
]
