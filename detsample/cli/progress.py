"""Shows on stderr how far a long command has come: one line that is rewritten, or a new line now and then if stderr is
a file.
"""

from __future__ import annotations

import sys
import time

QUIET_SECONDS = 2.0
TERMINAL_SECONDS = 0.2
FILE_SECONDS = 30.0


class Progress:
    """Progress of a command. Nothing is shown in the first two seconds, since shorter commands need no progress.

    Parameters
    ----------
    what : str
        What is counted, like ``"rows"``.
    total : int
        How many there are.
    """

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total = what, total
        self._started = time.monotonic()
        self._next = self._started + QUIET_SECONDS
        self._shown = ""

    def at(self, done: int) -> None:
        """Say how many are done."""
        now = time.monotonic()
        if now < self._next or done >= self._total:
            return
        seconds = now - self._started
        left = f", about {seconds / done * (self._total - done):.0f} s left" if done else ""
        text = f"{done:,} of {self._total:,} {self._what}, {seconds:.0f} s{left}"
        if sys.stderr.isatty():
            sys.stderr.write("\r" + text.ljust(len(self._shown)))
            self._shown, self._next = text, now + TERMINAL_SECONDS
        else:
            sys.stderr.write(text + "\n")
            self._next = now + FILE_SECONDS
        sys.stderr.flush()

    def clear(self) -> None:
        """Take the line away, before something else is printed."""
        if self._shown:
            sys.stderr.write("\r" + " " * len(self._shown) + "\r")
            sys.stderr.flush()
            self._shown = ""
