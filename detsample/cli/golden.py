"""``detsample golden``: records what is drawn from a file of logits, and later says what has changed."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from detsample import golden
from detsample.cli import gpu
from detsample.cli.failure import Failure
from detsample.cli.sample import (
    add_allowed,
    add_input,
    add_request,
    allowed_of_rows,
    check_position,
    decoded,
    filters,
    read_logits,
    seeds_of_rows,
    selected,
)
from detsample.golden.comparison import STATUSES, Kind
from detsample.golden.fingerprint import canonical

EXIT_STATUS = (
    "Exit status: 0, every token is as recorded; 1, tokens differ because the logits do (with --strict: logits "
    "differ); 2, it could not be done; 3, the sampler is at fault; 4, the requests differ."
)


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """The arguments of this command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "golden",
        help="record golden outputs, check them, and say what changed",
        description="Record the tokens drawn from a file of logits, with their log probabilities and margins, or say "
        "of later ones what has changed: the request, the sampler or the logits.",
        epilog=EXIT_STATUS,
    )
    actions = parser.add_subparsers(title="actions", dest="action", required=True, metavar="ACTION")
    _add_record(actions)
    check = actions.add_parser("check", help="draw again and compare with a golden file", epilog=EXIT_STATUS)
    check.add_argument("golden", type=Path, metavar="GOLDEN", help="the golden file")
    add_input(check)
    add_allowed(check)
    differ = actions.add_parser("diff", help="compare two golden files", epilog=EXIT_STATUS)
    differ.add_argument("golden", type=Path, metavar="OLD", help="a golden file")
    differ.add_argument("today", type=Path, metavar="NEW", help="another")
    for action in (check, differ):
        action.add_argument("--strict", action="store_true", help="logits that differ are a failure in themselves")
        action.add_argument("--shown", type=rows_shown, default=8, metavar="N", help="rows of each kind (default: 8)")
    return parser


def _add_record(actions: Any) -> None:
    parser = actions.add_parser("record", help="draw and write a golden file", epilog=EXIT_STATUS)
    add_input(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="GOLDEN", help="the golden file to write")
    parser.add_argument("--force", action="store_true", help="write GOLDEN even where it is there already")
    add_request(parser)
    add_allowed(parser)
    parser.add_argument("--sequence", action="store_true", help="the rows are the steps of one text")
    kept = "also keep the logits, beside GOLDEN: named by chat.json: chat.<digest>.logits.npz"
    parser.add_argument("--keep-logits", action="store_true", help=kept)


def run(options: argparse.Namespace) -> int:
    """Do what is asked for."""
    try:
        return {"record": _record, "check": _check, "diff": _diff}[options.action](options)
    except golden.RequestChangedError as changed:
        print(changed)
        return STATUSES[Kind.REQUEST]
    except (golden.GoldenError, OverflowError, TypeError, ValueError) as error:
        raise Failure(str(error)) from error
    except OSError as error:
        raise Failure(f"{error.filename}: {error.strerror or error}") from error


def _logits(options: argparse.Namespace) -> tuple[np.ndarray, Any, Any, np.ndarray, int]:
    """The chosen rows on the host and where they are to be drawn, their sets there, their numbers, and how many rows
    the file has.
    """
    whole = read_logits(options.file, options.array, options.bf16)
    rows = np.arange(*selected(options.rows, len(whole)))
    host = decoded(whole[rows[0] : rows[-1] + 1] if rows.size else whole[:0], options.bf16)
    tensor, sets = gpu.mover(options), allowed_of_rows(options, len(whole))
    there = tensor(host, "bfloat16" if options.bf16 else None)
    return host, there, None if sets is None else tensor(sets[rows]), rows, len(whole)


def _record(options: argparse.Namespace) -> int:
    if options.out.exists() and not options.force:
        raise Failure(f"{options.out} is there already: --force writes it anew")
    host, logits, allowed, rows, count = _logits(options)
    check_position(options, count)
    tensor = gpu.mover(options)
    made = golden.record(
        logits,
        tensor(seeds_of_rows(options, count)[rows]),
        position=tensor(options.position + rows) if options.consecutive else options.position,
        **filters(options),
        allowed=allowed,
        sequence=options.sequence,
    )
    golden.save(made, options.out, canonical(host) if options.keep_logits else None)
    invalid = sum(row.status != 0 for row in made.rows)
    print(f"{options.out}: {len(made.rows)} rows" + (f", {invalid} of them invalid" if invalid else ""))
    return 0


def rows_shown(text: str) -> int:
    """A number of rows."""
    if int(text) < 0:
        raise ValueError(text)
    return int(text)


def _check(options: argparse.Namespace) -> int:
    before = golden.load(options.golden)
    _, logits, allowed, _, _ = _logits(options)
    report = golden.check(before, logits, allowed=allowed, kept_logits=golden.load_logits(options.golden, before))
    return _told(report, options)


def _diff(options: argparse.Namespace) -> int:
    old, new = golden.load(options.golden), golden.load(options.today)
    kept = golden.load_logits(options.golden, old), golden.load_logits(options.today, new)
    return _told(golden.diff(old, new, *kept), options)


def _told(report: golden.Report, options: argparse.Namespace) -> int:
    print(report.text(options.shown))
    return report.status(options.strict)
