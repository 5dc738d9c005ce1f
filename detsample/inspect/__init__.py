"""A draw looked at closely: `margin`, how far its logits may move, and `explanation`, what made it what it is.

Margins are found `on_gpu` by a kernel, `on_cpu` by the reference.
"""
