"""`gumbel_noise`, which returns the noise of draws, and `fold_in`, which makes seeds from seeds. `streams` checks the
arguments; `on_gpu` serves the calls with kernels, `on_cpu` with the reference.
"""
