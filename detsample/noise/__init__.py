"""`gumbel_noise` and `fold_in`, the streams of noise on their own.

`streams` has the calls, `arguments` checks what they are given, `on_gpu` launches their kernels.
"""
