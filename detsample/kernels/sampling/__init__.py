"""The kernels of a draw, one pass in each file, and what they share (see `detsample.kernels`)."""
