"""Times of the sampler on this GPU, beside the floor of reading the logits once and beside peers.

`floor` holds the kernel that reads, `timing` how time is taken, `cases` what is timed, `peers` who else, `report` all
of it in one table. Needs torch, whose CUDA graphs take the host's time out of the numbers.
"""
