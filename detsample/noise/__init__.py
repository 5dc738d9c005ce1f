"""`gumbel_noise`, which returns the noise of draws, and `fold_in`, which makes seeds from seeds. `arguments` checks
what is passed; `on_gpu` serves the calls with kernels, `on_cpu` with the reference.
"""
