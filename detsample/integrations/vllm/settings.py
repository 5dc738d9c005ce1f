"""Settings from the environment: which requests detsample draws, and the seeds of a request's samples."""

from __future__ import annotations

import os
from typing import NamedTuple

DRAWN = "DETSAMPLE_VLLM"
SAMPLES = "DETSAMPLE_VLLM_SAMPLES"
CHOICES = {DRAWN: ("seeded", "all", "off"), SAMPLES: ("add", "fold_in")}


class Settings(NamedTuple):
    """The two settings, each one of `CHOICES`."""

    drawn: str
    samples: str


def read() -> Settings:
    """Read the settings; what is not set has the first of its values.

    Raises
    ------
    ValueError
        For a value that is none of those known.

    Examples
    --------
    >>> read()
    Settings(drawn='seeded', samples='add')
    """
    values = {name: os.environ.get(name, known[0]) for name, known in CHOICES.items()}
    for name, value in values.items():
        if value not in CHOICES[name]:
            raise ValueError(f"{name} must be one of {', '.join(CHOICES[name])}, got {value!r}")
    return Settings(*values.values())
