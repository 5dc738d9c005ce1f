"""A draw looked at closely: `margin`, how far its logits may move, and `explanation`, what made it what it is."""
