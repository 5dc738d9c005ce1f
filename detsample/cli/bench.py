"""``detsample bench``: measures how fast the sampler is on this GPU, after checking that its bits are right."""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any

from detsample.cli import gpu
from detsample.cli.failure import Failure
from detsample.cli.tables import line
from detsample.cli.versions import versions


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """The arguments of this command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "bench",
        help="time the sampler on this machine's GPU",
        description="Compare the kernels with the reference bit for bit on the inputs to be timed; then time them, by "
        "CUDA-graph replays over inputs larger than the cache, beside a kernel that reads the logits once, and beside "
        "other samplers that are installed. Needs torch with a GPU. Where bits differ no time is reported.",
    )
    parser.add_argument("--batches", default="1,8,64,128,256", help="batch sizes (default: %(default)s)")
    parser.add_argument("--full", action="store_true", help="also other rows, masks, bf16, growth and other samplers")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the tables there, one number a line")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the growth over B and V there (with --full)")
    return parser


def run(options: argparse.Namespace) -> int:
    """Check the bits, measure times and print them; return 1 if bits differ."""
    try:
        batches = [int(word) for word in options.batches.split(",")]
    except ValueError:
        raise Failure(f"--batches must be integers between commas, got {options.batches!r}") from None
    if min(batches) < 1:
        raise Failure(f"--batches must be at least 1, got {options.batches!r}")
    if options.plot and not options.full:
        raise Failure("--plot draws what --full measures: give both")
    try:
        gpu.torch()
    except ImportError:
        raise Failure("bench needs torch and a GPU that it reaches") from None
    from detsample.bench import report

    wrong = report.differences()
    if wrong:
        print(f"{wrong} outputs differ in bits from the reference: nothing is timed")
        return 1
    found: dict[str, Any] = {"machine": versions(), "bits": "equal"}
    for title, measure in report.tables(batches, options.full).items():
        found[title] = measure()
        if options.json:  # after each table: a run that is stopped leaves those before
            options.json.write_text(json.dumps(found, indent=1) + "\n")
    if options.csv:
        write_csv(options.csv, found)
    if options.plot:
        from detsample.cli.picture import growth

        growth(found["microseconds, growth, k=50 p=.95 min_p=.05"], options.plot)
    show(found)
    return 0


def show(found: dict[str, Any]) -> None:
    """Print the tables; times with their ratio to the floor and the rate of reading."""
    for name, version in found["machine"].items():
        print(line([name, version], [-16, -40]))
    print("bits equal to the reference's\n\nmicroseconds, times the floor, GB/s of logits\n")
    for title, table in found.items():
        if not title.startswith("microseconds"):
            continue
        print(title)
        if "growth" in title:
            for name, inner in table.items():
                print(f" {name}")
                show_table(inner)
        else:
            show_table(table)
    host = found["host microseconds, B = 1"]
    print(line(["host, B = 1", *(f"{name} {time:.0f}" for name, time in host.items())], [-16, *[16] * len(host)]))


def show_table(table: dict[str, dict[str, float]]) -> None:
    """One table: microseconds and, where these are known, how many times the floor and what rate of reading."""
    times = {name: cells for name, cells in table.items() if name != "bytes"}
    columns = list(next(iter(times.values())))
    print(line(["", *columns], [-40, *[22] * len(columns)]))
    for name, cells in times.items():
        shown = [
            cell(cells[c], table.get("floor", {}).get(c), table.get("bytes", {}).get(c)) if c in cells else ""
            for c in columns
        ]  # fmt: skip
        print(line(["  " + name, *shown], [-40, *[22] * len(shown)]))
    print()


def cell(time: float, floor: float | None, size: float | None) -> str:
    """One cell: microseconds, how many times the floor that is, and GB/s of logits."""
    ratio = f"{time / floor:5.2f}x" if floor else ""
    return f"{time:8.1f} {ratio} " + (f"{size / time / 1e3:5.0f}" if size else "")


def write_csv(path: Path, found: dict[str, Any]) -> None:
    """Write a CSV file with one line for each number: table, row, column, microseconds."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["table", "row", "column", "microseconds"])
        for title, table in found.items():
            if title.startswith("microseconds"):
                tables = table.items() if "growth" in title else [("", table)]
                for part, inner in tables:
                    for name, times in inner.items():
                        if name != "bytes":
                            at = f"{title} {part}".strip()
                            writer.writerows([at, name, column, f"{value:.2f}"] for column, value in times.items())
