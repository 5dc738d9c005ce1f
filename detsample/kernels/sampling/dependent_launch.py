"""Launches that overlap: the programs of a kernel start while those of the kernel before are ending, and wait for its
results.

This is CUDA's programmatic dependent launch (`griddepcontrol` in the PTX ISA; compute capability 9.0 and later; Triton
from 3.5 on). A kernel reads and writes memory only behind `wait_for_earlier`, which returns when the kernel before has
ended and its stores can be seen. What this saves is the time in which programs are started and their code is fetched.
"""

import inspect

import triton
import triton.language as tl

try:
    from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait
except ImportError:  # an older Triton, where OVERLAP is never set
    gdc_launch_dependents = gdc_wait = None

# Triton 3.4 has both, and its compiler cannot call them: its other functions take `_semantic`, these `_builder`.
SUPPORTED = gdc_wait is not None and "_semantic" in inspect.signature(gdc_wait).parameters
LEAST_CAPABILITY = 90


def can_overlap(capability: int) -> bool:
    """Whether launches may overlap on a GPU of this compute capability, 90 for 9.0, with this Triton."""
    return SUPPORTED and capability >= LEAST_CAPABILITY


@triton.jit
def wait_for_earlier(OVERLAP: tl.constexpr):
    """Must come before a kernel's first access to memory. It lets the programs of the next kernel start, and waits
    until the kernel before has ended.
    """
    if OVERLAP:
        gdc_launch_dependents()
        gdc_wait()
