"""`gumbel_noise` and `fold_in`, the streams of noise on their own.

`streams` checks what the calls are given; they are served `on_gpu` by kernels, `on_cpu` by the reference.
"""
