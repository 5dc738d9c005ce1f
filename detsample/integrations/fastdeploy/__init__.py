"""FastDeploy: the functions that its samplers call, with the same names, shapes and dtypes.

The functions take Paddle tensors and need Paddle alone; `install` routes FastDeploy's names to them. See
docs/fastdeploy.md.
"""

from detsample.integrations.missing import missing

try:
    import paddle  # noqa: F401
except ImportError as error:
    raise missing("detsample.integrations.fastdeploy", "paddle", "paddle") from error

from detsample.integrations.fastdeploy.masking import apply_top_k_top_p_triton
from detsample.integrations.fastdeploy.probabilities import (
    _compute_sampling_mask,
    _random_sample,
    min_p_sampling,
    top_k_top_p_sampling,
)
from detsample.integrations.fastdeploy.routing import KNOWN, hold_seeds, install, uninstall
from detsample.integrations.fastdeploy.speculative import build_sampling_params
from detsample.integrations.probability import log_probabilities

__all__ = [
    "KNOWN",
    "_compute_sampling_mask",
    "_random_sample",
    "apply_top_k_top_p_triton",
    "build_sampling_params",
    "hold_seeds",
    "install",
    "log_probabilities",
    "min_p_sampling",
    "top_k_top_p_sampling",
    "uninstall",
]
