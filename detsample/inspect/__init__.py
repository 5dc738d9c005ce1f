"""Looks closely at a draw: `margin` says how far its logits may move, and `explanation` says how the token came about.

Margins are found `on_gpu` by a kernel, `on_cpu` by the reference.
"""
