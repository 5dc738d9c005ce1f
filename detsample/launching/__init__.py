"""How kernels are launched, where the memory is that they share, and how they are compiled beforehand.

`launch` starts kernels that were launched before without Triton's search for the compiled kernel; `launchers` knows how
each version of Triton starts them. `workspace` is the memory that the kernels of a call share. `compile_worker` is a
process that compiles kernels beforehand. `cache_keys` makes their keys in Triton's cache independent of what was
compiled before.
"""
