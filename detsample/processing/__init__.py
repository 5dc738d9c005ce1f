"""What requests ask to be done to logits before a draw: biases, bans, minimum lengths, bad words and penalties.

`apply` does it on the logits' own device, for rows behind drafted tokens, too. docs/processing.md says in which order
and by which operations, for each engine whose convention can be named; `detsample.reference.processing` says it in
NumPy.
"""

from detsample.processing.apply import apply
from detsample.processing.arguments import CONVENTIONS, Processing

__all__ = ["CONVENTIONS", "Processing", "apply"]
