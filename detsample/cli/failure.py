"""The one exception that the command line turns into a line of text."""

from __future__ import annotations


class Failure(Exception):
    """A command cannot be carried out; the message is one clear line."""
