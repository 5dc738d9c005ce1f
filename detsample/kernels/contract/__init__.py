"""Device functions that the contract defines bit by bit, one section of it in each file."""
