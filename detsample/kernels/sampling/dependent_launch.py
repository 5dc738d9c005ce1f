"""Launches that overlap: the programs of a kernel start while those of the kernel before are ending, and wait for its
results.

This is CUDA's programmatic dependent launch (`griddepcontrol` in the PTX ISA; compute capability 9.0 and later; Triton
from 3.5 on). A kernel reads and writes memory only behind `wait_for_earlier`, which returns when the kernel before has
ended and its stores can be seen. What this saves is the time in which programs are started and their code is fetched.
"""

import triton
import triton.language as tl

try:
    from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait
except ImportError:  # an older Triton, where OVERLAP is never set
    gdc_launch_dependents = gdc_wait = None

SUPPORTED = gdc_wait is not None
LEAST_CAPABILITY = 90


@triton.jit
def wait_for_earlier(OVERLAP: tl.constexpr, ACCOMPANIED: tl.constexpr = False):
    """Must come before a kernel's first access to memory. It waits until the kernel before has ended, and lets the
    programs of the next kernel start. If the next kernel runs beside this one, it may start only after the wait.
    """
    if OVERLAP:
        if ACCOMPANIED:
            gdc_wait()
            gdc_launch_dependents()
        else:
            gdc_launch_dependents()
            gdc_wait()


@triton.jit
def end_after_earlier(OVERLAP: tl.constexpr):
    """Must come last in a kernel that runs beside the one before, which is ACCOMPANIED. Later kernels wait for this one
    alone, so it waits for the other.
    """
    if OVERLAP:
        gdc_launch_dependents()
        gdc_wait()
