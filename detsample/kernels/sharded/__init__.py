"""Rows whose vocabulary is cut into shards: what each rank tells the others, and what follows from what all have
told."""
