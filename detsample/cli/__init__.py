"""The command ``detsample``: sample from a file of logits, explain a draw, record and check golden outputs, check
or time this machine, or see a real model sampled.

The exit status is like that of grep: 0 if all is well, 1 if the command ran and something is wrong (an invalid row, a
mismatch), and 2 if it could not run. ``detsample golden`` has more exit statuses.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from typing import TextIO

import detsample
from detsample.cli import bench, demo, explain, golden, sample, selftest
from detsample.cli.failure import Failure

EXIT_STATUS = "Exit status: 0, all is well; 1, an invalid row or a mismatch; 2, it could not be done."


def parser() -> argparse.ArgumentParser:
    """The arguments of all commands."""
    top = argparse.ArgumentParser(
        prog="detsample",
        description="Deterministic sampling: a token depends on its logits, its parameters, its seed and its "
        "position, on nothing else.",
        epilog=EXIT_STATUS,
    )
    version = f"detsample {detsample.__version__}, contract {detsample.CONTRACT_VERSION}"
    top.add_argument("--version", action="version", version=version)
    commands = top.add_subparsers(title="commands", dest="command", required=True, metavar="COMMAND")
    for command in (sample, explain, golden, selftest, bench, demo):
        command.add_parser(commands).set_defaults(run=command.run)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments; those of this process by default.

    Returns
    -------
    int
        The exit status. Wrong usage raises ``SystemExit(2)``, as argparse does.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    options = parser().parse_args(arguments)
    options.argv = arguments
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # not every terminal can show a vocabulary
    try:
        status = int(options.run(options))
        sys.stdout.flush()  # flushed here, where a closed pipe is handled
        return status
    except Failure as failure:
        return _failed(options, str(failure))
    except BrokenPipeError:  # `detsample ... | head`: the reader has read enough
        _silence(sys.stdout)
        return 0
    except OSError as error:  # Errors of files that a command reads name the file. This one is of its output.
        _silence(sys.stdout)
        return _failed(options, f"{error.filename or 'standard output'}: {error.strerror or error}")
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130


def _failed(options: argparse.Namespace, why: str) -> int:
    print(f"detsample {options.command}: error: {why}", file=sys.stderr)
    return 2


def _silence(stream: TextIO) -> None:
    """Throw away what a stream still holds. Otherwise Python would write it at its end, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
