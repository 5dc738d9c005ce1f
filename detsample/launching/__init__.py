"""How kernels are launched: memory as arguments, launches that are known already, and compiling ahead.

`buffer` and `pointer` are what a kernel is given in place of a tensor, `arguments` a call's parameters, `workspace` the
memory that kernels share. `paddle_driver` lets Triton launch on Paddle's device and stream. `launch` starts kernels
without what Triton does to find out that it knows them, in the words of each version (`launchers`). `warming` compiles
ahead, in processes of `compile_worker`.
"""
