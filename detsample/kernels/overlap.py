"""Launches that overlap: the programs of a kernel start while those of the one before end, and wait for its results.

This is CUDA's programmatic dependent launch (PTX ISA, `griddepcontrol`; compute capability 9.0 and later; Triton from
3.5 on). A kernel reads and writes memory only behind `wait_for_earlier`, which returns when all of the kernel before is
done and its stores are to be seen: what is saved is the time in which programs are started and their code is fetched.
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
def wait_for_earlier(OVERLAP: tl.constexpr):
    """Before the first access to memory: lets the next kernel's programs start, and waits for the kernel before."""
    if OVERLAP:
        gdc_launch_dependents()
        gdc_wait()
