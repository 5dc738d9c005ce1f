"""Measures times of the sampler on this GPU, and compares them with the time of reading the logits once (the floor) and
with other samplers. `floor` has the kernel that only reads, `timing` says how times are measured, `cases` has the
settings that are timed, `peers` has the other samplers, and `report` makes the tables. Needs torch, whose CUDA graphs
take the host's time out of the numbers.
"""
