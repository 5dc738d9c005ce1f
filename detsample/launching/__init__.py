"""How kernels are launched: launches that are known already, the memory that kernels share, and compiling ahead.

`launch` starts kernels without what Triton does to find out that it knows them, in the words of each version
(`launchers`). `workspace` is the memory that the kernels of a call share. `compile_worker` is a process that compiles
kernels ahead, under keys that do not depend on what was compiled before (`cache_keys`).
"""
