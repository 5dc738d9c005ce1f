"""detsample: a deterministic sampler for language models.

The same logits, parameters, seed and position give the same token, bit for bit, whatever the batch, the GPU,
the framework or the machine. `sample` draws tokens, `mask` returns the kept sets without a draw, and `margin` says how
far the logits may move without changing a token. `gumbel_noise` returns the noise that draws use, and `fold_in` makes
seeds from seeds. `speculative` verifies drafted tokens. `plan` checks the arguments of `sample` once for many calls,
and `warmup` compiles what later calls launch. docs/contract/spec.md is the contract, `detsample.reference` its
executable form in NumPy.
"""

from pathlib import Path
from typing import TYPE_CHECKING

# In a checkout `reference` lies beside this folder, in an installed package within it: both import as they are.
if not (Path(__file__).parent / "reference").is_dir():
    __path__.append(str(Path(__file__).parent.parent))

from detsample.lazy import attributes

if TYPE_CHECKING:
    from detsample import golden, processing, reference, rollout, sharded, speculative
    from detsample.inspect.margin import MarginOutput, margin
    from detsample.noise.streams import fold_in, gumbel_noise
    from detsample.sampler.output import Csr, MaskOutput, SampleOutput
    from detsample.sampler.plan import Plan, plan
    from detsample.sampler.sample import mask, sample
    from detsample.sampler.status import Status
    from detsample.sampler.warmup import warmup

__version__ = "0.1.0"
CONTRACT_VERSION = 2

# Imported when first asked for: pytest's plugin, or a program that only asks for the version, waits for none of them.
__getattr__, __dir__ = attributes(
    __name__,
    {
        "Csr": "detsample.sampler.output",
        "MarginOutput": "detsample.inspect.margin",
        "MaskOutput": "detsample.sampler.output",
        "Plan": "detsample.sampler.plan",
        "SampleOutput": "detsample.sampler.output",
        "Status": "detsample.sampler.status",
        "fold_in": "detsample.noise.streams",
        "golden": "detsample.golden",
        "gumbel_noise": "detsample.noise.streams",
        "margin": "detsample.inspect.margin",
        "mask": "detsample.sampler.sample",
        "plan": "detsample.sampler.plan",
        "processing": "detsample.processing",
        "reference": "detsample.reference",
        "rollout": "detsample.rollout",
        "sample": "detsample.sampler.sample",
        "sharded": "detsample.sharded",
        "speculative": "detsample.speculative",
        "warmup": "detsample.sampler.warmup",
    },
)

__all__ = [
    "CONTRACT_VERSION",
    "Csr",
    "MarginOutput",
    "MaskOutput",
    "Plan",
    "SampleOutput",
    "Status",
    "__version__",
    "fold_in",
    "golden",
    "gumbel_noise",
    "margin",
    "mask",
    "plan",
    "processing",
    "reference",
    "rollout",
    "sample",
    "sharded",
    "speculative",
    "warmup",
]
