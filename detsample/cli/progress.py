"""How far a long command has come, on stderr: one line that is rewritten, or now and then a new one if it is a file."""

from __future__ import annotations

import sys
import time

QUIET_SECONDS, TERMINAL_SECONDS, FILE_SECONDS = 2.0, 0.2, 30.0


class Progress:
    """Counts up to `total` of what is named. Shorter commands need no progress: nothing is shown in two seconds."""

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total = what, total
        self._started = time.monotonic()
        self._next, self._width = self._started + QUIET_SECONDS, 0

    def at(self, done: int) -> None:
        """Say how many are done."""
        now = time.monotonic()
        if now < self._next or done >= self._total:
            return
        seconds, terminal = now - self._started, sys.stderr.isatty()
        left = f", about {seconds / done * (self._total - done):.0f} s left" if done else ""
        text = f"{done:,} of {self._total:,} {self._what}, {seconds:.0f} s{left}"
        sys.stderr.write(f"\r{text:<{self._width}}" if terminal else f"{text}\n")
        sys.stderr.flush()
        self._width = len(text) if terminal else 0
        self._next = now + (TERMINAL_SECONDS if terminal else FILE_SECONDS)

    def clear(self) -> None:
        """Take the line away, before something else is printed."""
        if self._width:
            print("\r" + " " * self._width, end="\r", file=sys.stderr, flush=True)
            self._width = 0
