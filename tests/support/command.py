"""Commands of `detsample`, run in this process; conftest.py makes the fixture `run` of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Run = Callable[..., tuple[int, str, str]]
"""Called with a command's words: its exit status, stdout and stderr."""


def runner(capsys: pytest.CaptureFixture[str]) -> Run:
    """What runs commands of which pytest captures the output."""
    from detsample import cli

    def run(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = cli.main([str(word) for word in words])
        return status, *capsys.readouterr()

    return run
